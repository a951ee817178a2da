"""Two players for the loop: a critic that learns to tell real samples from made ones, and the generator it judges."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.types import Batch, Loss
from tether.methods.wgan_gp.loss import PENALTY_WEIGHT, wgan_critic_loss, wgan_generator_loss
from tether.models.train_mode import at_rest


class AdversarialPair(nn.Module):
    """The model of a two-player run: noise to samples, samples to scores.

    Attributes:
        generator: ``batch.extra["noise"]`` (b, ...) to samples shaped as ``batch.image``.
        critic: samples (b, ...) to scores (b,) or (b, 1).
    """

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        """Args: the two networks."""
        super().__init__()
        self.generator, self.critic = generator, critic
        self._talks = True

    def share_gradients_(self) -> None:
        """Train as one model on the processes of ``torch.distributed``'s group, each on samples of its own.

        All start from the first process's weights and buffers, and every backward averages gradients as they arrive.
        It takes the place of DDP, which does not support the gradient inside the penalty. One message for each
        parameter: right for small networks.

        Raises:
            InputError: there is no process group.
        """
        if not dist.is_initialized():
            raise InputError("share_gradients_: expected an initialised process group of torch.distributed")
        for tensor in (*self.parameters(), *self.buffers()):
            dist.broadcast(tensor.detach(), src=0)
        for parameter in self.parameters():
            parameter.register_post_accumulate_grad_hook(self._average)

    def set_requires_gradient_sync(self, requires: bool) -> None:
        """Whether the next backward averages; the loop says no for all but the last part of a step."""
        self._talks = requires

    def _average(self, parameter: Tensor) -> None:
        """Safe after every backward: what was averaged before is the same everywhere and stays so."""
        if self._talks and parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


class CriticStep:
    """The critic's loss on ``batch.image`` against samples made from ``batch.extra["noise"]``, held to slope 1.

    ``batch.extra["alpha"]`` (b,), if there, says where the slope is taken; else it is drawn. Terms for the log:
    ``wasserstein``, the estimate to watch, ``gp`` and the mean ``slope``. With ``lam=0`` nothing holds the slope: clip
    the critic's weights in the loop's ``on_step``. Source: arXiv 1704.00028, algorithm 1.
    """

    def __init__(
        self,
        *,
        lam: float = PENALTY_WEIGHT,
        target: float = 1.0,
        one_sided: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Take the settings of ``methods.wgan_gp.loss.wgan_critic_loss``.

        Args:
            lam: weight of the penalty (>= 0).
            target: slope that costs nothing (> 0).
            one_sided: only slopes above the target cost.
            generator: draws alpha, on the device of the samples; None takes torch's own.

        Raises:
            InputError: a negative weight.
        """
        if not (lam >= 0 and math.isfinite(lam)):
            raise InputError(f"lam: expected a weight of at least 0, got {lam}")
        self.lam, self.target, self.one_sided, self.generator = lam, target, one_sided, generator

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is an AdversarialPair, and only its critic gets a gradient."""
        pair = _pair(model)
        with torch.no_grad():
            fake = pair.generator(_noise(batch))
        out = wgan_critic_loss(
            pair.critic,
            batch.image,
            fake,
            lam=self.lam,
            alpha=_optional(batch, "alpha"),
            target=self.target,
            one_sided=self.one_sided,
            generator=self.generator,
        )
        return Loss(out.loss, {"wasserstein": out.wasserstein, "gp": out.gp, "slope": out.slopes.mean()})


class GeneratorStep:
    """The generator's loss on ``batch.extra["noise"]``: minus the critic's mean score (arXiv 1704.00028, algorithm 1).

    The critic is frozen meanwhile, so that its weight gradients are not even made.
    """

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is an AdversarialPair, and only its generator gets a gradient."""
        pair = _pair(model)
        with at_rest(pair.critic):
            loss = wgan_generator_loss(pair.critic, pair.generator(_noise(batch)))
        return Loss(loss, {"score": -loss.detach()})


def _pair(model: nn.Module) -> AdversarialPair:
    if not isinstance(model, AdversarialPair):
        raise InputError(
            f"expected an AdversarialPair, got {type(model).__name__}; for several processes call its "
            "share_gradients_ instead of wrapping it"
        )
    return model


def _noise(batch: Batch) -> Tensor:
    noise = _optional(batch, "noise")
    if noise is None:
        raise InputError(f"batch.extra: expected 'noise' for the generator, got {sorted(batch.extra)}")
    return noise


def _optional(batch: Batch, name: str) -> Tensor | None:
    value = batch.extra.get(name)
    if value is not None and not isinstance(value, Tensor):
        raise InputError(f"batch.extra[{name!r}]: expected a tensor, got {type(value).__name__}")
    return value
