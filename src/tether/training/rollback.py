"""What a run that mends itself needs: steps told good from bad, and states from before to go back to."""

from __future__ import annotations

import copy
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tether.core.errors import InputError, TetherError
from tether.training.checkpoints import Checkpoint
from tether.training.config import Rollback, RunConfig
from tether.training.loop import StepReport
from tether.training.parallel import part_copy

_CHANGE = 1.4826 / math.sqrt(2)
"""A normal deviation, in median changes from one step to the next; so a loss that falls is not a loss that scatters."""
_KEY = "rollback"


class DivergedError(TetherError):
    """Too many steps in a row had gradients that were not finite, or going back did not help."""


class TurnBackError(Exception):
    """Out of the loop, to go back to a state from before; each process raises it in the same step."""


def check_rollback(config: RunConfig, *, where: str) -> None:
    """Refuse a rule that could never come to act on gradients that are not finite.

    Raises:
        InputError: more bad steps in a row are asked for than the run bears.
    """
    rule = config.rollback
    if rule is not None and rule.sustained >= config.max_skips:
        raise InputError(
            f"{where}: rollback: sustained: expected less than max_skips, {config.max_skips}, got {rule.sustained}"
        )


def greatest(values: Iterable[Tensor], *, device: torch.device) -> list[float]:
    """The greatest of each number over all processes, the same in all of them; what is not finite counts as infinite.

    Args:
        values: 0-d tensors of this process.
        device: where processes talk.
    """
    each = torch.stack([value.detach().to(device, torch.float32) for value in values])
    each = torch.where(each.isfinite(), each, torch.inf)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(each, op=dist.ReduceOp.MAX)
    return each.tolist()


def steps_undone(records: Iterable[Mapping[str, Any]]) -> int:
    """Steps that were done once more, by the log's records of going back."""
    return sum(record["rollback"]["at"] + 1 - record["rollback"]["to"] for record in records)


class StepWatch:
    """Tells good steps from bad ones; given the same numbers, it says the same in every process.

    Attributes:
        bad: numbers of the steps in a row that are bad, up to the last one seen.

    Example:
        >>> from tether.training.config import Rollback
        >>> from tether.training.rollback import StepWatch
        >>> watch = StepWatch(Rollback(window=8))
        >>> for step in range(8):
        ...     assert watch.see(step, loss=2.0 + 0.01 * (step % 2), norm=1.0) is None
        >>> watch.see(8, loss=5.0, norm=1.0)
        'loss 5, where 2.406 is the limit'
        >>> watch.bad
        [8]
    """

    def __init__(self, rule: Rollback, *, scaled: bool = False) -> None:
        """Nothing seen yet.

        Args:
            rule: what is bad.
            scaled: losses are scaled for float16, and a gradient that is not finite only lowers the scale.
        """
        self._rule, self._scaled = rule, scaled
        self.reset()

    def reset(self) -> None:
        """Forget all steps: those to come are of another kind."""
        self.bad: list[int] = []
        self._losses: deque[float] = deque(maxlen=self._rule.window)
        self._norms: deque[float] = deque(maxlen=self._rule.window)

    def see(self, step: int, *, loss: float, norm: float) -> str | None:
        """Why a step is bad, or None for a good one, which is remembered.

        Args:
            step: its number.
            loss: greatest of all processes; infinite where one is not finite.
            norm: of the gradients, likewise.
        """
        why = self._why(loss, norm)
        if why is not None:
            self.bad.append(step)
            return why
        self.bad.clear()
        self._losses.append(loss)
        if math.isfinite(norm):
            self._norms.append(norm)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain values that let another one go on."""
        return {"bad": list(self.bad), "losses": list(self._losses), "norms": list(self._norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the one that gave the state."""
        self.reset()
        self.bad.extend(int(step) for step in state["bad"])
        self._losses.extend(float(value) for value in state["losses"])
        self._norms.extend(float(value) for value in state["norms"])

    def _why(self, loss: float, norm: float) -> str | None:
        rule = self._rule
        if not math.isfinite(loss):
            return "loss not finite"
        if not math.isfinite(norm):
            return None if self._scaled else "gradients not finite"
        for name, value, past, rise in (
            ("loss", loss, self._losses, rule.loss_rise),
            ("gradient norm", norm, self._norms, rule.norm_rise),
        ):
            if 2 * len(past) >= rule.window and value > (limit := _limit(past, rule.deviations, rise)):
                return f"{name} {value:.4g}, where {limit:.4g} is the limit"
        return None


def _limit(past: Iterable[float], deviations: float, rise: float) -> float:
    past = list(past)
    middle = statistics.median(past)
    spread = _CHANGE * statistics.median(abs(later - value) for value, later in pairwise(past))
    return middle + max(rise * abs(middle), deviations * spread)


