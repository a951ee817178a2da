"""A sharpener learns from images alone: the fine map of an image must say what the encoder says of its views."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, checked
from tether.core.types import Batch, Loss
from tether.core.warps import homography_grid, inside, random_homographies, warped
from tether.methods.featsharp import AttentionDownsampler, Sharpener, SimpleDownsampler, patch_maps
from tether.methods.featsharp.loss import map_error, seam_weights, total_variation
from tether.methods.featsharp.phi_s import PhiS
from tether.training.steps.module import InsideStep, StepModule

SHARPENER, DOWNSAMPLER = "sharpener", "downsampler"
Downsampler = AttentionDownsampler | SimpleDownsampler


@dataclass(frozen=True, slots=True)
class Views:
    """Views of images, and what the encoder says of them.

    Attributes:
        grid: (b, R, S, 2) where each place of a fine map of the view looks in that of the image.
        target: (b, c, r, s) standardised maps of the views.
        valid: (b, 1, r, s) 1 where a view shows its image.
    """

    grid: Float[Tensor, "b R S 2"]
    target: Float[Tensor, "b c r s"]
    valid: Float[Tensor, "b 1 r s"]


def fit_statistics_(
    sharpener: Sharpener, model: DualEncoder, images: Iterable[Tensor], *, most: int = 3000
) -> Sharpener:
    """Give a sharpener mean, scale and rotation of an encoder's patches (PHI-S).

    Args:
        sharpener: to fill, in place.
        model: that it is for.
        images: batches of the model's size, as ``patch_maps`` takes them.
        most: batches that are looked at.

    Raises:
        InputError: no batch, or a width without a Hadamard matrix.
    """
    phi, seen = PhiS(), 0
    with torch.no_grad():
        for batch in images:
            maps = patch_maps(model, batch, patches=sharpener.patches)
            phi.partial_fit(maps.permute(0, 2, 3, 1).flatten(0, 2).double().cpu().numpy())
            seen += 1
            if seen == most:
                break
    if not seen:
        raise InputError("images: expected a batch at least, got none")
    for name, value in (("mean", phi.mean_), ("alpha", phi.alpha_), ("rotation", phi.rotation_)):
        kept = sharpener.get_buffer(name)
        kept.copy_(torch.as_tensor(value).to(kept))
    return sharpener


def draw_views(
    sharpener: Sharpener, model: DualEncoder, images: Tensor, *, generator: torch.Generator, **settings: float
) -> Views:
    """One random view of each image.

    Args:
        sharpener: gives standardised maps, with gradient to its bias.
        model: that it is for.
        images: (b, 3, h, w) floats as the model takes them, of any size.
        generator: of the draws, on the CPU.
        settings: of ``core.warps.random_homographies``.
    """
    matrix = random_homographies(len(images), generator=generator, **settings).to(images)
    shown = warped(images, homography_grid(matrix, size=model.image_spec.size))
    with torch.no_grad():
        maps = patch_maps(model, shown, patches=sharpener.patches)
    target = sharpener.standardise(maps)
    size = (target.shape[2], target.shape[3])
    grid = homography_grid(matrix, size=(size[0] * sharpener.factor, size[1] * sharpener.factor))
    return Views(grid, target, inside(homography_grid(matrix, size=size)))


def consistency(
    high: Float[Tensor, "b c R S"],
    views: Views,
    *,
    downsampler: Downsampler,
    factor: int,
    uniform: Tensor | None = None,
) -> Float[Tensor, ""]:
    """How far fine maps, seen in perspective and made coarse, are from what the encoder says of the views.

    Args:
        high: standardised fine maps of the images.
        views: of them.
        downsampler: makes maps coarse.
        factor: of the fine map; errors beside the seams of its tiles count twice.
        uniform: of ``AttentionDownsampler``, which drops logits where it is given.
    """
    size = (views.target.shape[2], views.target.shape[3])
    predicted = downsampler(warped(high, views.grid), size=size, uniform=uniform)
    seams = seam_weights(size=(high.shape[2], high.shape[3]), factor=factor).to(high)
    weights = F.adaptive_avg_pool2d(warped(seams.expand(len(high), -1, -1, -1), views.grid), size)
    return map_error(predicted, views.target, valid=views.valid, weights=weights)


class SharpenStep(InsideStep):
    """FeatSharp's loss of a sharpener and its downsampler, modules beside a frozen encoder; a ``core.protocols.Step``.

    Source: arXiv 2502.16025, section 3: five views of each image. The terms MMD and CRF, whose weights are 0 in the
    released configuration, and the spectral reparametrisation are left out.
    """

    @checked
    def __init__(self, *, views: Count = 5, variation: NonNegative = 0.0, seed: int = 0, **settings: float) -> None:
        """Take the settings.

        Args:
            views: of each image in a step.
            variation: weight of ``methods.featsharp.loss.total_variation``.
            seed: of the draws.
            settings: of ``core.warps.random_homographies``.
        """
        self.views, self.variation, self.seed, self.settings = views, variation, seed, settings

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep; images are best of ``factor`` times the encoder's size."""
        model = cast(DualEncoder, module.model)
        sharpener, downsampler = cast(Sharpener, module.heads[SHARPENER]), cast(Downsampler, module.heads[DOWNSAMPLER])
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="sharpener") >> 1)
        images = model.image_spec.normalise(batch.image)
        low, tiles = sharpener.standardised(model, images)
        high = sharpener.block(low, tiles)
        found = high.new_zeros(())
        for _ in range(self.views):
            seen = draw_views(sharpener, model, images, generator=generator, **self.settings)
            uniform = _uniform(downsampler, seen.target, generator)
            found = found + consistency(high, seen, downsampler=downsampler, factor=sharpener.factor, uniform=uniform)
        loss = found / self.views
        rough = total_variation(high) if self.variation else high.new_zeros(())
        return Loss(loss + self.variation * rough, {"consistency": loss.detach(), "variation": rough.detach()})


def _uniform(downsampler: Downsampler, target: Tensor, generator: torch.Generator) -> Tensor | None:
    if isinstance(downsampler, SimpleDownsampler):
        return None
    shape = (len(target), downsampler.side**2, *target.shape[2:])
    return torch.rand(shape, generator=generator).to(target)
