"""A score of quality from images alone: the image side learns which of two degraded copies is worse (QualiCLIP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, cast

import torch
from annotated_types import Ge, Le, MinLen
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.adaptation.heads.quality import QualityHead
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.moving import check_own_towers, move_
from tether.adaptation.recipes.recipe import TuneRecipe
from tether.adaptation.recipes.refusals import check_cosine_model
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, Rate, checked
from tether.core.types import Batch, Loss
from tether.methods.qualiclip import DEGRADATIONS, LADDERS, LEVELS, degrade
from tether.methods.qualiclip.loss import Pairs, quality_ranking_loss
from tether.models.texts.prompt_quality import PROMPTS, SCALE, checked_prompts, prompt_rows
from tether.training.steps.module import InsideStep, StepModule
from tether.training.tensor_batches import Batches


class QualityRecipe(TuneRecipe):
    """The image side learns that a photo made worse is further from good prompts and nearer to bad ones.

    Images are enough, good ones: they are degraded here, in five levels. From each, two crops that overlap get one
    degradation, drawn anew each time; the two crops of a level shall score alike. The text side rests. What comes of it
    is a model and a head for ``tether quality --model FOLDER --head FOLDER``. Use the model for quality alone: what it
    forgot of other things stands in the report.

    Source: QualiCLIP (arXiv 2403.11176), whose code of training is not public: rate, batch and steps are ours, and so
    are crops from images of twice the model's size, where the paper cuts them out of the images as they are.
    """

    takes = "images"
    gives = "both"
    aims = ("quality",)
    used_by = "quality"
    simpler = "the sharpness that tether quality writes beside its score"
    cost = 300.0

    @checked
    def __init__(
        self,
        *,
        prompts: Sequence[str] = PROMPTS,
        kinds: Annotated[Sequence[str], MinLen(1)] = LADDERS,
        together: Annotated[int, Ge(1), Le(7)] = 1,
        sized_for: Count = 224,
        m_cons: NonNegative = 2.5e-3,
        m_rank: NonNegative = 6.75e-2,
        pairs: Pairs = "all",
        weights: tuple[NonNegative, NonNegative, NonNegative] = (1.0, 1.0, 1.0),
        scale: Positive = SCALE,
        detail: Annotated[int, Ge(1), Le(8)] = 2,
        steps: Count = 300,
        batch_size: Count = 8,
        learning_rate: PositiveRate = 1e-5,
        weight_decay: Rate = 0.01,
    ) -> None:
        """Take the settings.

        Args:
            prompts: good and bad in turn.
            kinds: of degradation, ladders of ``DEGRADATIONS``.
            together: kinds of different groups on one image, at most.
            sized_for: see ``degrade``.
            m_cons: see ``quality_ranking_loss``, as for the three that follow.
            m_rank: margin of cosines between levels.
            pairs: of levels.
            weights: of its terms.
            scale: multiplier of cosines in the score.
            detail: crops are cut from images of so many times the model's size; smaller images are enlarged.
            steps: of the run.
            batch_size: images of a step, each encoded ten times.
            learning_rate: at the start; it falls to 0 as a cosine.
            weight_decay: of matrices.

        Raises:
            InputError: an odd number of prompts, or a kind that is unknown or no ladder.
        """
        for kind in kinds:
            if kind not in DEGRADATIONS:
                raise InputError(f"kinds: no degradation {kind!r:.100}; {closest(kind, LADDERS)}")
            if kind not in LADDERS:
                raise InputError(f"kinds: the levels of {kind} are no ladder, so no order can be learnt from them")
        self.prompts, self.kinds, self.together = checked_prompts(prompts), tuple(dict.fromkeys(kinds)), together
        self.columns = {"kinds": self.kinds}
        self.sized_for, self.scale, self.detail = sized_for, scale, detail
        self.m_cons, self.m_rank, self.weights = m_cons, m_rank, weights
        self.pairs: Pairs = pairs
        self.steps, self.batch_size = steps, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        check_cosine_model(model)
        check_own_towers(model)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        spec = model.image_spec.fixed()
        large = replace(spec, size=(spec.size[0] * self.detail, spec.size[1] * self.detail), resized=None)
        batches = given.loader(model, batch_size=self.batch_size, image_spec=large)
        return self.describe(model, batches, seed=given.seed)

    def describe(self, model: DualEncoder, batches: Batches, *, seed: int) -> Tuning:
        """The tuning on batches of images that are at least as large as the model reads them."""
        text = prompt_rows(model, self.prompts)
        move_(model, "image")
        return Tuning(
            step=QualityStep(self, text, seed=seed),
            batches=batches,
            steps=self.steps,
            optimizer={"name": "adamw", "lr": self.learning_rate},
            weight_decay=self.weight_decay,
            finish=lambda: Outcome(model=model, head=QualityHead(text, prompts=self.prompts, scale=self.scale)),
        )


class QualityStep(InsideStep):
    """The ranking loss of crops that are degraded on the spot; a ``core.protocols.Step``."""

    def __init__(self, recipe: QualityRecipe, text: Float[Tensor, "t d"], *, seed: int) -> None:
        """Args: recipe: the settings. text: rows of its prompts. seed: of all draws."""
        self.recipe, self.text, self.seed = recipe, text, seed

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
        recipe, rows = self.recipe, self.rows(module, batch, step=step, gather=gather)
        good, bad = self.text.to(rows.device).unflatten(0, (-1, 2)).unbind(1)
        return quality_ranking_loss(
            rows,
            good,
            bad,
            m_cons=recipe.m_cons,
            m_rank=recipe.m_rank,
            pairs=recipe.pairs,
            weights=recipe.weights,
        )

    def rows(
        self, module: StepModule, batch: Batch, *, step: int, gather: Gather
    ) -> Float[Tensor, "levels crops images d"]:
        """Embeddings of two crops of each image at each level."""
        model, first = cast(DualEncoder, module.model), gather.rank * len(batch.image)
        ladders = [
            self.ladder(image, size=model.image_spec.fixed().size, key=f"{step} {first + row}")
            for row, image in enumerate(batch.image.cpu())
        ]
        crops = torch.stack(ladders, dim=2)
        rows = model.encode_image(crops.flatten(0, 2).to(model.logit_scale.device)).pooled
        return rows.unflatten(0, crops.shape[:3])

    def ladder(
        self, image: UInt8[Tensor, "3 h w"], *, size: tuple[int, int], key: str
    ) -> UInt8[Tensor, "levels 2 3 H W"]:
        """Two crops of an image that overlap by half or more in each direction, at each level of one degradation."""
        generator = torch.Generator().manual_seed(hash_int(key, seed=self.seed, salt="quality") >> 1)
        kinds, angle = self._kinds(generator), 180 * float(torch.rand((), generator=generator))
        starts = [
            _two_starts(whole - side, side // 2, generator) for whole, side in zip(image.shape[1:], size, strict=True)
        ]
        crops = [image[:, top : top + size[0], left : left + size[1]] / 255 for top, left in zip(*starts, strict=True)]
        levels = []
        for level in range(1, LEVELS + 1):
            worse = [
                degrade(crop, kinds, level, generator, angle=angle, sized_for=self.recipe.sized_for) for crop in crops
            ]
            levels.append((255 * torch.stack(worse)).round().to(torch.uint8))
        return torch.stack(levels)

    def _kinds(self, generator: torch.Generator) -> list[str]:
        """One or more kinds of different groups."""
        count = int(torch.randint(1, self.recipe.together + 1, (), generator=generator))
        found: dict[str, str] = {}
        for place in torch.randperm(len(self.recipe.kinds), generator=generator).tolist():
            kind = self.recipe.kinds[place]
            found.setdefault(DEGRADATIONS[kind].group, kind)
        return list(found.values())[:count]


def _two_starts(room: int, reach: int, generator: torch.Generator) -> tuple[int, int]:
    """Where two crops begin on one axis, at most ``reach`` apart."""
    first = int(torch.randint(room + 1, (), generator=generator))
    low, high = max(0, first - reach), min(room, first + reach)
    return first, int(torch.randint(low, high + 1, (), generator=generator))
