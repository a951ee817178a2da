"""Opacus' optimiser with a clipping norm from outside, and the share of clipped samples released with noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.dpfl_moo_clip.schedule import MooClipSchedule, gradient_noise

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


def clip_factors(norms: Float[Tensor, " n"], c: float) -> Float[Tensor, " n"]:
    """``min(1, c / norm)`` of each sample's gradient; 0 where the norm is NaN or infinite."""
    factors = (c / norms).clamp(max=1.0)
    return torch.where(norms.isfinite(), torch.nan_to_num(factors, nan=1.0, posinf=1.0), torch.zeros_like(norms))


def noisy_clipped_share(norms: Float[Tensor, " n"], c: float, *, batch_size: int, noise: float = 0.0) -> float:
    """The share of samples beyond ``c`` that may be released, from 0 to 1.

    Each sample adds a half or takes a half away, so that no one moves the sum by more, and the sum is divided by the
    batch size that was expected: the number that was drawn is itself a secret. A norm that is not finite is clipped.

    Args:
        norms: of the samples' gradients.
        c: the clipping norm.
        batch_size: that is expected.
        noise: drawn with the standard deviation of the count.
    """
    bits = ((norms > c) | ~norms.isfinite()).to(torch.float64) - 0.5
    return min(max(float(bits.sum() + noise) / batch_size + 0.5, 0.0), 1.0)


class CountedClip:
    """Changes one Opacus optimiser in place: clipping at ``c``, more noise where a count is released, no NaN.

    Opacus' accountant goes on being told ``optimizer.noise_multiplier``, which covers gradients and count together;
    what is added to gradients is ``gradient_noise(noise_multiplier, count_std)`` times ``c``. Opacus draws all noise.

    Attributes:
        optimizer: that was changed.
        count_std: of the count; None releases none and leaves the gradients' noise as it was.
        released: shares of clipped samples with noise, a step each, since ``begin``.
    """

    def __init__(self, optimizer: DPOptimizer, *, c: float, count_std: float | None = None) -> None:
        """Change the optimiser.

        Raises:
            InputError: one of another kind of clipping, without an expected batch size, changed already, or
                ``noise_multiplier >= 2 * count_std``.
        """
        plain: Any = optimizer
        if type(optimizer).__name__ != "DPOptimizer":  # of several processes one alone draws noise
            raise InputError(
                f"optimizer: expected Opacus' DPOptimizer with flat clipping, got {type(optimizer).__name__}: "
                "make_private(..., clipping='flat', grad_sample_mode='hooks') in one process"
            )
        if "add_noise" in vars(optimizer):
            raise InputError("optimizer: has a clipping norm from outside already; expected a fresh one")
        if optimizer.expected_batch_size is None:
            raise InputError("optimizer: expected_batch_size is None; expected the mean size of a Poisson batch")
        self.optimizer, self.count_std, self.released = optimizer, count_std, list[float]()
        self._noise = optimizer.noise_multiplier
        if count_std is not None:
            self._noise = gradient_noise(float(optimizer.noise_multiplier), float(count_std))
        self._norms: list[Tensor] = []
        plain.clip_and_accumulate, plain.add_noise = self._clip, self._add
        self.begin(c)

    def begin(self, c: float) -> None:
        """Begin a round with its norm, which stays what it is until the next."""
        if not 0 < c < float("inf"):
            raise InputError(f"c: expected a finite number above 0, got {c}")
        self.optimizer.max_grad_norm = float(c)
        self.released = []

    @property
    def share(self) -> float:
        """Mean of what was released since ``begin``.

        Raises:
            InputError: nothing was.
        """
        if not self.released:
            raise InputError("released: no step was taken since the round began, or no count is released")
        return sum(self.released) / len(self.released)

    def _clip(self) -> None:
        from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed

        optimizer: Any = self.optimizer
        samples = [optimizer._get_flat_grad_sample(one) for one in optimizer.params]
        for one in optimizer.params:
            _check_processed_flag(one.grad_sample)
        rows = [one.flatten(1) if one.ndim > 1 else one[:, None] for one in samples]  # perhaps of no sample at all
        norms = torch.stack([one.float().norm(dim=1) for one in rows], dim=1).norm(dim=1)
        self._norms.append(norms)
        factors = clip_factors(norms, optimizer.max_grad_norm)
        for parameter, sample in zip(optimizer.params, samples, strict=True):
            # 0 * NaN is NaN: what has no factor is left out itself.
            clean = torch.where((factors > 0).view(-1, *[1] * (sample.ndim - 1)), sample, torch.zeros_like(sample))
            summed = torch.einsum("i,i...", factors.to(parameter.dtype), clean.to(parameter.dtype))
            before = parameter.summed_grad
            parameter.summed_grad = summed if before is None else before + summed
            _mark_as_processed(parameter.grad_sample)

    def _add(self) -> None:
        from opacus.optimizers.optimizer import _check_processed_flag, _generate_noise, _mark_as_processed

        optimizer: Any = self.optimizer
        drawn = {"generator": optimizer.generator, "secure_mode": optimizer.secure_mode}
        for parameter in optimizer.params:
            _check_processed_flag(parameter.summed_grad)
            std = self._noise * optimizer.max_grad_norm
            noise = _generate_noise(std, parameter.summed_grad, **drawn)
            parameter.grad = (parameter.summed_grad + noise).view_as(parameter)
            _mark_as_processed(parameter.summed_grad)
        norms, self._norms = torch.cat(self._norms), []
        if self.count_std is not None:
            # Opacus' AdaClip draws it for the samples that are not clipped.
            noise = -float(_generate_noise(self.count_std, torch.zeros((), device=norms.device), **drawn))
            size = optimizer.expected_batch_size * optimizer.accumulated_iterations
            c = optimizer.max_grad_norm
            self.released.append(noisy_clipped_share(norms, c, batch_size=size, noise=noise))


