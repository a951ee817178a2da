"""A matrix in the text projection that tells which thing has which attribute: LABCLIP as a recipe."""

from __future__ import annotations

import copy
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.adaptation.recipes.given import EmbeddedRows, Given
from tether.adaptation.recipes.recipe import FitRecipe
from tether.adaptation.recipes.refusals import check_cosine_model, refused
from tether.adaptation.recipes.tuning import Outcome
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, checked
from tether.data.labelled import label_of
from tether.methods.labclip.binding import BATCH, LEARNING_RATE, STEPS, LinearBindingMap
from tether.methods.labclip.binding_fold import PLACES, fold_text_map_
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts

TRIES = 16
"""Other images that are looked at for a caption that differs."""
_SAME = 1e-5  # rows closer than this, relative to their length, are one caption

Matched = tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], Float[Tensor, "n d"]]


class BindingRecipe(FitRecipe):
    """One matrix on the text side, learnt from captions and their twins, then part of the text projection.

    A twin is the caption with the attributes of two things exchanged; it stands in a column of the data, and the report
    then says how often an image is nearer to its caption than to its twin. Rows without a twin, or with one that reads
    like the caption, are left out. Without such a column another image's caption takes its place; in our check of the
    paper that bound as well. The first caption of each image counts. Images rest, so their stored embeddings stay
    valid. The validation part, which says when to stop, shares no image with the training part, but it has the same
    combinations: measure on others (``--test``) where that matters.

    **One thing alone is named worse** afterwards, by more than 5 points in that check; look at what the report says of
    the data to keep. Where the cosine binds already nothing is gained.

    Source: arXiv 2502.03566, see ``LinearBindingMap``.
    """

    takes = "pairs"
    gives = "model"
    aims = ("twins",)
    cost = 4.0
    validates = True

    @checked
    def __init__(
        self,
        *,
        twins: str | None = None,
        steps: Count = STEPS,
        batch_size: Count = BATCH,
        learning_rate: PositiveRate = LEARNING_RATE,
        weight_decay: NonNegative = 0.0,
    ) -> None:
        """Take the settings.

        Args:
            twins: column of the captions whose attributes are exchanged; None takes other images' captions.
            steps: at most; it stops where the validation part is served no better for a while.
            batch_size: pairs of a step.
            learning_rate: of Adam.
            weight_decay: pull toward the identity, for few rows.
        """
        self.column, self.columns = twins, {"value": twins}
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe; a map that is drawn is folded into a model that shares all but the text projection with this."""
        check_cosine_model(model)
        module = cast(nn.Module, model)
        projection = {f"{place}{end}" for place in PLACES for end in ("", ".weight", ".bias")}
        named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        apart = {id(one) for name, one in named if name in projection}
        trial = copy.deepcopy(module, {id(one): one for _, one in named if id(one) not in apart})
        drawn = torch.randn(model.dim, model.dim, generator=torch.Generator().manual_seed(0)) / model.dim
        try:
            fold_text_map_(trial, matrix=torch.eye(model.dim) + drawn)
        except InputError:
            raise refused("text projection", found=type(model).__name__) from None

    def fit(self, model: DualEncoder, given: Given) -> Outcome:
        """See FitRecipe."""
        train, kept = self._part(model, given, "train"), self._part(model, given, "validation")
        binding = LinearBindingMap(model.dim)
        found = binding.fit(
            *train,
            logit_scale=float(model.logit_scale.detach()),
            generator=torch.Generator().manual_seed(hash_int("binding", seed=given.seed) >> 1),
            validation=kept,
            lr=self.learning_rate,
            batch_size=self.batch_size,
            steps=self.steps,
            weight_decay=self.weight_decay,
        )
        tuned = copy.deepcopy(cast(nn.Module, model))
        return Outcome(model=cast(DualEncoder, binding.fold_(tuned).eval()), chosen={"steps": found.best_step})

    def _part(self, model: DualEncoder, given: Given, part: Literal["train", "validation"]) -> Matched:
        """Images, first captions and twins of a part; rows whose twin is no other caption are left out."""
        rows = given.embed(model, part=part, texts=True)
        own = rows.owner.unique()  # images with a caption
        image, text = rows.image[own], rows.text[torch.searchsorted(rows.owner, own)]
        if self.column is None:
            draws = torch.Generator().manual_seed(hash_int(f"twins {part}", seed=given.seed) >> 1)
            twin = text[_others(image, text, generator=draws)]
        else:
            some, words = self._twins(rows, own.tolist(), where=given.source.name)
            image, text, twin = image[some], text[some], encode_texts(CachedEncoder(model), words)
        good = _apart(text, twin)
        if not good.any():
            where = "in another image's caption" if self.column is None else f"in column {self.column!r}"
            raise InputError(f"recipe binding: none of {len(own)} captions of the {part} part has a twin {where}")
        return image[good], text[good], twin[good]

    def _twins(self, rows: EmbeddedRows, own: list[int], *, where: str) -> tuple[list[int], list[str]]:
        """Places among ``own`` of the rows that have a twin, and the twins."""
        assert self.column is not None
        found = [(place, label_of(rows.rows[row], self.column)) for place, row in enumerate(own)]
        known = sorted({str(name) for row in rows.rows for name in row.meta})
        if self.column not in known:
            raise InputError(
                f"recipe binding: twins: {where} has no column {self.column!r}; its columns: "
                f"{', '.join(known) or 'none'}"
            )
        kept = [(place, words) for place, words in found if words is not None and words.strip()]
        return [place for place, _ in kept], [words for _, words in kept]


def _apart(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Where two rows are not the same."""
    return (one - other).norm(dim=1) > _SAME * one.norm(dim=1)


def _others(
    image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, generator: torch.Generator
) -> Int[Tensor, " n"]:
    """For each row one with another image and another caption, drawn; the row itself where there is none."""
    order = torch.randperm(len(text), generator=generator)
    found = torch.arange(len(text))
    waiting = torch.ones(len(text), dtype=torch.bool)
    for shift in range(1, min(TRIES, len(text) - 1) + 1):
        rows = torch.empty_like(order)
        rows[order] = order.roll(shift)
        good = waiting & _apart(text, text[rows]) & _apart(image, image[rows])
        found[good] = rows[good]
        waiting &= ~good
    return found
