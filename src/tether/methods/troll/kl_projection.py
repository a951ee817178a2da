"""Pull a categorical distribution back onto the KL ball around another, exactly, and differentiate through the pull."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked

LOWEST = -1e4
"""Logarithms below this count as this: an entry that is impossible under both distributions then has ratio 1."""
SLACK = 1e-7
"""A divergence this little above the limit is left alone; float32 cannot tell."""
NORMALISED = 1e-3
"""How far the logarithm of a distribution's sum may be from 0; float16 needs as much."""
DOUBT = 1e-3
"""Rows within this share of the limit, as float32 has it, are looked at again in float64."""
CLOSE = 1e-8
"""The last Newton step starts at most this far from the limit, and squares the distance."""
MOST_STEPS = 80
BLOCK_BYTES, ACCELERATOR_BLOCK_BYTES = 32 << 20, 512 << 20
"""Size of one block of rows in float64."""


class KLProjection(NamedTuple):
    """Projected distributions and how far each row was pulled.

    Attributes:
        logp: (..., v) logarithms of the projected distributions.
        t: (...) weight of the new distribution in (0, 1]; exactly 1 where nothing was done. Carries no gradient.
    """

    logp: Float[Tensor, "*b v"]
    t: Float[Tensor, " *b"]


def kl_divergence(logp: Float[Tensor, "*b v"], logq: Float[Tensor, "*b v"]) -> Float[Tensor, " *b"]:
    """KL(p || q) in nats over the last axis, in float32 or wider; an entry that both rule out adds nothing."""
    wide = torch.promote_types(torch.promote_types(logp.dtype, logq.dtype), torch.float32)
    logp, logq = logp.to(wide).clamp(min=LOWEST), logq.to(wide).clamp(min=LOWEST)
    return (logp.exp() * (logp - logq)).sum(dim=-1)


@checked
def project_kl(logp_new: Float[Tensor, "*b v"], logp_old: Float[Tensor, "*b v"], eps: Positive) -> KLProjection:
    """The distribution nearest to ``new`` (in KL(pi || new)) whose KL(pi || old) is at most ``eps``.

    It is the geometric mixture ``old^(1 - t) * new^t``, renormalised, with the largest t in (0, 1] that stays inside.
    Rows inside the ball come back as they are. The others end within 1e-6 of the limit, for t is found in float64 by
    a safeguarded Newton iteration, and their gradient is that of the exact projection, t included: what would push
    further out is taken away, the rest passes. ``old`` counts as a constant, the gradient is first-order only. Half
    precision is widened to float32. On an accelerator the device is waited for to learn which rows are outside.

    Source: arXiv 2510.03817, section 3.1; the paper searches the dual in one variable and differentiates it as a
    convex program, which is the same projection and gradient.

    Args:
        logp_new: normalised log-probabilities.
        logp_old: normalised log-probabilities of the same shape.
        eps: radius in nats.
    """
    if logp_new.shape != logp_old.shape or logp_new.ndim < 1 or logp_new.shape[-1] == 0:
        raise InputError(
            f"expected two equal shapes (..., v), got new {tuple(logp_new.shape)} and old {tuple(logp_old.shape)}"
        )
    check_normalised(logp_old, name="logp_old")
    wide = torch.promote_types(torch.promote_types(logp_new.dtype, logp_old.dtype), torch.float32)
    new, old = logp_new.to(wide), logp_old.detach().to(wide)
    logp, t = _Project.apply(new.flatten(0, -2) if new.ndim > 1 else new[None], old.reshape(-1, old.shape[-1]), eps)
    return KLProjection(logp.view(new.shape), t.view(new.shape[:-1]))


def check_normalised(logp: Tensor, *, name: str) -> None:
    """See that rows are distributions; looked at on the CPU only. NaN passes: the loss hands it on."""
    if not _cheap_to_ask(logp) or logp.numel() == 0:
        return
    off = torch.logsumexp(logp.detach().to(torch.promote_types(logp.dtype, torch.float32)), dim=-1).abs()
    if bool((off > NORMALISED).any()):
        raise InputError(
            f"{name}: expected log-probabilities whose exponentials add up to 1, got a row that adds up to "
            f"exp({float(off.nan_to_num(0).max()):.3g}); apply log_softmax first"
        )


