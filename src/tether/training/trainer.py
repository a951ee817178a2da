"""All parts of one stretch of a run: built from its settings, given the state of a checkpoint, and asked for theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import Finishing, ModelEdit, Owning, Stateful, Taught
from tether.data.loader import Loader
from tether.models.encoders.tower_parts import SIDES, Side, side_parts
from tether.models.load import fill
from tether.training.batches import go_on, make_batches, words_of
from tether.training.checkpoints import Checkpoint
from tether.training.ema import TRAILING, WeightAverage
from tether.training.locked_towers import kept_towers
from tether.training.loop import Player, Precision, StepReport, fit
from tether.training.parallel import (
    as_it_is,
    choose_checkpoints,
    choose_sharding,
    load_optimizer_tensors,
    optimizer_tensors,
    parallelise,
    part_copy,
    whole,
)
from tether.training.parts import build_edits, build_step, new_encoder, prune_vocabulary_
from tether.training.resized_checkpoint import resized_checkpoint
from tether.training.run_files import BAD_ROWS
from tether.training.schedules import SCHEDULES, StageSchedule, scaled_lr
from tether.training.stages import Stretch
from tether.training.steps.module import Encoder, StepModule

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_HEADS = "heads."
_AFTER = ("optimizer", "ema", "teacher")
"""Groups of a checkpoint that are read once the model is sharded; its weights are read before, by each process."""


class Trainer:
    """The model, its optimiser and its data for the steps of one stretch.

    Attributes:
        stretch: what it was built from.
        encoder: the model.
        forward: the (wrapped) module of the step.
        player: step, optimiser, schedule and clipper.
        loader: of the batches.
        average: of the weights, or None.
        precision: autocast and loss scale.
        sharded: whether each process writes its own part of a checkpoint.
    """

    def __init__(
        self,
        plan: Sequence[Stretch],
        number: int,
        *,
        checkpoint: Checkpoint | None,
        folder: Path,
        device: torch.device,
        gather: Gather,
        edits: Mapping[str, type[ModelEdit]],
        make_loader: Callable[..., Loader] = Loader,
        where: str,
    ) -> None:
        """Build everything, and take over a checkpoint of this stretch, or of the last step of the one before.

        Args:
            plan: all stretches of the run.
            number: the one to build.
            checkpoint: where to go on, or None at the beginning.
            folder: of the run.
            device: to train on.
            gather: rows of all processes.
            edits: what the settings may name as ``edits``.
            make_loader: gives the batches.
            where: file of the settings, for messages.
        """
        from tether.optim import OPTIMIZERS, parameter_groups, with_timm
        from tether.optim.clip import CLIPPERS

        self.stretch = stretch = plan[number]
        border = number and checkpoint is not None and checkpoint.step == stretch.first
        crossing = border and checkpoint is not None and not checkpoint.state.get("crossed")
        before = plan[number - 1] if crossing else stretch
        if checkpoint is not None and not stretch.keeps(before, "model"):
            checkpoint = resized_checkpoint(checkpoint, before.config, stretch)
        self.config, self.device, self.gather = stretch.config, device, gather
        config = stretch.config
        self.edits = build_edits(config, edits, where=where)
        self.edited: set[Side] = set()
        self.encoder = self._new_encoder()
        step = build_step(config, where=where)
        if isinstance(step, Taught):
            step.see_start(self.encoder)
        if checkpoint is not None:
            fill(self.encoder, checkpoint.group("model"), where=checkpoint.where)
        if config.vocabulary == "used":
            prune_vocabulary_(self.encoder, words_of([one.config for one in plan], where=where), plan=plan)
        if config.logit_scale == "fixed":
            self.encoder.freeze_logit_scale_()
        heads = step.new_heads(self.encoder) if isinstance(step, Owning) else {}
        self.module = StepModule(self.encoder, micro_batch=config.micro_batch, heads=heads)
        if checkpoint is not None and heads:
            self._fill_heads(checkpoint.group("heads"))
        averaged = {name for name, parameter in self._named() if parameter.requires_grad}
        self._freeze(where=where)
        self.module.to(device).train()
        self.sharding = choose_sharding(config.sharding)
        self.sharded = choose_checkpoints(config.checkpoints, sharding=self.sharding) == "sharded"
        self.forward = parallelise(self.module, sharding=self.sharding, device=device)
        named = [(name, parameter) for name, parameter in self._named() if parameter.requires_grad]
        self.names: dict[torch.Tensor, str] = {parameter: name for name, parameter in named}

        groups = parameter_groups(self.module, weight_decay=config.weight_decay)
        if config.towers:
            from tether.optim import layer_decay_groups

            towers = {f"model.{name}": settings for name, settings in config.towers.items()}
            groups = layer_decay_groups(self.module, towers=towers, weight_decay=config.weight_decay)
        optimizers = with_timm(OPTIMIZERS, config.optimizer)
        optimizer = build(config.optimizer, optimizers, where=f"{where}: optimizer", finite=True, params=groups)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"] * group.get("lr_scale", 1.0) * self._rate(optimizer)
        schedule = build(config.schedule, SCHEDULES, where=f"{where}: schedule", finite=True)
        if stretch.own_schedule:
            schedule = StageSchedule(schedule, first=stretch.first, end=stretch.end)
        self.player = Player(
            step=step,
            optimizer=optimizer,
            named_parameters=named,
            schedule=schedule,
            clipper=build(config.clipper, CLIPPERS, where=f"{where}: clipper"),
        )
        self.loader = make_batches(
            config,
            encoder=self.encoder,
            gather=gather,
            on_bad=folder / BAD_ROWS,
            make_loader=make_loader,
            where=where,
        )
        self.module.kept = kept_towers(
            self.encoder,
            config=config,
            loader=self.loader,
            sharding=self.sharding,
            edited=self.edited,
        )
        self.precision = Precision(device, _DTYPES[config.precision])
        kept = [(name, parameter) for name, parameter in self._named() if name in averaged]
        self.average = WeightAverage(kept, decay=config.ema) if config.ema else None
        if checkpoint is not None:
            try:
                self._restore(checkpoint, before=before)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
                raise InputError(f"{checkpoint.where}: does not fit this run: {error}") from error

    def fit(self, *, start: int, end: int | None = None, on_step: Callable[[StepReport], None]) -> None:
        """Train from step ``start`` to the stretch's end, or to an earlier one; see ``loop.fit``."""
        fit(
            self.forward,
            [self.player],
            self.loader,
            start=start,
            steps=self.config.steps,
            end=self.stretch.end if end is None else end,
            accumulate=self.config.accumulate,
            precision=self.precision,
            gather=self.gather,
            on_step=on_step,
        )

    def checkpoint(self, *, held: bool = False) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """Tensors by group, and plain state; every process must call it.

        Tensors are whole copies on the CPU; where checkpoints are sharded, this process's own parts as they are.

        Args:
            held: its own parts are copied, too, for they are wanted after the next step.
        """
        take = whole if not self.sharded else part_copy if held else as_it_is
        moments = optimizer_tensors(self.player.optimizer, self.names, take=take)
        tensors = {"model": self.model_tensors(take), "optimizer": moments}
        if len(self.module.heads):
            tensors["heads"] = self.head_tensors(take)
        if self.average is not None:
            tensors["ema"] = self.average.tensors(take)
        if isinstance(self.player.step, Taught) and (moving := self.player.step.teacher_tensors()):
            tensors["teacher"] = moving
        state = {
            "data": self.loader.state_dict(),
            "clipper": self.player.clipper.state_dict(),
            "step": self.player.step.state_dict() if isinstance(self.player.step, Stateful) else {},
            "scaler": self.precision.scaler.state_dict(),
            "generator": torch.get_rng_state(),
        }
        return tensors, state

    def whole_encoder(self) -> Encoder:
        """The encoder itself, or a copy put together from its shards."""
        if self.sharding != "fsdp2":
            return self.encoder
        encoder = self._new_encoder()
        fill(encoder, self.model_tensors(), where="shards")
        return encoder.to(self.device)

    def model_tensors(self, take: Callable[[torch.Tensor], torch.Tensor] = whole) -> dict[str, torch.Tensor]:
        """The encoder's weights, whole and on the CPU, or as ``take`` gives them; every process must call it."""
        return {name: take(tensor) for name, tensor in self.encoder.state_dict().items()}

    def head_tensors(self, take: Callable[[torch.Tensor], torch.Tensor] = whole) -> dict[str, torch.Tensor]:
        """The step's own modules' weights, likewise."""
        return {name: take(tensor) for name, tensor in self.module.heads.state_dict().items()}

    def placed(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint with what lies in the files of several processes read, each tensor sharded as it is here.

        Every process must call it, and reads its own part alone.
        """
        if checkpoint.shards is None:
            return checkpoint
        from tether.training.sharded import read_sharded

        live: Mapping[str, Mapping[str, torch.Tensor]] = {
            "model": self.encoder.state_dict(),
            "heads": self.module.heads.state_dict(),
            "ema": dict(self._named()),
            "optimizer": {name: parameter for parameter, name in self.names.items()},
        }
        tensors = {group: dict(found) for group, found in checkpoint.tensors.items()}
        targets: dict[str, torch.Tensor] = {}
        for group, found in tensors.items():
            kind = group.rpartition("_")[2]  # of a state that a rollback goes to, too
            for name, outline in found.items():
                near = live.get(kind, {}).get(name.rpartition(".")[0] if kind == "optimizer" else name)
                if not outline.is_meta:
                    continue
                if near is not None and near.shape == outline.shape:
                    found[name] = torch.empty_like(near, dtype=outline.dtype, requires_grad=False)
                else:
                    found[name] = torch.empty_like(outline, device="cpu")
                targets[f"{group}/{name}"] = found[name]
        read_sharded(checkpoint.shards, targets)
        return replace(checkpoint, tensors=tensors, shards=None)

    def finished(self, encoder: Encoder, heads: Mapping[str, torch.Tensor]) -> Encoder:
        """The encoder as it is measured and saved, with the modules of the step that stay.

        Args:
            encoder: as ``whole_encoder`` gave it, edits merged.
            heads: as ``head_tensors`` gave them.
        """
        step = self.player.step
        return cast(Encoder, step.finished(encoder, heads)) if heads and isinstance(step, Finishing) else encoder

    def _rate(self, optimizer: torch.optim.Optimizer) -> float:
        """What the optimiser's learning rate is multiplied by at the top of the schedule."""
        if self.stretch.base_lr is None:
            return self.stretch.learning_rate
        return scaled_lr(self.stretch.base_lr, batch=self.config.batch_size) / optimizer.defaults["lr"]

    def _new_encoder(self) -> Encoder:
        encoder = new_encoder(self.config)
        if self.edits:
            before = _makes(encoder)
            for place, edit in enumerate(self.edits):
                try:
                    edit.apply_(encoder)
                except InputError as error:
                    raise type(error)(f"edits, entry {place}: {error}") from error
            after = _makes(encoder)
            self.edited = {side for side in SIDES if before[side] != after[side]}
        return encoder

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All parameters; those of the model have its own names."""
        yield from self.encoder.named_parameters()
        yield from self.module.heads.named_parameters(prefix=_HEADS[:-1])

    def _freeze(self, *, where: str) -> None:
        """Let only those parameters learn that the settings name."""
        patterns = self.config.trainable
        if patterns is None:
            return
        names = [name for name, parameter in self._named() if parameter.requires_grad]
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(f"{where}: trainable: no parameter is like {pattern!r}; {closest(pattern, names)}")
        for name, parameter in self._named():
            if not any(fnmatchcase(name, pattern) for pattern in patterns):
                parameter.requires_grad_(False)

    def _fill_heads(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over the heads of a checkpoint; others stay as drawn, copies begin as what they trail."""

        def of(name: str) -> dict[str, torch.Tensor]:
            prefix = f"{name}."
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name, head in self.module.heads.items():
            if own := of(name) or of(name.removesuffix(TRAILING)):
                fill(head, own, where=f"head {name}")

    def _restore(self, checkpoint: Checkpoint, *, before: Stretch) -> None:
        """Take over a checkpoint that the stretch ``before`` has made: of what has changed since, nothing."""
        state, kept = checkpoint.state, self.stretch.keeps
        tensors = {name: group for name, group in checkpoint.tensors.items() if name in _AFTER}
        if not kept(before, "trainable", "step"):
            known, moments = set(self.names.values()), tensors["optimizer"]
            tensors["optimizer"] = {key: one for key, one in moments.items() if key.rpartition(".")[0] in known}
        else:
            self.player.clipper.load_state_dict(state["clipper"])
        tensors = self.placed(replace(checkpoint, tensors=tensors)).tensors
        load_optimizer_tensors(self.player.optimizer, self.names, tensors["optimizer"])
        if self.average is not None:
            self.average.load(tensors["ema"])
        if kept(before, "data", "batch_size", "beside"):
            self.loader.load_state_dict(state["data"])
        else:
            go_on(self.loader, state["data"], config=self.config, before=before.config)
        if kept(before, "step") and isinstance(self.player.step, Taught):
            self.player.step.load_teacher_tensors(tensors.get("teacher", {}))
        if kept(before, "step", "objective") and isinstance(self.player.step, Stateful) and state.get("step"):
            self.player.step.load_state_dict(state["step"])
        self.precision.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])


def _makes(encoder: Encoder) -> dict[Side, str]:
    """What the parts of each side are made of, to tell what an edit has changed."""
    try:
        return {side: str(side_parts(encoder, side)) for side in SIDES}
    except InputError:
        return dict.fromkeys(SIDES, "")
