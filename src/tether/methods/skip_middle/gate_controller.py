"""Keeps the mean and the variance of each layer's gate near a target, by a penalty whose weights it adapts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Positive, Share, checked
from tether.models.towers.blocks.mirror_gate import Depth, check_open

Rule = Literal["proportional", "adaptive", "proportional_derivative"]
SHORT, LONG = 1, 10
"""Steps that the two moving averages of the derivative look back over (arXiv 2506.21103, released code)."""


@dataclass(slots=True)
class _Track:
    """What is kept of one statistic, for each layer: its target, its weight in the penalty, and two averages."""

    target: Tensor
    weight: Tensor
    short: Tensor
    long: Tensor

    @classmethod
    def new(cls, target: Tensor) -> _Track:
        return cls(target, *(torch.zeros_like(target) for _ in range(3)))

    def to(self, device: torch.device) -> _Track:
        return _Track(*(part.to(device) for part in (self.target, self.weight, self.short, self.long)))

    def average(self, distance: Tensor, *, first: Tensor, finite: Tensor) -> None:
        """Move both averages; the first measurement is their start, one that is not finite leaves them."""
        short = torch.where(first, distance, self.short + (distance - self.short) / SHORT)
        long = torch.where(first, distance, self.long + (distance - self.long) / LONG)
        self.short, self.long = torch.where(finite, short, self.short), torch.where(finite, long, self.long)

    def state(self) -> dict[str, Tensor]:
        return {"weight": self.weight.clone(), "short": self.short.clone(), "long": self.long.clone()}

    def restored(self, state: Mapping[str, Tensor], *, where: str) -> _Track:
        parts = []
        for name in ("weight", "short", "long"):
            if name not in state or state[name].shape != self.target.shape:
                raise InputError(f"{where}.{name}: expected one value for each of {len(self.target)} layers")
            parts.append(state[name].to(self.target).clone())
        return _Track(self.target, *parts)


class GateController:
    """The adaptive regulariser of Skip-the-Middle (arXiv 2506.21103, section 3 and released code).

    ``penalty`` is the mean over layers of ``a_l mean(g_l) + b_l var(g_l)``. After each optimiser step ``update`` moves
    a and b by the distance of what was measured from its target, so a gate that is too open is pressed down harder and
    harder. The weights are no parameters, start at zero and have no bounds.
    """

    @checked
    def __init__(
        self,
        depth: Depth,
        *,
        start: Share = 1.0,
        end: Share = 0.5,
        rule: Rule = "proportional",
        gain: Positive = 1e-3,
        dead_zone: NonNegative = 0.01,
        variance_offset: float = 0.0,
    ) -> None:
        """Set the targets: of the mean from the outer layers to the middle, mirrored; of the variance ``t (1 - t)``.

        Args:
            depth: layers of the tower, an even number.
            start: target of the outermost layers' mean gate.
            end: target of the middle layers'.
            rule: ``proportional`` adds gain times the distance; ``adaptive`` adds the gain with its sign;
                ``proportional_derivative`` is the first, but only while the distance grows.
            gain: speed of the weights; the paper has 1e-3 for ``proportional``.
            dead_zone: distance up to which nothing changes.
            variance_offset: added to the variance's targets, which never fall below 0.
        """
        if depth % 2:
            raise InputError(f"depth: a mirror needs an even number of layers, got {depth}")
        self.depth, self.rule, self.gain, self.dead_zone = depth, rule, gain, dead_zone
        half = torch.linspace(start, end, depth // 2)
        mean = torch.cat([half, half.flip(0)])
        self._mean = _Track.new(mean)
        self._variance = _Track.new((mean * (1 - mean) + variance_offset).clamp(min=0))
        self._updates = torch.zeros((), dtype=torch.int64)

    @property
    def mean_target(self) -> Float[Tensor, " depth"]:
        """What the mean gates are held to."""
        return self._mean.target

    @property
    def variance_target(self) -> Float[Tensor, " depth"]:
        """What the variances are held to."""
        return self._variance.target

    @property
    def mean_weight(self) -> Float[Tensor, " depth"]:
        """The penalty's weights of the mean gates."""
        return self._mean.weight

    @property
    def variance_weight(self) -> Float[Tensor, " depth"]:
        """The penalty's weights of the variances."""
        return self._variance.weight

    def penalty(self, gates: Float[Tensor, "depth b n"]) -> Float[Tensor, ""]:
        """What to add to the loss, from every token's gate; the variance is unbiased."""
        if gates.ndim < 2 or len(gates) != self.depth or gates[0].numel() < 2:
            raise InputError(f"gates: expected ({self.depth}, b, n) of two tokens or more, got {tuple(gates.shape)}")
        check_open(gates, name="gates")
        flat = gates.flatten(1)
        return self.penalty_of(flat.mean(1), flat.var(1))

    def penalty_of(self, mean: Float[Tensor, " depth"], variance: Float[Tensor, " depth"]) -> Float[Tensor, ""]:
        """The same from each layer's mean and variance, with gradient."""
        self._enter(mean, variance)
        return (self._mean.weight * mean + self._variance.weight * variance).mean()

    @torch.no_grad()
    def update(self, mean: Float[Tensor, " depth"], variance: Float[Tensor, " depth"]) -> None:
        """Take in what one optimiser step measured, over all processes; call it after the backward.

        A measurement that is not finite changes nothing. Nothing is read from the device.
        """
        self._enter(mean, variance)
        finite = mean.isfinite().all() & variance.isfinite().all()
        for track, value in ((self._mean, mean), (self._variance, variance)):
            distance = value.to(track.target) - track.target
            track.average(distance, first=self._updates == 0, finite=finite)
            moves = finite & (distance.abs() > self.dead_zone)
            if self.rule == "proportional_derivative":
                moves = moves & (distance * (track.short - track.long) > 0)
            change = distance.sign() if self.rule == "adaptive" else distance
            track.weight = torch.where(moves, track.weight + self.gain * change, track.weight)
        self._updates = self._updates + finite

    def state_dict(self) -> dict[str, Any]:
        """The weights, the averages and the number of updates."""
        return {"mean": self._mean.state(), "variance": self._variance.state(), "updates": self._updates.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the controller did that gave ``state``.

        Raises:
            InputError: a state of another depth, or with other entries.
        """
        if set(state) != {"mean", "variance", "updates"}:
            raise InputError(f"state: expected mean, variance and updates, got {', '.join(sorted(state)) or 'nothing'}")
        self._mean = self._mean.restored(state["mean"], where="state.mean")
        self._variance = self._variance.restored(state["variance"], where="state.variance")
        self._updates = state["updates"].clone()

    def _enter(self, mean: Tensor, variance: Tensor) -> None:
        """Refuse other depths, and go to the device of what was measured."""
        for name, value in (("mean", mean), ("variance", variance)):
            if tuple(value.shape) != (self.depth,):
                raise InputError(f"{name}: expected one for each of {self.depth} layers, got {tuple(value.shape)}")
        if self._mean.target.device != mean.device:
            self._mean, self._variance = self._mean.to(mean.device), self._variance.to(mean.device)
        if self._updates.device != mean.device:
            self._updates = self._updates.to(mean.device)
