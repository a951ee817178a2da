"""A differentiable walk along the sphere between two batches of unit rows."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, Share, checked

_OPPOSITE = 1e-6 - 1
"""Below this cosine float32 no longer says on which side of each other two rows lie."""
_WITHIN = 1 - 1e-7
"""Cosines are held in this range, as the slope of the arc cosine is infinite at 1."""


@checked
def geodesic_mix(
    a: Float[Tensor, "b d"], b: Float[Tensor, "b d"], *, lam: Share | Tensor, eps: Positive = 1e-6
) -> Float[Tensor, "b d"]:
    """``[sin(lam f) a + sin((1 - lam) f) b] / sin f`` with ``f = arccos(a.b)``, row by row; of length 1 like its ends.

    ``lam = 1`` is ``a``, the opposite of slerp's usual t. Rows less than ``eps`` apart are mixed on the chord, and
    opposite ones, between which no single arc runs, fall to the nearer end. Gradients flow into both.

    Source: arXiv 2203.03897, equation 4.

    Args:
        a: rows of length 1.
        b: rows of length 1.
        lam: share of ``a``; a number or a 0-d tensor.
        eps: sine of the angle below which the chord is taken.

    Raises:
        InputError: rows of unequal shape.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise InputError(f"expected two equal (b, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    cosine = (a * b).sum(dim=1, keepdim=True)
    held = cosine.detach()
    degenerate = ((1 - held.square()).clamp_min(0).sqrt() < eps) | (held < _OPPOSITE)
    # The inner choice keeps degenerate rows out of the quotient, whose gradient would be 0/0 there.
    angle = torch.arccos(torch.where(degenerate, torch.zeros_like(cosine), cosine).clamp(-_WITHIN, _WITHIN))
    arc = (torch.sin(lam * angle) * a + torch.sin((1 - lam) * angle) * b) / torch.sin(angle)
    chord = lam * a + (1 - lam) * b
    length = torch.linalg.vector_norm(torch.where(degenerate, chord, a).detach(), dim=1, keepdim=True)
    straight = torch.where(length > eps, chord / length.clamp_min(eps), a)
    return torch.where(degenerate, straight, arc)
