"""ZClip: gradient spikes as outliers of an exponential mean and variance of the global norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Decay, Limit, NonNegative, Positive, checked
from tether.optim.clip.base import UniformClipper

DIVISOR_EPS = 1e-6
"""Added to the norm when gradients are scaled (zclip.py, ``apply_in_place_clipping``; torch's rule in warm-up)."""


@final
class ZClip(UniformClipper):
    """Clips only when the norm's z-score passes a limit, and the harder the larger it is.

    After ``warmup_steps`` plain norms give a first mean and variance. From then on a norm ``n`` with
    ``z = (n - mean) / (deviation + eps) > z_thresh`` is brought to
    ``clip_factor * (mean + z_thresh^2 / z * deviation)`` and enters the statistics with that value; any other enters
    as it is. ``max_grad_norm`` bounds the result as well, but the statistics do not see that cut.

    Source: arXiv 2504.02507, and the released code v1.0.0, which is followed where its text differs (``clip_factor``
    multiplies the whole limit). Of our own: state that can be saved, the non-finite rule, ``min_threshold_ratio``.

    Example:
        >>> import torch
        >>> from tether.methods.zclip import ZClip
        >>> layer, clipper = torch.nn.Linear(4, 1), ZClip(warmup_steps=5)
        >>> for step in range(10):
        ...     layer.zero_grad()
        ...     (layer(torch.ones(8, 4)).mean() * (1000 if step == 9 else 0.1)).backward()  # the last batch is bad
        ...     report = clipper.clip_(layer.named_parameters(), step=step)
        >>> print(f"norm {report.norm:.0f} scaled to {report.norm * report.scale:.2f}")
        norm 2236 scaled to 0.22
    """

    records: ClassVar[Literal["nothing", "raw", "clipped"]] = "clipped"

    @checked
    def __init__(
        self,
        *,
        alpha: Decay = 0.97,
        z_thresh: Limit = 2.5,
        max_grad_norm: Limit | None = 1.0,
        eps: NonNegative = 1e-6,
        warmup_steps: Count = 25,
        mode: Literal["zscore", "percentile"] = "zscore",
        clip_option: Literal["adaptive_scaling", "mean"] = "adaptive_scaling",
        clip_factor: Positive = 1.0,
        skip_update_on_spike: bool = False,
        min_threshold_ratio: NonNegative = 0.0,
        nonfinite: Literal["skip", "raise"] = "skip",
    ) -> None:
        """Take the settings; the defaults are the released code's.

        Args:
            alpha: weight of the past in mean and variance.
            z_thresh: z-score above which a norm is a spike.
            max_grad_norm: fixed limit besides the adaptive one, also in warm-up, or None.
            eps: added to the deviation in the z-score.
            warmup_steps: norms collected before the first mean.
            mode: ``zscore``, or ``percentile``, which clips to ``mean + z_thresh * deviation``.
            clip_option: in ``zscore`` mode, ``adaptive_scaling`` as above or ``mean``, which clips to the mean.
            clip_factor: multiplies the adaptive limit. Below 1 the clipped values pull the mean down, which
                clips more: with a low ``alpha`` the norm dies away within a hundred steps.
            skip_update_on_spike: leave the statistics alone on a clipped step.
            min_threshold_ratio: the adaptive limit never falls below this share of the mean at the end of warm-up;
                0 is off. It stops the death spiral of a low ``clip_factor``.
            nonfinite: ``skip`` or ``raise``, see ``UniformClipper``.
        """
        super().__init__(nonfinite=nonfinite)
        self.alpha, self.z_thresh, self.eps, self.warmup_steps = alpha, z_thresh, eps, warmup_steps
        self.max_grad_norm, self.mode = max_grad_norm, mode
        self.clip_option, self.clip_factor = clip_option, clip_factor
        self.skip_update_on_spike, self.min_threshold_ratio = skip_update_on_spike, min_threshold_ratio
        wide = torch.float64
        self._state = {
            "mean": torch.tensor(math.nan, dtype=wide),
            "variance": torch.tensor(math.nan, dtype=wide),
            "first_mean": torch.tensor(math.nan, dtype=wide),
            "adaptive_limit": torch.tensor(math.inf, dtype=wide),
            "warmup": torch.zeros(warmup_steps, dtype=wide),
            "recorded": torch.tensor(0),
            "judged": torch.tensor(0),
            "clipped": torch.tensor(0),
        }

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Exponential mean of the norms; NaN while warming up."""
        return self._state["mean"]

    @property
    def variance(self) -> Float[Tensor, ""]:
        """Exponential variance of the norms; NaN while warming up."""
        return self._state["variance"]

    @property
    def adaptive_limit(self) -> Float[Tensor, ""]:
        """What the last step's norm was brought to before ``max_grad_norm``; infinity when it was no spike."""
        return self._state["adaptive_limit"]

    @property
    def clipped_fraction(self) -> Float[Tensor, ""]:
        """Share of the steps since warm-up that were spikes; a share near 1 tells of a death spiral."""
        return self._state["clipped"] / self._state["judged"].clamp(min=1)

    def _decide(self, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        if self.mean.device != norm.device:
            self._move(norm)
        state = self._state
        warming = state["recorded"] < self.warmup_steps
        infinity = torch.full_like(norm, math.inf)
        ceiling = infinity if self.max_grad_norm is None else torch.full_like(norm, self.max_grad_norm)

        target, trigger, over = self._judge(norm)
        over = over & ~warming & finite
        entered = torch.where(over, target, norm)
        effective = torch.minimum(entered, ceiling)
        scale = torch.where(norm > effective, effective / (norm + DIVISOR_EPS), 1.0)
        scale = torch.where(warming, (ceiling / (norm + DIVISOR_EPS)).clamp(max=1.0), scale)
        threshold = torch.where(warming, ceiling, torch.minimum(trigger, ceiling))

        self._record(norm, entered, warming=warming, finite=finite, over=over)
        state["adaptive_limit"] = torch.where(over, target, infinity)
        return scale, threshold

    def _judge(self, norm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The value a spike is brought to, the norm from which it is one, and whether this norm is."""
        deviation = self.variance.sqrt()
        if self.mode == "percentile":
            trigger = target = self.mean + self.z_thresh * deviation
            over = norm > trigger
        else:
            z = (norm - self.mean) / (deviation + self.eps)
            over = z > self.z_thresh
            trigger = self.mean + self.z_thresh * (deviation + self.eps)
            if self.clip_option == "mean":
                target = self.mean
            else:
                target = self.clip_factor * (self.mean + self.z_thresh * deviation / (z / self.z_thresh))
        if self.min_threshold_ratio > 0:
            lowest = self.min_threshold_ratio * self._state["first_mean"]
            over = over & ((target >= lowest) | (norm > lowest))
            target, trigger = torch.maximum(target, lowest), torch.maximum(trigger, lowest)
        return target, trigger, over

    def _record(self, norm: Tensor, entered: Tensor, *, warming: Tensor, finite: Tensor, over: Tensor) -> None:
        state = self._state
        steady = finite & ~warming
        update = steady & ~over if self.skip_update_on_spike else steady
        mean = self.alpha * state["mean"] + (1 - self.alpha) * entered
        variance = self.alpha * state["variance"] + (1 - self.alpha) * (entered - mean).square()

        place = torch.arange(self.warmup_steps, device=norm.device) == state["recorded"]
        state["warmup"] = torch.where(place & finite, norm, state["warmup"])
        state["recorded"] = state["recorded"] + (warming & finite)
        ready = warming & finite & (state["recorded"] == self.warmup_steps)
        first = state["warmup"].mean()
        first_variance = (state["warmup"] - first).square().mean()

        state["mean"] = torch.where(ready, first, torch.where(update, mean, state["mean"]))
        state["variance"] = torch.where(ready, first_variance, torch.where(update, variance, state["variance"]))
        state["first_mean"] = torch.where(ready, first, state["first_mean"])
        state["judged"] = state["judged"] + steady
        state["clipped"] = state["clipped"] + over

    def _move(self, norm: Tensor) -> None:
        """Put the state on the gradients' device, once."""
        self._state = {
            key: value.to(norm.device, norm.dtype if value.is_floating_point() else value.dtype)
            for key, value in self._state.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Mean, variance, warm-up norms, counts and settings."""
        return {**super().state_dict(), **{key: value.clone() for key, value in self._state.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of a ZClip with the same settings."""
        super().load_state_dict(state)
        for key, own in self._state.items():
            if torch.as_tensor(state[key]).shape != own.shape:
                raise InputError(f"ZClip state: {key} has shape {tuple(state[key].shape)}, expected {tuple(own.shape)}")
        self._state = {key: torch.as_tensor(state[key]).to(own, copy=True) for key, own in self._state.items()}

    def _settings(self) -> dict[str, Any]:
        names = (
            "alpha z_thresh max_grad_norm eps warmup_steps mode clip_option clip_factor skip_update_on_spike"
            " min_threshold_ratio nonfinite"
        )
        return {name: getattr(self, name) for name in names.split()}
