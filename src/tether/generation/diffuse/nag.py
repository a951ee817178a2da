"""Negative prompts by the outputs of attention: extrapolated, bounded token by token, and blended back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, PositiveSingle, Share, checked

Scale = Annotated[float, Ge(1)]


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class NAG:
    """Settings of normalised attention guidance; the defaults are those for Flux, SDXL's pipeline has ``alpha=0.5``.

    Attributes:
        scale: how far past the positive output; 1 guides nothing.
        tau: how many times the norm of the positive output a token's may grow to, before it is blended.
        alpha: share of the guided output in the blend.
        p: of the norm: 1 as in the paper and the author's code, 2 as in its first release.
        until: a time step or noise level, in the model's own units, below which nothing is guided.
    """

    scale: Scale = 5.0
    tau: Positive = 2.5
    alpha: Share = 0.25
    p: Literal[1, 2] = 1
    until: float = 0.0


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class CFG:
    """Settings of classifier-free guidance with a negative text: two passes of the whole network.

    Attributes:
        scale: ``negative + scale * (positive - negative)``; 1 guides nothing.
    """

    scale: Scale = 5.0


@checked
def nag(
    z_pos: Float[Tensor, "b t c"],
    z_neg: Float[Tensor, "b t c"],
    scale: Scale = 5.0,
    tau: Positive = 2.5,
    alpha: Share = 0.25,
    p: Literal[1, 2] = 1,
    eps: PositiveSingle = 1e-6,
) -> Float[Tensor, "b t c"]:
    """Outputs of attention led away from those of a negative prompt, heads merged, before the output projection.

    ``scale * z_pos - (scale - 1) * z_neg`` is shortened, token by token, to at most ``tau`` times the norm of
    ``z_pos``, and blended with ``z_pos``: the result is at most ``alpha * tau + 1 - alpha`` times as long, whatever the
    scale. Norms are taken in float32 at least.

    Args:
        z_pos: outputs for the prompt.
        z_neg: outputs of the same queries for the negative prompt.
        scale: see ``NAG``.
        tau: likewise.
        alpha: likewise.
        p: likewise.
        eps: least norm that is divided by.

    Raises:
        InputError: shapes that differ, or a setting out of range.

    Source: arXiv 2505.21179, section 3; the author's ChenDarYen/ComfyUI-NAG, utils.py.

    Example:
        >>> import torch
        >>> from tether.generation.diffuse.nag import nag
        >>> z_pos, z_neg = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, -1.0]]])
        >>> nag(z_pos, z_neg, scale=50.0, tau=2.0, alpha=0.5).abs().sum() / z_pos.abs().sum()
        tensor(1.5000)
    """
    guided, ratio = growth(z_pos, z_neg, scale=scale, p=p, eps=eps)
    guided = guided * (ratio.clamp(max=tau) / ratio).to(guided.dtype)[..., None]
    return alpha * guided + (1 - alpha) * z_pos


@checked
def growth(
    z_pos: Float[Tensor, "b t c"],
    z_neg: Float[Tensor, "b t c"],
    *,
    scale: Scale,
    p: Literal[1, 2] = 1,
    eps: PositiveSingle = 1e-6,
) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b t"]]:
    """What ``nag`` bounds, and how many times the norm of the positive output it has at each token.

    Raises:
        InputError: shapes that differ, or a setting out of range.
    """
    if z_pos.shape != z_neg.shape:
        raise InputError(f"z_neg: expected {tuple(z_pos.shape)}, as z_pos, got {tuple(z_neg.shape)}")
    guided = scale * z_pos - (scale - 1) * z_neg
    wide = torch.promote_types(guided.dtype, torch.float32)
    before, after = (torch.linalg.vector_norm(z.to(wide), ord=p, dim=-1).clamp(min=eps) for z in (z_pos, guided))
    return guided, after / before
