"""The ways to score images by a text and a few examples, each measured on examples that it did not learn from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.adaptation.heads import OrderHead
from tether.adaptation.recipes import OrderRecipe, OrderRows, play
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.data.in_order import ordered
from tether.data.rated import RatedImages
from tether.evaluate.order import OrderCorrelation, order_correlation
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_images
from tether.models.features.token_rows import TokenRows
from tether.tasks.rank import fit_ridge, scores_by_text

Way = Literal["text", "ridge", "ridge_patches", "adapter", "head"]
Read = Literal["auto", "embedding", "patches"]
MOST_NUMBERS = 2**26
"""Numbers of all examples' patches up to which ``auto`` tries them: half a gigabyte, of which ridge makes copies."""
Score = Callable[[Tensor], Float[np.ndarray, " n"]]


class OrderWays:
    """The text alone, and once there are examples ridge regression and, if asked for, the ranking adapter.

    Ridge regression reads embeddings (``ridge``) or all patches (``ridge_patches``).

    Attributes:
        ways: their names, the cheapest first.
        measured: how well each orders examples, or None without.
        reader: whose rows the best one takes.
        without_patches: why patches were not tried though they might have been, or empty.
    """

    def __init__(self, model: DualEncoder, *, by: str, against: str | None) -> None:
        """Args: model: of ``tether.load``. by: the text. against: its opposite."""
        self.model, self.by, self.against = model, by, against
        self.reader: DualEncoder = CachedEncoder(model)
        self.ways: list[Way] = ["text"]
        self.measured: OrderCorrelation | None = None
        self.without_patches = ""
        self._targets: Float[np.ndarray, " n"] = np.empty(0)
        self._seen: dict[Way, Float[Tensor, "n d"]] = {}
        self._adapter: tuple[OrderRecipe, DualEncoder, OrderRows] | None = None

    def learn(
        self,
        rated: RatedImages,
        *,
        read: Read,
        recipe: OrderRecipe | None,
        folds: int,
        seed: int,
        workers: int,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        """Read the examples and measure every way on parts that are held out.

        Args:
            rated: the examples.
            read: what ridge regression reads; ``auto`` tries both where the model shows patches.
            recipe: of the adapter, or None to leave it out.
            folds: parts, each held out once.
            seed: of the parts and of training.
            workers: threads that decode.
            on_step: told each step of all trainings.

        Raises:
            InputError: an image that cannot be read, or one number for all.
            UnsupportedModelError: patches of a model that shows none.
        """
        parts = list(CachedEncoder(self.model).rows_of(rated.source, batch_size=64, workers=workers, strict=True))
        self._seen["text"] = self._seen["ridge"] = torch.cat([image for _, image in parts])
        self._targets = np.array([rated.numbers[row.key] for rows, _ in parts for row in rows])
        if len(np.unique(self._targets)) < 2:
            raise InputError(f"--examples: all {len(self._targets)} have the number {self._targets[0]}: no order")
        if read != "patches":
            self.ways.append("ridge")
        if read != "embedding":
            self._read_patches(rated, read=read, workers=workers)
        if recipe is not None:
            own = copy.deepcopy(self.model)  # a tuning lets the parameters of its model rest
            self._adapter = recipe, own, recipe.read(own, rated.source, workers=workers)
            self.ways.append("adapter")
        self._done, self._trainings, self._on_step = 0, folds + 1, on_step
        part = example_folds(self._targets, folds=folds, seed=seed)
        said = np.empty((len(part), len(self.ways)))
        for fold in range(folds):
            held, known = np.flatnonzero(part == fold), np.flatnonzero(part != fold)
            for number, way in enumerate(self.ways):
                said[held, number] = self.fit(way, known, seed=seed)(self._rows(way, held))
        self.measured = order_correlation(said, targets=self._targets)

    def fit(self, way: Way, known: Int[np.ndarray, " k"], *, seed: int) -> Score:
        """Scores by one way, learnt from some examples."""
        if way == "text":
            return lambda rows: scores_by_text(self.model, rows, by=self.by, against=self.against).double().numpy()
        if way in ("ridge", "ridge_patches"):
            return fit_ridge(self._seen[way][known], targets=self._targets[known])
        assert self._adapter is not None
        recipe, own, rows = self._adapter
        tuning = recipe.describe(own, rows.part(torch.from_numpy(known)), seed=seed)
        played = play(tuning, own, seed=seed, on_step=lambda _: self._step(recipe.steps))
        assert played.outcome is not None  # this recipe says what it gives
        head = cast(OrderHead, played.outcome.head)
        return lambda some: head.logits(some)[:, 0].double().numpy()

    def best(self, *, seed: int) -> tuple[Way, Score]:
        """The way with the highest correlation, the cheaper one of equals, learnt from all examples."""
        way = self.ways[0 if self.measured is None else int(np.argmax(self.measured.value))]
        if way in ("adapter", "ridge_patches"):
            self.reader = TokenRows(self.model)
        return way, self.fit(way, np.arange(len(self._targets)), seed=seed)

    def _read_patches(self, rated: RatedImages, *, read: Read, workers: int) -> None:
        try:
            reader = TokenRows(self.model)
        except UnsupportedModelError as error:
            if read == "patches":
                raise
            self.without_patches = str(error)
            return
        if read == "auto" and (count := len(self._targets) * reader.dim) > MOST_NUMBERS:
            self.without_patches = f"{count:,} numbers for all examples, above {MOST_NUMBERS:,}"
            return
        batches = ordered(rated.source, image_spec=reader.image_spec, batch_size=64, workers=workers, strict=True)
        self._seen["ridge_patches"] = encode_images(reader, (pixels for _, pixels in batches))
        self.ways.append("ridge_patches")

    def _rows(self, way: Way, some: Int[np.ndarray, " k"]) -> Tensor:
        if way != "adapter":
            return self._seen[way][some]
        assert self._adapter is not None
        return self._adapter[2].tokens[some, 0].flatten(1)

    def _step(self, steps: int) -> None:
        self._done += 1
        if self._on_step is not None:
            self._on_step(self._done, steps * self._trainings)


def example_folds(targets: Float[np.ndarray, " n"], *, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Number of each example's part, from 0; neighbours in the order lie in different parts, so these are alike."""
    part = np.empty(len(targets), int)
    order = np.argsort(targets, kind="stable")
    for start in range(0, len(order), folds):
        some = order[start : start + folds]
        draw = np.random.default_rng(hash_int(str(start), seed=seed, salt="folds"))
        part[some] = draw.permutation(folds)[: len(some)]
    return part
