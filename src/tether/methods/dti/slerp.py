"""Spherical interpolation of unit rows in torch, with gradient."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

_NEAR = 1e-7
"""Sine of the angle below which rows are mixed on the chord."""


def slerp(a: Float[Tensor, "... d"], b: Float[Tensor, "... d"], t: float | Tensor) -> Float[Tensor, "... d"]:
    """Points on the arcs from unit rows to others, of length 1; ``t = 0`` is ``a``, ``t = 1`` is ``b``.

    Rows too near each other for an arc are mixed on the chord and brought to length 1.

    Args:
        a: rows of length 1.
        b: rows of length 1, as many, or one for all.
        t: a number, or one for each row: (k,) for a single pair of rows (d,) gives (k, d).

    Raises:
        InputError: opposite rows, between which no single arc runs.

    Example:
        >>> import torch
        >>> from tether.methods.dti.slerp import slerp
        >>> a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> slerp(a, b, torch.tensor([0.0, 0.5, 1.0])).round(decimals=3).abs().tolist()
        [[1.0, 0.0], [0.7070000171661377, 0.7070000171661377], [0.0, 1.0]]
    """
    t = torch.as_tensor(t, dtype=a.dtype, device=a.device)[..., None]
    cosine = (a * b).sum(-1, keepdim=True).clamp(-1, 1)
    limit = max(_NEAR, (16 * torch.finfo(a.dtype).eps) ** 0.5)  # the cosine is no exacter than the numbers
    near = (1 - cosine.detach().square()).clamp(min=0).sqrt() < limit
    if bool((near & (cosine < 0)).any()):
        raise InputError("slerp: two rows are opposite: no single arc runs between them")
    angle = torch.arccos(torch.where(near, torch.zeros_like(cosine), cosine))  # near rows stay out of 0 / 0
    arc = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    chord = (1 - t) * a + t * b
    return torch.where(near, chord / torch.linalg.vector_norm(chord, dim=-1, keepdim=True), arc)
