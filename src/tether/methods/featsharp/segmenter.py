"""Fine maps for segmenters: each window is looked at whole and in tiles, which a learnt sharpener puts together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, Share, checked
from tether.core.types import Batch, ImageSpec
from tether.methods.featsharp import Sharpener, patch_maps
from tether.models.features.windows import Windows
from tether.tasks.segment.segmenter import DenseSegmenter


class SharpSegmenter(DenseSegmenter):
    """Compares places of a sharpener's fine map with class texts (FeatSharp).

    A window shows ``factor`` times the pixels of the model's size, so it sees as much of the image as the model does.
    It costs ``factor ** 2 + 1`` times as much.

    Source: arXiv 2502.16025; the recipe ``sharpen`` of ``tether adapt`` trains sharpeners.

    Attributes:
        sharpener: what makes maps fine.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.featsharp import Sharpener
        >>> from tether.methods.featsharp import SharpSegmenter
        >>> model, image = create("tiny").eval(), torch.zeros(3, 50, 120, dtype=torch.uint8)
        >>> segmenter = SharpSegmenter(sharpener=Sharpener(64, grid=(4, 4))).prepare(model, ["road", "sky"])
        >>> (masks,) = segmenter.predict([image])
        >>> masks.size, masks.scores.shape
        ((50, 120), (2, 8, 19))
    """

    @checked
    def __init__(
        self,
        *,
        sharpener: Sharpener,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Take a sharpener; the other settings are those of ``DenseSegmenter``.

        Args:
            sharpener: of the model's patches.
            templates: see there.
            temperature: see there.
            background: see there.
            least: see there.
            batch_size: see there.
        """
        super().__init__(
            templates=templates, temperature=temperature, background=background, least=least, batch_size=batch_size
        )
        self.sharpener = sharpener

    def prepare(
        self,
        model: DualEncoder,
        prompts: Sequence[str],
        *,
        windows: Windows | None = None,
        support: Iterable[Batch] | None = None,
    ) -> SharpSegmenter:
        """See ``DenseSegmenter``.

        Raises:
            InputError: also a sharpener of another width, or other scales of whole images than 1.
        """
        looked = self.own_windows if windows is None else windows
        if looked.fit == "whole" and tuple(looked.scales) != (1.0,):
            raise InputError("scales: a sharpener looks at whole images at one scale; expected 1, or windows")
        channels = self.sharpener.settings["channels"]
        if channels != model.dim:
            raise InputError(f"sharpener: expected one of {model.dim} channels, got {channels}")
        self.sharpener.to(model.logit_scale.device).eval()
        super().prepare(model, prompts, windows=windows, support=support)
        return self

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        return {**super().settings(), "sharpener": model_digest(self.sharpener)}

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``; those that the sharpener reads."""
        return patch_maps(model, image, patches=self.sharpener.patches).flatten(2).transpose(1, 2)

    def looks(self) -> tuple[ImageSpec, tuple[int, int]]:
        """See ``DenseSegmenter``."""
        spec, grid = super().looks()
        factor = self.sharpener.factor
        size = (spec.size[0] * factor, spec.size[1] * factor)
        return replace(spec, size=size), (grid[0] * factor, grid[1] * factor)

    def _dense(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b t r c"]:
        model, _ = next(iter(self._models.values()))
        _, high = self.sharpener(model, image.to(model.logit_scale.device))
        return self.logits(high.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, tuple(high.shape[2:]))