class States:
    """The states that a run can go back to, oldest first, and how often it did.

    Attributes:
        watch: over its steps.
        records: of the log, one for each time.
    """

    def __init__(self, rule: Rollback, *, scaled: bool) -> None:
        """Args: rule: of the run; scaled: see ``StepWatch``."""
        self.rule, self.watch = rule, StepWatch(rule, scaled=scaled)
        self.records: list[dict[str, Any]] = []
        self._held: list[Checkpoint] = []

    def look(
        self, report: StepReport, *, asked: bool, device: torch.device
    ) -> tuple[bool, TurnBackError | DivergedError | None]:
        """Whether any process was asked to stop, and what to raise where too many steps are bad; equal in all.

        Args:
            report: of the last step.
            asked: whether this process was asked to stop.
            device: where processes talk.
        """
        numbers = [torch.tensor(float(asked)), report.loss, report.clip.norm]
        stop, loss, norm = greatest(numbers, device=device)
        why = self.watch.see(report.step, loss=loss, norm=norm)
        if why is None or len(self.watch.bad) < self.rule.sustained:
            return bool(stop), None
        if len(self.records) < self.rule.most:
            return bool(stop), TurnBackError(why)
        return bool(stop), DivergedError(
            f"step {report.step}: {why}; the run has gone back {len(self.records)} times and did not get past this. "
            f"Lower the learning rate, {report.learning_rate:g} at this step, warm up for longer, use a clipper, look "
            f"at the batches of these steps, or pass over more of them (rollback.further, now {self.rule.further})"
        )

    def turn_back(self, *, end: int, why: str, each: int) -> tuple[dict[str, Any], Checkpoint]:
        """The record of the log, and a copy of the state to go on from; later ones are let go.

        It is the newest that lies ``margin`` steps before the first bad one, else the oldest.

        Args:
            end: steps done.
            why: the last one is bad.
            each: batches of a step.
        """
        first = self.watch.bad[0]
        self._held = [one for one in self._held if one.step + self.rule.margin <= first] or self._held[:1]
        state = _copied(self._held[-1])
        self.watch.load_state_dict(state.state["watch"])
        passed = (end - state.step + self.rule.further) * each
        told = {"to": state.step, "first_bad": first, "at": end - 1, "why": why, "skipped_batches": passed}
        self.records.append({"step": max(0, state.step - 1), "rollback": told})
        return self.records[-1], state

    def begin(self, state: Checkpoint) -> None:
        """Hold this state alone: those before belong to another stretch of the run."""
        self.watch.reset()
        self._held = []
        self.hold(state)

    def due(self, done: int) -> bool:
        """Whether the state after so many steps is to be held: it is in its turn, and nothing is bad."""
        return done % self.rule.every == 0 and not self.watch.bad

    def hold(self, state: Checkpoint) -> None:
        """Hold a state, whose tensors nobody else moves, and let the oldest go."""
        values = copy.deepcopy(state.state) | {"watch": self.watch.state_dict()}
        self._held = [*self._held, replace(state, state=values)][-self.rule.states :]

    def save_into(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with all that is held; a state of the same step is not held twice."""
        tensors, held = dict(checkpoint.tensors), []
        for place, one in enumerate(self._held):
            own = one.step != checkpoint.step
            if own:
                tensors |= {f"back{place}_{name}": group for name, group in one.tensors.items()}
            held.append({"step": one.step, "own": own, "state": one.state, "groups": sorted(one.tensors)})
        kept = {"watch": self.watch.state_dict(), "records": self.records, "held": held}
        return replace(checkpoint, tensors=tensors, state={**checkpoint.state, _KEY: kept})

    def load_from(self, checkpoint: Checkpoint, *, held: bool = True) -> None:
        """Take over what ``save_into`` wrote.

        Args:
            checkpoint: that it is in.
            held: whether the states are wanted, too; those of another stretch are not.

        Raises:
            InputError: it holds no such thing.
        """
        tensors = checkpoint.tensors
        try:
            kept = checkpoint.state[_KEY]
            self._held = []
            for place, one in enumerate(kept["held"] if held else []):
                step, state = one["step"], dict(one["state"])
                if type(step) is not int or not 0 <= step <= checkpoint.step:
                    raise ValueError(f"a state of step {step!r:.80}, in a checkpoint of step {checkpoint.step}")
                self.watch.load_state_dict(state["watch"])  # so that what is wrong is said now, not in hours
                groups = {name: tensors[f"back{place}_{name}" if one["own"] else name] for name in one["groups"]}
                self._held.append(_copied(Checkpoint(step, groups, state)))
            if held and not self._held:
                raise ValueError("no state to go back to")
            self.records = [dict(record) for record in kept["records"]]
            self.watch.load_state_dict(kept["watch"])
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputError(f"{checkpoint.where}: does not fit this run: {_KEY}: {error}") from error


def _copied(one: Checkpoint) -> Checkpoint:
    """With memory of its own, which no step moves."""
    tensors = {name: {key: part_copy(value) for key, value in group.items()} for name, group in one.tensors.items()}
    return replace(one, tensors=tensors, state=copy.deepcopy(one.state))
