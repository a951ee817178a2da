"""The noise that a frozen one-step generator starts from, moved toward rewards (ReNO's loop)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.ranges import Count, Limit, NonNegative, Whole, checked
from tether.core.runtime_protocol import ByAttributes
from tether.optim import OPTIMIZERS

SGD: Mapping[str, Any] = MappingProxyType({"name": "sgd", "lr": 5.0, "momentum": 0.9, "momentum_rule": "nesterov"})
"""The paper's; the rate is sane with its bound on the gradient alone."""
_EPS = 1e-6
"""What torch adds to the norm of a gradient that it bounds."""

Batched = Literal["apart", "together"]


@runtime_checkable
class Reward(Protocol, metaclass=ByAttributes):
    """What an image loses by not being as wanted."""

    weight: float

    def __call__(self, made: Tensor) -> Tensor:
        """(b,) losses, with gradient to what the generator made."""
        ...


class NormRegularizer:
    """Keeps noise as long as normal noise is: minus the logarithm of the density of its length.

    weight * (|z|^2 / 2 - (n - 1) ln |z|), least at |z| = sqrt(n - 1), for n numbers of an image; computed in float32
    at least, since bfloat16 loses it (ReNO, arXiv 2406.04312, section 3.2).

    Example:
        >>> import torch
        >>> from tether.methods.latent_clip import NormRegularizer
        >>> NormRegularizer(weight=1.0)(torch.ones(2, 1, 2, 2)).tolist()  # 4 / 2 - 3 ln 2
        [-0.07944154739379883, -0.07944154739379883]
    """

    @checked
    def __init__(self, *, weight: NonNegative = 0.01) -> None:
        """Args: weight: of the term."""
        self.weight = weight

    def __call__(self, z: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
        """The term of each image.

        Raises:
            InputError: noise that is zero, whose length has no logarithm.
        """
        rows = z.flatten(1).to(torch.promote_types(z.dtype, torch.float32))
        norm = torch.linalg.vector_norm(rows, dim=1)
        if not bool((norm > 0).all()):
            image = int((~(norm > 0)).nonzero()[0])
            got = f"{norm[image].item():g} in image {image}"
            raise InputError(f"z: expected noise of a length above 0, got {got}")
        return self.weight * (0.5 * norm**2 - (rows.shape[1] - 1) * norm.log())


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseStep:
    """One iteration; with ``images="together"`` each (b,) has one number.

    Attributes:
        start: which noise it began from, 0 for ``z0``.
        step: from 0.
        z: (b, ...) noise that was looked at.
        loss: (b,) weighted sum of the rewards, without the regulariser; the best is kept by it.
        rewards: (b,) loss of each reward, before its weight.
        regularizer: (b,) the regulariser's term.
        norm: (b,) length of the noise.
        grad_norm: (b,) length of the gradient before it is bounded.
    """

    start: int
    step: int
    z: Tensor
    loss: Float[Tensor, " b"]
    rewards: tuple[Float[Tensor, " b"], ...]
    regularizer: Float[Tensor, " b"]
    norm: Float[Tensor, " b"]
    grad_norm: Float[Tensor, " b"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseResult:
    """The best of all iterations, image by image, the first of equals.

    Attributes:
        made: (b, ...) what the generator made of ``z``.
        z: (b, ...) noise.
        loss: (b,) weighted sum of the rewards.
        start: (b,) which start it came from.
        step: (b,) and which step.
        history: every iteration.
    """

    made: Tensor
    z: Tensor
    loss: Float[Tensor, " b"]
    start: Int[Tensor, " b"]
    step: Int[Tensor, " b"]
    history: tuple[NoiseStep, ...]


@checked
def optimize_noise(
    generator: Callable[[Tensor], Tensor],
    *,
    rewards: Sequence[Reward],
    z0: Float[Tensor, "b ..."],
    steps: Count = 50,
    optimizer: str | Mapping[str, Any] = SGD,
    grad_clip: Limit = 0.1,
    regularizer: NormRegularizer | None = NormRegularizer(),  # noqa: B008 - never changed; it holds one number
    restarts: Whole = 0,
    draws: torch.Generator | None = None,
    images: Batched = "apart",
    on_step: Callable[[NoiseStep], None] | None = None,
) -> NoiseResult:
    """Move the noise of a frozen generator so that what it makes is rewarded, and keep the best that was seen.

    Each iteration makes images, asks the rewards, bounds the gradient and takes a step; after the last one, whose
    gradient is only measured, there is none. Noise stays in float32, or float64, whatever the generator computes in,
    and it alone gets a gradient. ``steps=1`` with ``restarts`` is a choice among draws, the baseline at equal calls.

    Args:
        generator: from noise to latents or images, one step, with gradient.
        rewards: ``Reward``s, such as ``PromptReward``.
        z0: noise to begin with.
        steps: iterations of each start.
        optimizer: a name of ``optim.OPTIMIZERS``, or a mapping with ``name`` and settings.
        grad_clip: longest gradient of an image.
        regularizer: keeps the noise's length; None leaves it free.
        restarts: further starts from fresh normal noise, the optimiser's memory empty.
        draws: of these; on the CPU.
        images: ``apart`` treats each image as if it were alone; ``together`` has one length, one bound and one
            best for the whole batch and the mean of the rewards, as ReNO's code.
        on_step: called with each iteration.

    Raises:
        InputError: noise that is no floats, not finite or zero, restarts without ``draws``, or rewards that are not
            finite, not (b,) or without a gradient.

    Source: ReNO (arXiv 2406.04312, algorithm 1), which Latent-CLIP builds on (arXiv 2503.08455, section 4). Restarts
    and images apart are ours.

    Example:
        >>> import torch
        >>> from tether.methods.latent_clip import PromptReward, optimize_noise
        >>> from tether.models import create
        >>> model = create("tiny", vision={"tower": "latent"}).eval()
        >>> reward = PromptReward(model, "a red circle")
        >>> z0 = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> found = optimize_noise(torch.tanh, rewards=[reward], z0=z0, steps=5)
        >>> found.made.shape, len(found.history), bool((found.loss <= found.history[0].loss).all())
        (torch.Size([2, 4, 4, 4]), 5, True)
    """
    if not rewards:
        raise InputError("rewards: expected at least one, got none")
    _check(z0, restarts=restarts, draws=draws)
    history: list[NoiseStep] = []
    best: NoiseResult | None = None
    for start in range(restarts + 1):
        z = z0 if start == 0 else torch.randn(z0.shape, generator=draws).to(z0.device)
        noise = nn.Parameter(z.detach().to(torch.promote_types(z0.dtype, torch.float32), copy=True))
        mover = build(optimizer if isinstance(optimizer, str) else dict(optimizer), OPTIMIZERS, where="optimizer",
                      finite=True, params=[noise])  # fmt: skip
        for step in range(steps):
            made = generator(noise)
            found = _look(noise, made, rewards, regularizer, where=(start, step), together=images == "together")
            history.append(found)
            best = _better(best, found, made.detach())
            if on_step is not None:
                on_step(found)
            if step + 1 < steps:
                _bound_(noise, found.grad_norm, limit=grad_clip)
                mover.step()
            noise.grad = None
    assert best is not None
    return NoiseResult(**{name: getattr(best, name) for name in _KEPT}, history=tuple(history))


_KEPT = ("made", "z", "loss", "start", "step")


def _look(
    noise: nn.Parameter,
    made: Tensor,
    rewards: Sequence[Reward],
    regularizer: NormRegularizer | None,
    *,
    where: tuple[int, int],
    together: bool,
) -> NoiseStep:
    """Losses of one iteration; the noise gets its gradient."""
    rows = noise[None] if together else noise
    losses = [_losses(reward(made), images=len(noise), name=f"rewards[{n}]") for n, reward in enumerate(rewards)]
    if together:
        losses = [loss.mean()[None] for loss in losses]
    total = torch.stack([reward.weight * loss for reward, loss in zip(rewards, losses, strict=True)]).sum(0)
    if not total.requires_grad:
        raise InputError("rewards: expected losses that follow the noise, got none with a gradient; does the generator "
                         "detach what it makes, or compute under torch.no_grad()?")  # fmt: skip
    if not bool(total.isfinite().all()):
        raise InputError(f"rewards: step {where[1]}: expected finite losses, got {total.tolist()}")
    term = torch.zeros(len(rows), device=noise.device) if regularizer is None else regularizer(rows)
    noise.grad = torch.autograd.grad(total.sum() + term.sum().to(total.dtype), noise)[0]
    gradient = torch.linalg.vector_norm((noise.grad[None] if together else noise.grad).flatten(1), dim=1)
    if not bool(gradient.isfinite().all()):
        raise InputError(f"rewards: step {where[1]}: expected a finite gradient of the noise, got {gradient.tolist()}")
    return NoiseStep(
        start=where[0],
        step=where[1],
        z=noise.detach().clone(),
        loss=total.detach(),
        rewards=tuple(loss.detach() for loss in losses),
        regularizer=term.detach(),
        norm=torch.linalg.vector_norm(rows.detach().flatten(1), dim=1),
        grad_norm=gradient,
    )


def _losses(found: Tensor, *, images: int, name: str) -> Float[Tensor, " b"]:
    if found.ndim == 0 and images == 1:
        found = found[None]
    if tuple(found.shape) != (images,):
        raise InputError(f"{name}: expected ({images},) losses, one an image, got {tuple(found.shape)}")
    return found


def _better(best: NoiseResult | None, found: NoiseStep, made: Tensor) -> NoiseResult:
    """The best so far, row by row."""
    count = len(found.loss)
    start, step = (torch.full((count,), value, device=found.loss.device) for value in (found.start, found.step))
    new = {"made": made, "z": found.z, "loss": found.loss, "start": start, "step": step}
    if best is None:
        return NoiseResult(**new, history=())
    wins = found.loss < best.loss

    def choose(name: str) -> Tensor:
        value = new[name]
        return torch.where(wins.view(-1, *[1] * (value.ndim - 1)), value, getattr(best, name))

    return NoiseResult(**{name: choose(name) for name in _KEPT}, history=())


def _bound_(noise: nn.Parameter, norms: Float[Tensor, " b"], *, limit: float) -> None:
    """Shorten gradients that are longer than the limit, as ``torch.nn.utils.clip_grad_norm_`` does."""
    assert noise.grad is not None
    noise.grad *= (limit / (norms + _EPS)).clamp(max=1.0).view(-1, *[1] * (noise.ndim - 1))


def _check(z0: Tensor, *, restarts: int, draws: torch.Generator | None) -> None:
    if not z0.is_floating_point() or z0.ndim < 2 or not z0.numel():
        raise InputError(f"z0: expected floats (b, ...), got {tuple(z0.shape)} of {z0.dtype}")
    if not bool(z0.isfinite().all()):
        raise InputError("z0: expected finite numbers, got NaN or infinity")
    if restarts and draws is None:
        raise InputError(f"draws: expected a generator for the noise of restarts={restarts}, got none")
