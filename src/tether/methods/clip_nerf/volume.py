"""Volume rendering: places along a ray coded, their colours and densities made one, and where to look again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked

_FAR = 1e10
"""How far the last sample of a ray reaches."""
_FLOOR = 1e-10
_SPREAD = 1e-5
"""Weight that every stretch of a ray has besides its own, and least share of one that is divided by."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What rays see.

    Attributes:
        rgb: in 0 to 1.
        acc: how much of the ray is stopped, 0 to 1.
        weights: of each sample; they add up to ``acc``.
        depth: mean of ``z`` under the weights, not divided by ``acc``.
        disparity: 1 over the depth of what is seen; 0 where nothing is.
    """

    rgb: Float[Tensor, "*rays 3"]
    acc: Float[Tensor, "*rays"]
    weights: Float[Tensor, "*rays s"]
    depth: Float[Tensor, "*rays"]
    disparity: Float[Tensor, "*rays"]


@checked
def positional_encoding(
    x: Float[Tensor, "*n d"], freqs: Whole = 10, *, include_input: bool = True
) -> Float[Tensor, "*n e"]:
    """Sines and cosines of 2^k x, k = 0 to ``freqs`` - 1; of each k the sines of all axes, then the cosines.

    Args:
        x: places.
        freqs: how many k.
        include_input: whether x itself comes first.

    Raises:
        InputError: neither frequencies nor the input.

    Source: ``run_nerf_helpers.py`` of cassiePython/CLIPNeRF.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import positional_encoding
        >>> positional_encoding(torch.zeros(1, 2), 1).tolist()
        [[0.0, 0.0, 0.0, 0.0, 1.0, 1.0]]
    """
    if not freqs and not include_input:
        raise InputError("freqs: expected at least 1 without the input, got 0")
    scaled = x[..., None, :] * (2.0 ** torch.arange(freqs, dtype=x.dtype, device=x.device))[:, None]
    waves = torch.stack([scaled.sin(), scaled.cos()], dim=-2).flatten(-3)
    return torch.cat([x, waves], dim=-1) if include_input else waves


def volume_render(
    raw: Float[Tensor, "*rays s 4"], z: Float[Tensor, "*some s"], dirs: Float[Tensor, "*rays 3"], white: bool = True
) -> Rendered:
    """Make colours and densities along rays into what is seen.

    A sample stops ``1 - exp(-relu(density) * step * |dir|)`` of what reaches it, the last one's step being 1e10. In
    float32 at least, as half precision has no such step.

    Args:
        raw: colour before the sigmoid, density before the relu.
        z: of the samples along ``dirs``, ascending; of each ray, or the same for all.
        dirs: of the rays, of any length above 0.
        white: whether what is not stopped is white; else black.

    Raises:
        InputError: other shapes, no samples, a direction of length 0, ``z`` that falls.

    Source: ``raw2outputs`` of run_nerf_clip.py in cassiePython/CLIPNeRF, value for value. There the disparity of a ray
    that nothing stops is NaN.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import volume_render
        >>> raw = torch.tensor([[[9.0, -9.0, -9.0, 50.0], [0.0, 0.0, 0.0, 0.0]]])
        >>> seen = volume_render(raw, torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
        >>> seen.rgb.round(decimals=2).tolist(), seen.depth.tolist(), seen.disparity.tolist()
        ([[1.0, 0.0, 0.0]], [1.0], [1.0])
    """
    if raw.ndim < 2 or raw.shape[-1] != 4 or not raw.shape[-2]:
        raise InputError(f"raw: expected (..., samples, 4) with at least one sample, got {tuple(raw.shape)}")
    if z.shape[-1:] != raw.shape[-2:-1] or dirs.shape != (*raw.shape[:-2], 3):
        wanted = f"(..., {raw.shape[-2]}) and {(*raw.shape[:-2], 3)}"
        raise InputError(f"z, dirs: expected {wanted}, got {tuple(z.shape)} and {tuple(dirs.shape)}")
    if bool((falls := ~(z[..., 1:] >= z[..., :-1]).all(dim=-1)).any()):
        raise InputError(f"z, ray {_first(falls)}: expected ascending numbers")
    raw, z, dirs = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (raw, z, dirs))
    length = torch.linalg.vector_norm(dirs, dim=-1)
    if not bool((length > 0).all()):
        raise InputError(f"dirs, ray {_first(~(length > 0))}: expected a length above 0")
    steps = torch.cat([z[..., 1:] - z[..., :-1], torch.full_like(z[..., :1], _FAR)], dim=-1)
    stopped = 1 - torch.exp(-raw[..., 3].relu() * steps * length[..., None])
    passed = torch.cat([torch.ones_like(stopped[..., :1]), 1 - stopped[..., :-1] + _FLOOR], dim=-1).cumprod(dim=-1)
    weights = stopped * passed
    rgb = (weights[..., None] * raw[..., :3].sigmoid()).sum(dim=-2)
    acc, depth = weights.sum(dim=-1), (weights * z).sum(dim=-1)
    seen = acc > 0
    near = torch.where(seen, depth, 1.0) / torch.where(seen, acc, 1.0)
    disparity = torch.where(seen, 1 / near.clamp(min=_FLOOR), 0.0)
    return Rendered(rgb + (1 - acc[..., None]) if white else rgb, acc, weights, depth, disparity)


def _first(bad: Tensor) -> str:
    """Where the first one is."""
    return str(tuple(bad.nonzero()[0].tolist())).replace(",)", ")")


@checked
def sample_pdf(
    bins: Float[Tensor, "*rays b"],
    weights: Float[Tensor, "*rays c"],
    n: Count,
    *,
    det: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*rays n"]:
    """Places along rays where the weights are: the inverse of their cumulated sum, even within a stretch.

    Args:
        bins: ends of the b - 1 stretches, ascending.
        weights: of the stretches, at least 0.
        n: places of a ray.
        det: evenly spaced shares from 0 to 1, so that the places ascend; else drawn.
        generator: of the draws, on the CPU; needed unless ``det``.

    Raises:
        InputError: not one weight for each stretch, or neither ``det`` nor a generator.

    Source: ``sample_pdf`` of run_nerf_helpers.py in cassiePython/CLIPNeRF.

    Example:
        >>> import torch
        >>> from tether.methods.clip_nerf import sample_pdf
        >>> sample_pdf(torch.tensor([[0.0, 1, 2]]), torch.tensor([[0.0, 1]]), 3, det=True).round(decimals=2).tolist()
        [[0.0, 1.5, 2.0]]
    """
    if bins.shape[:-1] != weights.shape[:-1] or bins.shape[-1] != weights.shape[-1] + 1 or not weights.shape[-1]:
        raise InputError(
            f"bins, weights: expected (..., b) and (..., b - 1), got {tuple(bins.shape)} and {tuple(weights.shape)}"
        )
    if not det and generator is None:
        raise InputError("generator: expected one to draw from, or det=True")
    even = weights + _SPREAD
    shares = (even / even.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    shares = torch.cat([torch.zeros_like(shares[..., :1]), shares], dim=-1)
    if det:
        u = torch.linspace(0, 1, n, dtype=bins.dtype, device=bins.device).expand(*bins.shape[:-1], n)
    else:
        u = torch.rand((*bins.shape[:-1], n), generator=generator, dtype=bins.dtype).to(bins.device)
    after = torch.searchsorted(shares.detach().contiguous(), u.contiguous(), right=True)
    low, high = (after - 1).clamp(min=0), after.clamp(max=shares.shape[-1] - 1)
    begin, width = shares.gather(-1, low), shares.gather(-1, high) - shares.gather(-1, low)
    part = (u - begin) / torch.where(width < _SPREAD, 1.0, width)
    return bins.gather(-1, low) + part * (bins.gather(-1, high) - bins.gather(-1, low))
