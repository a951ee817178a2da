"""A step of a recipe: keep the pairs whose image is of good quality, by opposite prompts of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.model_digest import file_digest
from tether.core.ranges import Count, Share, checked
from tether.data.curate.engine.step import IMAGE, images_of
from tether.data.images import decode
from tether.models.texts.prompt_quality import PROMPTS, checked_prompts
from tether.tasks.curate.clip_score import ClipScore
from tether.tasks.curate.score_filter import Fraction
from tether.tasks.quality import QualityScorer
from tether.tasks.quality.kept import read_prompts


class QualityFilter(ClipScore):
    """Keeps the pairs whose images score highest, a fraction of them or all from a threshold on.

    Captions are not looked at. Pairs without an image, and those whose image cannot be decoded, are refused and count
    in no fraction. It counts and breaks ties as ``clip_score`` does. Without a head the model's prompts decide as they
    are, which says little: look at ``tether quality`` first.

    Source: QualiCLIP (arXiv 2403.11176).
    """

    columns: tuple[str, ...] = (IMAGE,)

    @checked
    def __init__(
        self,
        *,
        model: str,
        head: str | None = None,
        prompts: Sequence[str] | None = None,
        fraction: Fraction | None = None,
        threshold: Share | None = None,
        grid: Count = 2,
        device: str = "cpu",
    ) -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            head: folder of ``tether adapt --recipe quality``, which also holds the model.
            prompts: good and bad in turn, without a head; None takes ``models.texts.prompt_quality.PROMPTS``.
            fraction: of the pairs whose image could be scored.
            threshold: instead, the least score that is kept.
            grid: parts of an image in each direction, see ``tasks.quality.native_windows``.
            device: of the model.

        Raises:
            InputError: not one of fraction and threshold, prompts beside a head, or no such head.
        """
        if (fraction is None) == (threshold is None):
            raise InputError(f"expected one of fraction and threshold, got {fraction} and {threshold}")
        if head is not None and prompts is not None:
            raise InputError("prompts: a head has its own; leave them out")
        super().__init__(model=model, fraction=fraction, threshold=threshold, device=device)
        self.head, self.grid = head, grid
        self.kept = None if head is None else read_prompts(head)  # so that it need not lie on every machine
        self.prompts = (
            checked_prompts(PROMPTS if prompts is None else prompts) if self.kept is None else self.kept.prompts
        )
        self._sha256 = None if self.kept is None else file_digest(self.kept.where)
        limit = f"below {threshold}" if fraction is None else f"not among the best {fraction:.4g} of the pool"
        self.refusal = f"image quality {limit}, or nothing to score"

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords, the model's digest and what the head's file holds."""
        return {
            "model": self.backbone.name,
            "model_digest": self.backbone.digest,
            "head": self.head,
            "head_sha256": self._sha256,
            "prompts": None if self.kept else list(self.prompts),
            "fraction": self.fraction,
            "threshold": self.threshold,
            "grid": self.grid,
        }

    def scores(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """(n,) float32 scores of a batch with the column ``image``; NaN where there is none.

        Raises:
            InputError: a head of another model.
        """
        model = self.backbone.model
        if self.kept is None:
            scorer = QualityScorer(model, self.prompts, grid=self.grid)
        else:
            self.kept.check(model)
            scorer = QualityScorer(model, self.prompts, scale=self.kept.scale, text=self.kept.text, grid=self.grid)
        given = images_of(rows).to_pylist()
        found: dict[bytes | None, float] = {None: np.nan}
        for image in given:
            if image not in found:
                try:
                    found[image] = float(scorer.score([decode(image)])[0])
                except InputError:
                    found[image] = np.nan
        return np.array([found[image] for image in given], np.float32)
