"""The Wasserstein critic two ways: a penalty on the slope of its input gradient, and weights clipped to a box."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from tether.core.errors import InputError
from tether.core.ranges import Limit, NonNegative, Positive, checked

Critic = Callable[[Tensor], Tensor]
"""Samples (b, ...) to scores (b,) or (b, 1); any module or function."""

PENALTY_WEIGHT = 10.0
"""Lambda on images and text (arXiv 1704.00028, section 4); the released toy uses 0.1."""
WEIGHT_BOUND = 0.01
"""Of the weight clipping that the penalty replaces (arXiv 1701.07875, algorithm 1)."""

_WARNED: weakref.WeakSet[nn.Module] = weakref.WeakSet()


class SlopePenalty(NamedTuple):
    """How far a critic is from slope 1.

    Attributes:
        penalty: 0-d mean squared departure of the slopes, not yet weighted.
        slopes: (b,) L2 norm of each sample's input gradient, detached.
    """

    penalty: Float[Tensor, ""]
    slopes: Float[Tensor, " b"]


@dataclass(frozen=True, slots=True)
class CriticLoss:
    """A critic's loss and what it is made of.

    Attributes:
        loss: 0-d, to be minimised: ``-wasserstein + lam * gp``.
        wasserstein: 0-d estimate of the distance, mean score of real minus mean score of fake; detached.
        gp: 0-d penalty before its weight; detached.
        slopes: (b,) slope at each interpolate; detached.
    """

    loss: Float[Tensor, ""]
    wasserstein: Float[Tensor, ""]
    gp: Float[Tensor, ""]
    slopes: Float[Tensor, " b"]


@checked
def gradient_penalty(
    critic: Critic,
    real: Float[Tensor, "b ..."],
    fake: Float[Tensor, "b ..."],
    *,
    alpha: Tensor | None = None,
    target: Positive = 1.0,
    one_sided: bool = False,
    eps: NonNegative = 0.0,
    generator: torch.Generator | None = None,
    create_graph: bool = True,
) -> SlopePenalty:
    """Pull the norm of the critic's input gradient to 1 at random points between real and fake samples.

    The points are ``alpha * real + (1 - alpha) * fake`` with one alpha per sample, and carry no gradient to whatever
    made the samples. The critic is called once, outside autocast, and attention takes torch's plain kernel, which
    alone can be differentiated twice; recurrent layers of cuDNN cannot. A slope of exactly 0 (a dead critic) gives the
    critic a gradient of 0, not NaN. Slopes that are not finite are handed on; under ``torch.autograd``'s anomaly
    detection a warning names their rows.

    Do not give it a critic wrapped by DDP, which does not support the gradient taken here; for several processes see
    ``tether.methods.wgan_gp.step.AdversarialPair``. Source: arXiv 1704.00028, section 4, as in gan_toy.py.

    Args:
        critic: scores (b,) or (b, 1) for (b, ...) samples.
        real: real samples, floating point.
        fake: as many generated ones of the same shape.
        alpha: (b,) or (b, 1, ...) mixing weights in [0, 1]; None draws them evenly.
        target: slope that costs nothing.
        one_sided: only slopes above the target cost (section 4, two-sided penalty); as released, both sides do.
        eps: added to the squared norm before the root.
        generator: draws alpha, on the device of ``real``.
        create_graph: keep the graph, so that the penalty can be differentiated; False is for logs.

    Raises:
        InputError: shapes or dtypes that do not fit, an empty batch, or a critic that does not score each sample.

    Example:
        >>> import torch
        >>> from tether.methods.wgan_gp import gradient_penalty
        >>> critic = torch.nn.Linear(2, 1)
        >>> real, fake = torch.randn(8, 2) + 3, torch.randn(8, 2)
        >>> found = gradient_penalty(critic, real, fake)
        >>> found.penalty.backward()  # times 10 and added to the critic's loss
        >>> found.slopes.shape, bool((found.slopes - critic.weight.norm()).abs().max() < 1e-4)
        (torch.Size([8]), True)
    """
    _check_samples(real, fake)
    _warn_of_batch_norm(critic)
    points = _between(_plain(real), _plain(fake), alpha=alpha, generator=generator).requires_grad_()
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        scores = _scores(critic, points)
        if not scores.requires_grad:
            raise InputError("critic: its scores do not depend on the samples, so they have no slope")
        (gradient,) = torch.autograd.grad(scores.sum(), points, create_graph=create_graph)
        flat = gradient.flatten(1)
        wide = torch.promote_types(flat.dtype, torch.float32)
        if eps:
            slopes = (flat.to(wide).square().sum(dim=1) + eps).sqrt()
        else:
            slopes = torch.linalg.vector_norm(flat, dim=1, dtype=wide)  # its gradient at 0 is 0
        excess = slopes - target
        penalty = (excess.clamp(min=0) if one_sided else excess).square().mean()
    if torch.is_anomaly_enabled():
        _warn_of_bad_slopes(slopes)
    return SlopePenalty(penalty if create_graph else penalty.detach(), slopes.detach())


@checked
def wgan_critic_loss(
    critic: Critic,
    real: Float[Tensor, "b ..."],
    fake: Float[Tensor, "b ..."],
    *,
    lam: NonNegative = PENALTY_WEIGHT,
    alpha: Tensor | None = None,
    target: Positive = 1.0,
    one_sided: bool = False,
    eps: NonNegative = 0.0,
    generator: torch.Generator | None = None,
) -> CriticLoss:
    """Score real samples above fake ones, held to slope 1 by the gradient penalty.

    With ``lam=0`` there is no penalty and no second derivative: the loss that weight clipping belongs to. Log
    ``wasserstein`` and ``gp`` apart, for the loss itself is no distance. Source: arXiv 1704.00028, equation 3.

    Args:
        critic: scores (b,) or (b, 1) for (b, ...) samples.
        real: real samples.
        fake: generated samples of the same shape; they get no gradient.
        lam: weight of the penalty.
        alpha: see ``gradient_penalty``.
        target: see ``gradient_penalty``.
        one_sided: see ``gradient_penalty``.
        eps: see ``gradient_penalty``.
        generator: see ``gradient_penalty``.
    """
    _check_samples(real, fake)
    loss = _mean(_scores(critic, fake.detach())) - _mean(_scores(critic, real.detach()))
    wasserstein = -loss.detach()
    if lam == 0:
        return CriticLoss(loss, wasserstein, loss.new_zeros(()), loss.new_zeros(len(real)))
    penalty, slopes = gradient_penalty(
        critic,
        real,
        fake,
        alpha=alpha,
        target=target,
        one_sided=one_sided,
        eps=eps,
        generator=generator,
    )
    return CriticLoss(loss + lam * penalty, wasserstein, penalty.detach(), slopes)


def wgan_generator_loss(critic: Critic, fake: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Minus the critic's mean score of generated samples, in float32 or wider (arXiv 1704.00028, algorithm 1).

    Gradients flow through the critic to whatever made ``fake``; freeze the critic to spare its own.
    """
    return -_mean(_scores(critic, fake))