def attach_to_opacus(optimizer: DPOptimizer, schedule: MooClipSchedule) -> CountedClip:
    """Give an Opacus optimiser a schedule's norm, and the noise that pays for the release of the count.

    After the steps of a round: ``attached.begin(schedule.update(attached.share))``.

    Args:
        optimizer: what ``PrivacyEngine.make_private(..., poisson_sampling=True)`` gave, with flat clipping.
        schedule: the rule.

    Raises:
        InputError: another noise multiplier or batch size than the schedule's, a schedule without noise on the count,
            or see ``CountedClip``.

    Example:
        >>> import torch
        >>> from opacus import GradSampleModule
        >>> from opacus.optimizers import DPOptimizer
        >>> from tether.methods.dpfl_moo_clip import MooClipSchedule, attach_to_opacus
        >>> model = GradSampleModule(torch.nn.Linear(3, 2))
        >>> plain = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> optimizer = DPOptimizer(plain, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=16)
        >>> schedule = MooClipSchedule(0.5, noise_multiplier=1.0, dim=8, batch_size=16)
        >>> attached = attach_to_opacus(optimizer, schedule)
        >>> x, y = torch.randn(16, 3, requires_grad=True), torch.randint(0, 2, (16,))
        >>> torch.nn.functional.cross_entropy(model(x), y).backward()
        >>> _ = optimizer.step()
        >>> optimizer.max_grad_norm, 0 <= attached.share <= 1
        (0.5, True)
    """
    if optimizer.noise_multiplier != schedule.noise_multiplier:
        raise InputError(
            f"schedule: expected the optimiser's noise multiplier, {optimizer.noise_multiplier:g}, got "
            f"{schedule.noise_multiplier:g}"
        )
    if optimizer.expected_batch_size != schedule.batch_size:
        raise InputError(
            f"schedule: expected the optimiser's batch size, {optimizer.expected_batch_size}, got {schedule.batch_size}"
        )
    if not schedule.count_std:
        raise InputError("schedule: count_std is 0, so the share would be released without noise; expected some")
    return CountedClip(optimizer, c=schedule.c, count_std=schedule.count_std)
