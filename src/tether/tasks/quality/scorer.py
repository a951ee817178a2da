"""A quality score of photos from opposite prompts, untrained or with what the recipe ``quality`` has trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, checked
from tether.models.texts.prompt_quality import PROMPTS, SCALE, checked_prompts, prompt_quality, prompt_rows
from tether.tasks.classify.views import Images, encode_windows, originals_of, view_spec
from tether.tasks.quality.kept import read_prompts
from tether.tasks.quality.windows import native_windows


class QualityScorer:
    """Scores photos from 0 to 1 by how near they are to good prompts against bad ones, in parts of their own pixels.

    Without training a model says little of quality, since captions hardly do; ``tether adapt --recipe quality`` trains
    it on images alone.

    Source: QualiCLIP (arXiv 2403.11176), which reads whole photos where this reads parts of the model's size.

    Attributes:
        prompts: good and bad in turn.
        text: their embeddings.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.tasks.quality import QualityScorer
        >>> scorer = QualityScorer(create("tiny").eval())
        >>> photos = [torch.randint(0, 256, (3, side, 80), dtype=torch.uint8) for side in (60, 100)]
        >>> scorer.score(photos).shape
        torch.Size([2])
    """

    @checked
    def __init__(
        self,
        encoder: DualEncoder,
        prompts: Sequence[str] = PROMPTS,
        *,
        scale: Positive = SCALE,
        temperature: Positive = 1.0,
        text: Float[Tensor, "t d"] | None = None,
        grid: Count = 2,
        batch_size: Count = 64,
    ) -> None:
        """Encode the prompts.

        Args:
            encoder: any model that ``tether.load`` gives and that compares by cosine.
            prompts: good and bad in turn.
            scale: multiplier of cosines.
            temperature: divisor of the logits.
            text: embeddings of the prompts that were kept; None encodes them.
            grid: parts of a photo in each direction, see ``native_windows``; a photo's score is their mean.
            batch_size: parts in one forward.

        Raises:
            InputError: an odd number of prompts, or embeddings that do not fit.
            UnsupportedModelError: a model of another geometry.
        """
        self.encoder, self.prompts = encoder, checked_prompts(prompts)
        self.scale, self.temperature, self.grid, self.batch_size = scale, temperature, grid, batch_size
        self.text = prompt_rows(encoder, self.prompts) if text is None else text
        if self.text.shape != (len(self.prompts), encoder.dim):
            raise InputError(
                f"text: expected ({len(self.prompts)}, {encoder.dim}) embeddings, got {tuple(self.text.shape)}"
            )

    @classmethod
    def load(cls, folder: str | Path, encoder: DualEncoder, *, grid: int = 2, batch_size: int = 64) -> QualityScorer:
        """With the prompts of a head that ``tether adapt --recipe quality`` wrote.

        Raises:
            InputError: no such head, or one of another model.
        """
        kept = read_prompts(folder)
        kept.check(encoder)
        return cls(encoder, kept.prompts, scale=kept.scale, text=kept.text, grid=grid, batch_size=batch_size)

    def score(self, images: Images) -> Float[Tensor, " n"]:
        """(n,) scores of photos in their own pixels, uint8 of any sizes."""
        photos = originals_of(images)
        spec = view_spec(self.encoder)
        windows = [native_windows((one.shape[1], one.shape[2]), of=spec.size, grid=self.grid) for one in photos]
        rows = encode_windows(self.encoder, photos, windows, spec=spec, batch_size=self.batch_size)
        return torch.stack([self.scores(some).mean() for some in rows])

    def scores(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """(n,) scores of images that are already embedded."""
        return prompt_quality(vectors, self.text, scale=self.scale, temperature=self.temperature)
