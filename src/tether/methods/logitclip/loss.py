"""A cap on the length of the logits, so that one wrong label can cost only so much (LogitClip, arXiv 2212.04055)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, NamedTuple, final

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Limit, NonNegative, checked

EPS = 1e-7
"""Added to every norm, as in the released code."""

_EXACT = (1.0, 2.0, math.inf)
"""Norms that do not raise large logits to a high power."""

Order = Annotated[float, Ge(1), Le(math.inf)]
"""Of a p-norm."""


class Bounds(NamedTuple):
    """Least and largest value of a cross-entropy.

    Attributes:
        least: in nats.
        most: in nats.
    """

    least: float
    most: float


@checked
def clip_logits(
    logits: Float[Tensor, "*shape"],
    tau: Limit,
    *,
    p: Order = 2.0,
    dim: int = -1,
    eps: NonNegative = EPS,
    nan: Literal["pass", "refuse"] = "pass",
) -> Float[Tensor, "*shape"]:
    """Scale every row of logits whose p-norm is above ``tau`` back to that norm; the order of the classes stays.

    With ``n = ||z||_p + eps`` the result is ``z`` where ``n <= tau`` and ``tau * z / n`` elsewhere. The gradient flows
    through ``n``: in a clipped row it has no part along the logits' own direction (p = 2), so they stop growing. A row
    of zeros keeps its plain gradient. Half precision is widened to float32, as ``eps`` is below its resolution.

    Source: arXiv 2212.04055, section 3. The released code compares with ``tau`` but rescales to ``1 / tau``, which is
    the paper's rule for ``tau = 1`` only; here it is the paper's for every ``tau``.

    Args:
        logits: one row of class scores for each sample, raw.
        tau: largest norm that is left alone; infinity clips nothing.
        p: order of the norm, 1 to infinity.
        dim: where the classes are.
        eps: added to the norm.
        nan: ``pass`` hands NaN on, for the gradient clipper to skip the step; ``refuse`` looks for NaN and infinity,
            which on an accelerator waits for the device.

    Raises:
        InputError: no classes, or, with ``refuse``, logits that are not finite.

    Example:
        >>> import torch
        >>> from tether.methods.logitclip import clip_logits
        >>> logits = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
        >>> [[round(value, 2) for value in row] for row in clip_logits(logits, 1.0).tolist()]
        [[0.6, 0.8], [0.3, 0.4]]
    """
    if logits.ndim == 0 or not -logits.ndim <= dim < logits.ndim:
        raise InputError(f"dim: expected a dimension of logits of shape {tuple(logits.shape)}, got {dim}")
    if logits.shape[dim] == 0 or not logits.is_floating_point():
        raise InputError(f"logits: expected floats with at least one class, got {logits.dtype} {tuple(logits.shape)}")
    if nan == "refuse" and not bool(logits.isfinite().all()):
        raise InputError("logits: NaN or infinity among them")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide * clip_factors(norms_of(wide, p=p, dim=dim) + eps, tau=tau)


def clip_factors(norms: Float[Tensor, "*norms"], *, tau: float) -> Float[Tensor, "*norms"]:
    """``tau / norms`` where that is below 1, else 1, which leaves a row's bits as they are."""
    above = norms > tau
    # The inner choice keeps rows of length zero out of the quotient, whose gradient would be 0/0 there.
    return torch.where(above, tau / torch.where(above, norms, 1.0), 1.0)


def norms_of(rows: Float[Tensor, "*shape"], *, p: float, dim: int = -1) -> Float[Tensor, "*norms"]:
    """p-norms along ``dim``, which is kept with size 1; large entries do not overflow for high ``p``."""
    if p in _EXACT:
        return torch.linalg.vector_norm(rows, ord=p, dim=dim, keepdim=True)
    peak = rows.detach().abs().amax(dim=dim, keepdim=True)
    peak = torch.where(peak > 0, peak, 1.0)
    return peak * torch.linalg.vector_norm(rows / peak, ord=p, dim=dim, keepdim=True)


@checked
def cross_entropy_bounds(classes: Count, *, tau: Limit) -> Bounds:
    """What one sample's cross-entropy can be after ``clip_logits``: ``log(1 + (classes - 1) exp(-+2 tau))``.

    They hold for every p, as no logit exceeds ``tau`` in size. Source: arXiv 2212.04055, section 3.
    """
    others = math.log(classes - 1) if classes > 1 else -math.inf
    low, high = others - 2 * tau, others + 2 * tau
    return Bounds(math.log1p(math.exp(low)), max(high, 0.0) + math.log1p(math.exp(-abs(high))))


@final
class LogitClipLoss(nn.Module):
    """Any classification loss on clipped logits. It keeps no state; ``base_loss`` may be used alone for evaluation.

    Source: arXiv 2212.04055.
    """

    @checked
    def __init__(
        self,
        *,
        base_loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        tau: Limit = 1.0,
        p: Order = 2.0,
        dim: int = -1,
        nan: Literal["pass", "refuse"] = "pass",
    ) -> None:
        """Take the settings.

        Args:
            base_loss: logits and targets to a loss; a module or a function; cross-entropy, averaged, if None.
            tau: largest norm that is left alone; the noisier the labels, the smaller.
            p: order of the norm, 1 to infinity.
            dim: where the classes are: -1, or 1 for logits (n, classes, ...) of several places.
            nan: ``pass`` hands NaN on, ``refuse`` raises.
        """
        super().__init__()
        self.base_loss: Callable[[Tensor, Tensor], Tensor] = nn.CrossEntropyLoss() if base_loss is None else base_loss
        self.tau, self.p, self.dim = tau, p, dim
        self.nan: Literal["pass", "refuse"] = nan

    def forward(self, logits: Float[Tensor, "*shape"], targets: Tensor) -> Tensor:
        """The base loss of the clipped logits; see ``clip_logits`` for errors."""
        return self.base_loss(clip_logits(logits, self.tau, p=self.p, dim=self.dim, nan=self.nan), targets)
