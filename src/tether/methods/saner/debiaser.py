"""A small layer that makes neutral texts equally near to every group of an attribute (arXiv 2408.10202)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, checked
from tether.losses.clip import clip_loss

WEIGHTS = (1.0, 0.1, 1e-4)
"""Of debiasing, reconstruction and contrast: from memory of arXiv 2408.10202, whose code is not public."""

Spread = Literal["population", "sample"]


@final
class SanerLayer(nn.Module):
    """Two linear layers with a ReLU, added to what they are given; the last starts at zero and changes nothing.

    Source: arXiv 2408.10202. Whether the paper's layer adds or replaces is not known; adding is ours.
    """

    @checked
    def __init__(self, dim: Count, *, hidden: Count | None = None, generator: torch.Generator | None = None) -> None:
        """Draw the first layer.

        Args:
            dim: of the embeddings.
            hidden: width between the two layers; None takes ``dim``.
            generator: draws the first layer's weights; None uses torch's default one.
        """
        super().__init__()
        hidden = dim if hidden is None else hidden
        self.dim = dim
        self.first = nn.Linear(dim, hidden)
        self.last = nn.Linear(hidden, dim)
        with torch.no_grad():
            bound = dim**-0.5  # torch's own bound for a linear layer
            for parameter in self.first.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, h: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Debiased embeddings, not normalised, of text embeddings as the encoder gives them."""
        return h + self.last(torch.relu(self.first(h)))


@dataclass(frozen=True, slots=True)
class SanerLoss:
    """What one batch costs; all 0-d.

    Attributes:
        total: the weighted sum; it alone has a gradient.
        debias: mean over texts of the spread of the cosines to the groups, summed over attributes; 0 is ideal.
        reconstruction: mean squared difference from the frozen embeddings.
        contrast: InfoNCE of both directions with the frozen images; 0 without images.
    """

    total: Float[Tensor, ""]
    debias: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    contrast: Float[Tensor, ""]


@checked
def saner_loss(
    z: Float[Tensor, "b d"],
    *,
    h: Float[Tensor, "b d"],
    attributes: Float[Tensor, "b g d"] | Sequence[Float[Tensor, "b g d"]],
    image: Float[Tensor, "b d"] | None = None,
    logit_scale: Float[Tensor, ""] | float | None = None,
    weights: tuple[NonNegative, NonNegative, NonNegative] = WEIGHTS,
    spread: Spread = "population",
) -> SanerLoss:
    """Equal nearness to all groups, without moving far and without losing the images.

    Debiasing alone has trivial solutions far away from everything; the reconstruction keeps ``z`` near, and looks at
    embeddings that are not normalised, so watch their length.

    Source: arXiv 2408.10202.

    Args:
        z: (b, d) what the layer made of ``h``.
        h: (b, d) frozen embeddings of the neutral texts.
        attributes: (b, g, d) frozen embeddings of the g versions of each text, of any length but zero; several
            attributes come as a list, and their terms add up.
        image: (b, d) frozen embeddings of the texts' images, of any length but zero; None leaves contrast out.
        logit_scale: multiplier of the cosines in it, already exponentiated; needed with images.
        weights: of debiasing, reconstruction and contrast.
        spread: standard deviation over the groups with g (``population``) or g - 1 (``sample``) in the denominator.

    Raises:
        InputError: shapes that do not fit, fewer than two groups, or images without a scale.
    """
    several = [attributes] if isinstance(attributes, Tensor) else list(attributes)
    _check(z, h=h, attributes=several)
    unit = F.normalize(z, dim=1)
    debias = torch.stack([_spread(unit, versions, spread=spread).mean() for versions in several]).sum()
    reconstruction = F.mse_loss(z, h)
    contrast = z.new_zeros(())
    if image is not None:
        if logit_scale is None:
            raise InputError("logit_scale: expected a number with images, got None")
        if image.shape != z.shape:
            raise InputError(f"image: expected {tuple(z.shape)}, got {tuple(image.shape)}")
        contrast = clip_loss(F.normalize(image, dim=1), unit, logit_scale)
    alpha, beta, gamma = weights
    total = alpha * debias + beta * reconstruction + gamma * contrast
    return SanerLoss(total, debias.detach(), reconstruction.detach(), contrast.detach())


def group_cosines(z: Float[Tensor, "b d"], *, attributes: Float[Tensor, "b g d"]) -> Float[Tensor, "b g"]:
    """Cosine of each text with each of its versions."""
    return torch.einsum("bd,bgd->bg", F.normalize(z, dim=1), F.normalize(attributes, dim=2))


def _spread(unit: Tensor, versions: Tensor, *, spread: Spread) -> Tensor:
    """Standard deviation over the groups as a length, whose gradient is 0, not NaN, where all cosines are equal."""
    cosines = group_cosines(unit, attributes=versions)
    groups = cosines.shape[1]
    apart = torch.linalg.vector_norm(cosines - cosines.mean(dim=1, keepdim=True), dim=1)
    return apart / (groups if spread == "population" else groups - 1) ** 0.5


def _check(z: Tensor, *, h: Tensor, attributes: Sequence[Tensor]) -> None:
    if z.ndim != 2 or z.shape != h.shape or not len(z):
        raise InputError(f"expected z and h of one shape (b, d) with b >= 1, got {tuple(z.shape)} and {tuple(h.shape)}")
    if not attributes:
        raise InputError("attributes: expected at least one, got none")
    for versions in attributes:
        if versions.ndim != 3 or versions.shape[0] != len(z) or versions.shape[2] != z.shape[1]:
            raise InputError(f"attributes: expected ({len(z)}, groups, {z.shape[1]}), got {tuple(versions.shape)}")
        if versions.shape[1] < 2:
            raise InputError(f"attributes: expected at least two groups, got {versions.shape[1]}")
