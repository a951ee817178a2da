"""Contrastive training of towers whose gates are held to a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Objective
from tether.core.types import Batch, Loss
from tether.models.blocks.gate_controller import GateController, Rule
from tether.models.blocks.mirror_gate import moments
from tether.train.steps.contrastive import ContrastiveStep


class SkipMiddleStep:
    """The contrastive step plus the gates' penalty (arXiv 2506.21103), for models with ``gate: mirror`` in a tower.

    Each gated tower has a controller of its own. What a step measured, over all its batches and all processes, moves
    the controllers when the next step begins, so the penalty is constant within one.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        start: float = 1.0,
        end: float = 0.5,
        rule: Rule = "proportional",
        gain: float = 1e-3,
        dead_zone: float = 0.01,
        keep_patches: float = 1.0,
        full_last: float = 0.0,
    ) -> None:
        """Args: the loss, what the gates are held to, and how much of a picture is seen.

        objective: the loss.
        steps: length of the run.
        seed: see ``ContrastiveStep``.
        start: target of the outermost layers' mean gate.
        end: target of the middle layers'.
        rule: see ``GateController``.
        gain: see ``GateController``; the paper's 1e-3 is for runs of ten thousand steps and more.
        dead_zone: see ``GateController``.
        keep_patches: see ``ContrastiveStep``.
        full_last: see ``ContrastiveStep``.
        """
        self.inner = ContrastiveStep(objective, steps=steps, seed=seed, keep_patches=keep_patches, full_last=full_last)
        self._start, self._end, self._rule, self._gain, self._dead_zone = start, end, rule, gain, dead_zone
        self._controller(2)  # refuses settings out of range now, not at the first batch
        self.controllers: dict[str, GateController] = {}
        self._measured: dict[str, Tensor] = {}
        self._measured_at = -1

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward.

        Raises:
            InputError: a model without a gate.
        """
        if step != self._measured_at:
            for side, measured in self._measured.items():
                self.controllers[side].update(*moments(measured))
            self._measured, self._measured_at = {}, step
        out = self.inner.encode(model, batch, step=step, gather=gather)
        loss = self.inner.objective_at(step)(out, batch, gather=gather)
        total, terms = loss.total, dict(loss.terms)
        tallies = {
            side: gather(features.extra["gates"][None]).sum(0)
            for side, features in (("image", out.image), ("text", out.text))
            if "gates" in features.extra
        }
        if not tallies:
            raise InputError("step skip_middle: no tower has a gate; set model: {vision: {gate: mirror}}, text or both")
        for side, tallied in tallies.items():
            if side not in self.controllers:
                self.controllers[side] = self._controller(len(tallied))
            mean, variance = moments(tallied)
            penalty = self.controllers[side].penalty_of(mean, variance)
            total = total + penalty
            terms |= {f"{side}_gate_penalty": penalty.detach(), f"{side}_gate": mean.detach().mean()}
            self._measured[side] = self._measured.get(side, 0) + tallied.detach()
        return Loss(total, terms)

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
            depth,
            start=self._start,
            end=self._end,
            rule=self._rule,
            gain=self._gain,
            dead_zone=self._dead_zone,
        )