@checked
def clip_weights_(module: nn.Module, c: Limit = WEIGHT_BOUND) -> Float[Tensor, ""]:
    """Clamp every parameter, biases too, to [-c, c]: what the gradient penalty replaces. Call it after each step.

    Buffers are left alone; NaN stays NaN. Source: arXiv 1701.07875, algorithm 1, the baseline of arXiv 1704.00028.

    Args:
        module: usually the critic.
        c: bound.

    Returns:
        0-d share of the values that now lie on the bound; it stays on their device.
    """
    parameters = list(module.parameters())
    if not parameters:
        raise InputError(f"{type(module).__name__} has no parameters to clip")
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-c, c)
    at_bound = torch.stack([(p.detach().abs() >= p.new_tensor(c)).sum() for p in parameters]).sum()
    return at_bound / sum(parameter.numel() for parameter in parameters)


def _check_samples(real: Tensor, fake: Tensor) -> None:
    if real.shape != fake.shape or real.ndim < 2:
        raise InputError(
            f"expected real and fake samples (b, ...) of one shape, got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if len(real) == 0:
        raise InputError(f"expected at least one sample, got an empty batch: {tuple(real.shape)}")
    for name, samples in (("real", real), ("fake", fake)):
        if not samples.is_floating_point():
            raise InputError(f"{name}: a slope needs floating-point samples, got {samples.dtype}")


def _plain(samples: Tensor) -> Tensor:
    """Without history; what autocast made half is widened, for outside of it the weights are float32."""
    samples = samples.detach()
    half = samples.dtype in (torch.float16, torch.bfloat16)
    return samples.float() if half and torch.is_autocast_enabled(samples.device.type) else samples


def _between(real: Tensor, fake: Tensor, *, alpha: Tensor | None, generator: torch.Generator | None) -> Tensor:
    each = (len(real),) + (1,) * (real.ndim - 1)
    if alpha is None:
        alpha = torch.rand(each, generator=generator, device=real.device, dtype=real.dtype)
    elif alpha.shape not in (each[:1], each):
        raise InputError(f"alpha: expected one per sample, {each[:1]} or {each}, got {tuple(alpha.shape)}")
    alpha = alpha.detach().to(real.dtype).view(each)
    return alpha * real + (1 - alpha) * fake


def _scores(critic: Critic, samples: Tensor) -> Tensor:
    scores = critic(samples)
    if scores.shape not in ((len(samples),), (len(samples), 1)):
        raise InputError(f"critic: expected scores ({len(samples)},) or ({len(samples)}, 1), got {tuple(scores.shape)}")
    return scores


def _mean(scores: Tensor) -> Tensor:
    return scores.mean(dtype=torch.promote_types(scores.dtype, torch.float32))


def _warn_of_batch_norm(critic: Critic) -> None:
    """Once for each critic: under batch norm a sample's score depends on its neighbours."""
    if not isinstance(critic, nn.Module) or critic in _WARNED:
        return
    if any(isinstance(module, _BatchNorm) and module.training for module in critic.modules()):
        _WARNED.add(critic)
        warnings.warn(
            f"{type(critic).__name__} has batch norm: its slopes mix samples, and the penalty assumes that they do "
            "not (arXiv 1704.00028, section 4); use layer norm in a critic",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_bad_slopes(slopes: Tensor) -> None:
    bad = (~slopes.detach().isfinite()).nonzero().flatten().tolist()
    if bad:
        warnings.warn(f"slopes that are not finite in rows {bad[:10]} of {len(slopes)}", UserWarning, stacklevel=3)
