"""A tuning as it is described, and the one loop that plays it: resumable bit for bit, whatever is tuned."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.core.gather import LOCAL
from tether.core.protocols import DualEncoder, GradClipper, ModelEdit, Stateful, Step, Taught
from tether.models.load import fill
from tether.optim import OPTIMIZERS, parameter_groups
from tether.optim.clip import NoClip
from tether.training.checkpoints import Checkpoint, newest_checkpoint, save_checkpoint
from tether.training.locked_towers import kept_at_rest
from tether.training.loop import Player, Precision, StepReport, fit
from tether.training.parallel import load_optimizer_tensors, optimizer_tensors
from tether.training.schedules import Cosine, Schedule
from tether.training.steps.module import Encoder, StepModule
from tether.training.tensor_batches import Batches

SAVE_SECONDS = 30.0
"""Seconds of work between two checkpoints."""
MAX_SKIPS = 10
"""Steps in a row with gradients that are not finite, and so without effect, from which on a tuning is given up."""
T = TypeVar("T")
_BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


@dataclass(frozen=True)
class Tuning(Generic[T]):
    """What moves, by which loss, on which batches, and how fast.

    What moves is what has ``requires_grad`` in the model that is tuned and in ``modules``: who describes a tuning sets
    it, and applies its ``edits``, before.

    Attributes:
        step: from a batch to a loss; it is called with a ``training.steps.module.StepModule`` around the model, whose
            ``heads`` are ``modules``. A ``Stateful`` step and a ``Taught`` one are saved with the checkpoints.
        batches: endless; ``data.loader.Loader``, ``TensorBatches`` or ``ReplayedBatches``.
        steps: of the optimiser.
        optimizer: one of ``OPTIMIZERS`` and its settings, ``lr`` among them.
        weight_decay: of matrices.
        groups: the optimiser's parameter groups with their own settings, in place of ``parameter_groups``.
        schedule: of the learning rate.
        clipper: of the gradients.
        training: parts that are in training mode; in all others norms keep their statistics and nothing drops out.
        modules: what is trained beside the model and is no part of it.
        edits: applied already; merged into the weights at the end.
        fixed_images: whether an image of ``batches`` has the same pixels each time it comes; then a tower that rests
            reads it once, and its row is kept in the feature cache.
        kept: further parts with a state, such as an average of weights, by name.
        after_step: called after every step: follow an average, bound a scale.
        finish: called at the end, after edits are merged; what it gives is the ``outcome``.
    """

    step: Step
    batches: Batches
    steps: int
    optimizer: Mapping[str, Any]
    weight_decay: float = 0.0
    groups: Sequence[dict[str, Any]] | None = None
    schedule: Schedule = field(default_factory=Cosine)
    clipper: GradClipper = field(default_factory=NoClip)
    training: Sequence[nn.Module] = ()
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    edits: Sequence[ModelEdit] = ()
    fixed_images: bool = False
    kept: Mapping[str, Stateful] = field(default_factory=dict)
    after_step: Callable[[StepReport], None] | None = None
    finish: Callable[[], T] | None = None


@dataclass(frozen=True)
class Played(Generic[T]):
    """How a tuning went.

    Attributes:
        outcome: what ``finish`` gave; None without one.
        moved: names of the parameters that moved, edits' and modules' own among them.
        free: names in the base of all that may differ from it now: what moved, and what an edit was merged into.
        parameters: how many numbers these are.
        seconds: of the loop, over all processes that had a part in it.
        cpu_seconds: of processor time.
        loss: of the last step.
    """

    outcome: T | None
    moved: tuple[str, ...]
    free: frozenset[str]
    parameters: int
    seconds: float
    cpu_seconds: float
    loss: float


def play(
    tuning: Tuning[T],
    model: DualEncoder | nn.Module,
    *,
    folder: Path | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    save_seconds: float = SAVE_SECONDS,
) -> Played[T]:
    """Take all steps of a tuning, from the newest checkpoint of the folder on.

    A run that was interrupted ends with the very weights that it would have had without.

    Args:
        tuning: made anew from the base model in every process.
        model: that it moves; an encoder, or what ``tuning.step`` knows to use.
        folder: of the checkpoints; None keeps none.
        seed: of torch's own draws, such as dropout, during the run; outside they are not touched.
        on_step: called after each step.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.
        save_seconds: between two checkpoints.

    Raises:
        InputError: nothing that moves, or a checkpoint that does not fit.
        NotFiniteError: ``MAX_SKIPS`` steps in a row had gradients that were not finite, which is looked at where a
            checkpoint is due and at the end.
        StoppedError: it was asked to stop.
    """
    run = _Run(tuning, cast(nn.Module, model), folder=folder, seed=seed, save_seconds=save_seconds)
    with torch.random.fork_rng(devices=[]):
        return run.go(on_step=on_step, should_stop=should_stop)


class _Run(Generic[T]):
    """All parts of a tuning that is being played."""

    def __init__(
        self, tuning: Tuning[T], model: nn.Module, *, folder: Path | None, seed: int, save_seconds: float
    ) -> None:
        self.tuning, self.model, self.folder = tuning, model, folder
        self.seed, self.save_seconds = seed, save_seconds
        self.module = StepModule(cast(Encoder, model), heads=tuning.modules)
        device = next(model.parameters()).device
        self.module.to(device)
        self.module.eval()
        for part in tuning.training:
            part.train()
        self.module.kept = kept_at_rest(model, images=tuning.fixed_images)
        self.moving = [(name, one) for name, one in self.module.named_parameters() if one.requires_grad]
        if not self.moving or tuning.steps < 1:
            raise InputError(f"tuning: nothing to do: {len(self.moving)} parameters would move in {tuning.steps} steps")
        if isinstance(tuning.step, Taught):
            tuning.step.see_start(cast(DualEncoder, model))
        groups = list(tuning.groups) if tuning.groups is not None else None
        groups = groups or parameter_groups(self.module, weight_decay=tuning.weight_decay)
        optimizer = build(tuning.optimizer, OPTIMIZERS, where="tuning: optimizer", finite=True, params=groups)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"] * group.get("lr_scale", 1.0)
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in self.moving}
        self.player = Player(tuning.step, optimizer, self.moving, tuning.schedule, tuning.clipper)
        self.precision = Precision(device, torch.float32)
        self.skipped = torch.zeros((), dtype=torch.int64)  # steps in a row
        self.spent, self.cpu, self.loss, self.start = 0.0, 0.0, torch.tensor(float("nan")), 0

    def go(self, *, on_step: Callable[[StepReport], None] | None, should_stop: Callable[[], bool]) -> Played[T]:
        torch.manual_seed(self.seed)
        saved = None if self.folder is None else newest_checkpoint(self.folder, steps=self.tuning.steps)
        if saved is not None:
            self._restore(saved)
        begun, cpu, last = time.perf_counter(), time.process_time(), time.perf_counter()
        spent, used = self.spent, self.cpu

        def look(report: StepReport) -> None:
            nonlocal last
            if self.tuning.after_step is not None:
                self.tuning.after_step(report)
            if on_step is not None:
                on_step(report)
            self.loss = report.loss
            self.skipped = (self.skipped.to(report.clip.skip.device) + 1) * report.clip.skip
            self.spent, self.cpu = spent + time.perf_counter() - begun, used + time.process_time() - cpu
            stop, done = should_stop(), report.step + 1
            if self.folder is not None and (stop or time.perf_counter() - last >= self.save_seconds):
                self._check_finite(done)
                save_checkpoint(self.folder, self._checkpoint(done), keep=1)
                last = time.perf_counter()
            if stop:
                raise StoppedError(
                    f"stopped after step {done} of {self.tuning.steps}; the same command goes on from there"
                )

        fit(
            self.module,
            [self.player],
            self.tuning.batches,
            start=self.start,
            steps=self.tuning.steps,
            accumulate=1,
            precision=self.precision,
            gather=LOCAL,
            on_step=look,
        )
        self._check_finite(self.tuning.steps)
        moved = tuple(name.removeprefix("model.") for name, _ in self.moving)
        still = self._still()
        count = sum(parameter.numel() for _, parameter in self.moving)
        for edit in reversed(self.tuning.edits):
            edit.merge_(self.model)
        outcome = None if self.tuning.finish is None else self.tuning.finish()
        free = frozenset(self.model.state_dict()) - still
        return Played(outcome, moved, free, count, self.spent, self.cpu, float(self.loss))

    def _check_finite(self, done: int) -> None:
        if (skipped := int(self.skipped)) >= MAX_SKIPS:
            raise NotFiniteError(
                f"after step {done} of {self.tuning.steps}: gradients were not finite for {skipped} steps in a row"
            )

    def _still(self) -> set[str]:
        """Tensors of the model that rest: neither do they move, nor has an edit another tensor in their place."""
        moving = {name.removeprefix("model.") for name, _ in self.moving}
        buffers = set()  # what a norm in training mode counts
        for prefix, part in self.model.named_modules():
            if part.training:
                buffers |= {f"{prefix}.{name}".lstrip(".") for name, _ in part.named_buffers(recurse=False)}
        return set(self.model.state_dict()) - moving - buffers

    def _tensors(self) -> dict[str, Tensor]:
        """What a run changes of the model and the modules beside it; all of an edited one.

        PEFT's attention adds its change to the weights at rest in each forward and takes it away again, which rounds.
        """
        if self.tuning.edits:
            return dict(self.module.state_dict())
        moving = {name for name, _ in self.moving}
        frozen = {name for name, _ in self.module.named_parameters()} - moving
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in frozen}

    def _checkpoint(self, step: int) -> Checkpoint:
        kept = {name: part.state_dict() for name, part in self.tuning.kept.items()}
        if isinstance(self.tuning.step, Stateful):
            kept["step"] = self.tuning.step.state_dict()
        large: dict[str, Tensor] = {}
        state = {
            "data": self.tuning.batches.state_dict(),
            "clipper": self.player.clipper.state_dict(),
            "kept": _apart(kept, large),
            "generator": torch.get_rng_state(),
            "seconds": self.spent,
            "cpu_seconds": self.cpu,
            "loss": float(self.loss),
        }
        tensors = {"model": self._tensors(), "optimizer": optimizer_tensors(self.player.optimizer, self.names)}
        if isinstance(self.tuning.step, Taught):
            tensors["teacher"] = self.tuning.step.teacher_tensors()
        return Checkpoint(step, tensors | ({"kept": large} if large else {}), state)

    def _restore(self, checkpoint: Checkpoint) -> None:
        tensors, state = checkpoint.tensors, checkpoint.state
        try:
            fill(self.module, {**self.module.state_dict(), **tensors["model"]}, where=checkpoint.where)
            load_optimizer_tensors(self.player.optimizer, self.names, tensors["optimizer"])
            if isinstance(self.tuning.step, Taught):
                self.tuning.step.load_teacher_tensors(tensors["teacher"])
            kept = _together(state["kept"], tensors.get("kept", {}))
            for name, part in self.tuning.kept.items():
                part.load_state_dict(kept[name])
            if isinstance(self.tuning.step, Stateful):
                self.tuning.step.load_state_dict(kept["step"])
            self.tuning.batches.load_state_dict(state["data"])
            self.player.clipper.load_state_dict(state["clipper"])
            torch.set_rng_state(state["generator"])
            self.start, self.spent, self.cpu = checkpoint.step, float(state["seconds"]), float(state["cpu_seconds"])
            self.loss = torch.tensor(state["loss"])
        except _BROKEN as error:
            raise InputError(f"{checkpoint.where}: does not fit this tuning: {error}") from error


_LARGE = 256
"""Numbers from which on a tensor of a state has a place in a file of tensors, and not among the plain values."""
_AT = "tensor "


def _apart(value: Any, large: dict[str, Tensor]) -> Any:
    """The same with large tensors exchanged for the names that they get in ``large``."""
    if isinstance(value, Tensor) and value.numel() >= _LARGE:
        name = f"{_AT}{len(large)}"
        large[name] = value
        return name
    if isinstance(value, Mapping):
        return {key: _apart(item, large) for key, item in value.items()}
    return [_apart(item, large) for item in value] if isinstance(value, (list, tuple)) else value


def _together(value: Any, large: Mapping[str, Tensor]) -> Any:
    """What ``_apart`` was given, lists in the place of tuples."""
    if isinstance(value, str) and value in large:
        return large[value]
    if isinstance(value, Mapping):
        return {key: _together(item, large) for key, item in value.items()}
    return [_together(item, large) for item in value] if isinstance(value, list) else value
