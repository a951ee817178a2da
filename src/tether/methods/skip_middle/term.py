"""The penalty that holds the gates of towers to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import NonNegative, Positive, Share, checked
from tether.core.types import Loss
from tether.methods.skip_middle.gate_controller import GateController, Rule
from tether.models.towers.blocks.mirror_gate import moments
from tether.training.terms.term import Term, TermInputs


class GatePenalty(Term):
    """The gates' penalty (arXiv 2506.21103), for models with ``gate: mirror`` in a tower, over all that was encoded.

    Each gated tower has a controller of its own. What a step measured, over all its batches and all processes, moves
    the controllers when the next step begins, so the penalty is constant within one.
    """

    @checked
    def __init__(
        self,
        *,
        start: Share = 1.0,
        end: Share = 0.5,
        rule: Rule = "proportional",
        gain: Positive = 1e-3,
        dead_zone: NonNegative = 0.01,
    ) -> None:
        """Take what the gates are held to.

        Args:
            start: target of the outermost layers' mean gate.
            end: target of the middle layers'.
            rule: see ``GateController``.
            gain: see ``GateController``; the paper's 1e-3 is for runs of ten thousand steps and more.
            dead_zone: see ``GateController``.
        """
        self._start, self._end, self._rule, self._gain, self._dead_zone = start, end, rule, gain, dead_zone
        self.controllers: dict[str, GateController] = {}
        self._measured: dict[str, Tensor] = {}
        self._measured_at = -1

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: a model without a gate.
        """
        if step != self._measured_at:
            for side, measured in self._measured.items():
                self.controllers[side].update(*moments(measured))
            self._measured, self._measured_at = {}, step
        tallies = {side: gather(extra["gates"][None]).sum(0) for side, extra in seen.extra.items() if "gates" in extra}
        if not tallies:
            raise InputError("gates: no tower has a gate; set model: {vision: {gate: mirror}}, text or both")
        losses = []
        for side, tallied in tallies.items():
            if side not in self.controllers:
                self.controllers[side] = self._controller(len(tallied))
            mean, variance = moments(tallied)
            penalty = self.controllers[side].penalty_of(mean, variance)
            terms = {f"{side}_gate_penalty": penalty.detach(), f"{side}_gate": mean.detach().mean()}
            losses.append(Loss(penalty, terms))
            self._measured[side] = self._measured.get(side, 0) + tallied.detach()
        return losses

    def state_dict(self) -> dict[str, Any]:
        """The controllers, and what the last step measured."""
        return {
            "controllers": {side: controller.state_dict() for side, controller in self.controllers.items()},
            "measured": dict(self._measured),
            "measured_at": self._measured_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another instance of the same settings."""
        self.controllers = {}
        for side, values in state["controllers"].items():
            self.controllers[side] = self._controller(len(values["mean"]["weight"]))
            self.controllers[side].load_state_dict(values)
        self._measured, self._measured_at = dict(state["measured"]), state["measured_at"]

    def _controller(self, depth: int) -> GateController:
        return GateController(
            depth, start=self._start, end=self._end, rule=self._rule, gain=self._gain, dead_zone=self._dead_zone
        )