class _Project(torch.autograd.Function):
    """(n, v) rows; only those outside the ball are worked on, in float64."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, old: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        suspects = (kl_divergence(new, old) > eps * (1 - DOUBT) - SLACK).nonzero().flatten()
        t = new.new_ones(len(new), dtype=_solver_dtype(new))
        logp = new.clone()
        outside = []
        aim = eps * (1 - 4 * torch.finfo(new.dtype).eps)  # what rounds the result must not carry it out of the ball
        for rows in suspects.split(_rows_per_block(new)):
            moved, base = _change(new, old, rows)
            reach = _divergence(moved, base, torch.ones_like(moved[:, 0]))[0]
            out = reach > eps + SLACK
            rows, moved, base = rows[out], moved[out], base[out]
            t[rows] = found = _solve(moved, base, eps=aim, start=(aim / reach[out]).sqrt())
            mixed = base + found[:, None] * moved
            logp[rows] = mixed.log_softmax(dim=-1).to(logp.dtype)
            outside.append(rows)
        rows = torch.cat(outside) if outside else suspects
        ctx.save_for_backward(new, old, t, rows)
        t = t.to(new.dtype)
        ctx.mark_non_differentiable(t)
        return logp, t

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """With u = log new - log old and c = u - E[u]: t (g - pi sum g) - t pi c (g . c) / Var[u], the last from t."""
        if torch.is_grad_enabled():
            raise InputError("project_kl has first-order gradients only (create_graph=True was given)")
        new, old, t, all_rows = ctx.saved_tensors
        gradient = grad_outputs[0]
        result = gradient.clone()
        for rows in all_rows.split(_rows_per_block(new)):
            moved, base = _change(new, old, rows)
            weight, incoming = t[rows, None], gradient[rows].to(moved.dtype)
            pi = (base + weight * moved).softmax(dim=-1)
            centred = moved - (pi * moved).sum(dim=-1, keepdim=True)
            variance = (pi * centred.square()).sum(dim=-1, keepdim=True).clamp(min=torch.finfo(pi.dtype).tiny)
            pull = (incoming * centred).sum(dim=-1, keepdim=True) / variance
            passed = incoming - pi * (incoming.sum(dim=-1, keepdim=True) + centred * pull)
            result[rows] = (weight * passed).to(result.dtype)
        return result, None, None


def _solver_dtype(rows: Tensor) -> torch.dtype:
    return torch.float32 if rows.device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def _rows_per_block(rows: Tensor) -> int:
    size = BLOCK_BYTES if _cheap_to_ask(rows) else ACCELERATOR_BLOCK_BYTES
    return max(1, size // (8 * rows.shape[1]))


def _cheap_to_ask(tensor: Tensor) -> bool:
    """Whether a value can be looked at without waiting for a device."""
    return tensor.device.type == "cpu"


def _change(new: Tensor, old: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The change log new - log old, and log old, of some rows in the solver's precision."""
    base = old[rows].to(_solver_dtype(old)).clamp_(min=LOWEST)
    return new[rows].to(base.dtype).clamp_(min=LOWEST) - base, base


def _divergence(moved: Tensor, base: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """k(t) = KL(pi_t || old) and its derivative t Var[u], for rows (n, v) and t (n,)."""
    mixed = base + t[:, None] * moved
    total = mixed.logsumexp(dim=-1)
    pi = (mixed - total[:, None]).exp_()
    mean = (pi * moved).sum(dim=-1)
    variance = (pi * (moved - mean[:, None]).square_()).sum(dim=-1)
    return t * mean - total, t * variance


def _solve(moved: Tensor, base: Tensor, *, eps: float, start: Tensor) -> Tensor:
    """Solve k(t) = eps in (0, 1) for rows with k(1) > eps.

    Newton's method on the square root of k, which is nearly a line through 0, kept inside a bracket that is halved
    whenever a step leaves it or the last one did not halve the miss. Solved rows leave the work; accelerators keep all
    rows, for asking would cost a wait.
    """
    t, target, tiny = start.clone(), math.sqrt(eps), torch.finfo(start.dtype).tiny
    found, rows = t.clone(), torch.arange(len(t), device=t.device)
    low, high, last = torch.zeros_like(t), torch.ones_like(t), torch.full_like(t, math.inf)
    for _ in range(MOST_STEPS):
        if len(t) == 0:
            break
        k, slope = _divergence(moved, base, t)
        low, high = torch.where(k > eps, low, t), torch.where(k > eps, t, high)
        root = k.clamp(min=tiny).sqrt()
        miss, step = (root - target).abs(), t - 2 * root * (root - target) / slope.clamp(min=tiny)
        solved = (k - eps).abs() <= CLOSE
        newton = solved | (step > low) & (step < high) & (2 * miss <= last)
        t, last = torch.where(newton, step.clamp(low, high), (low + high) / 2), miss
        found[rows] = t
        if _cheap_to_ask(t):
            left = ~solved & (high - low > 4 * torch.finfo(t.dtype).eps)
            if 2 * int(left.sum()) <= len(t):
                t, low, high, last, rows = t[left], low[left], high[left], last[left], rows[left]
                moved, base = moved[left], base[left]
    return found
