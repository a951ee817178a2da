"""A run from its configuration to its folder: build the parts, resume or refuse, train, save."""

from __future__ import annotations

import importlib.util
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tether.core.atomic_io import read_json, write_json
from tether.core.component import build
from tether.core.errors import InputError, MissingExtraError, StoppedError, TetherError, WriteError
from tether.core.gather import process_gather
from tether.core.protocols import ModelEdit, Stateful
from tether.data.loader import Loader
from tether.models.load import fill
from tether.models.save import describe_weights, save, write_config
from tether.train.checkpoints import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from tether.train.claim import claimed
from tether.train.config import RunConfig
from tether.train.ema import WeightAverage
from tether.train.environment import describe_environment
from tether.train.loop import Player, Precision, StepReport, fit
from tether.train.metrics_log import Logbook
from tether.train.parallel import (
    choose_sharding,
    load_optimizer_tensors,
    optimizer_tensors,
    parallelise,
    together,
    whole,
)
from tether.train.parts import Encoder, build_edits, check_parts, new_encoder, prune_vocabulary_
from tether.train.run_files import BAD_ROWS, CHECKPOINTS, CONFIG, ENVIRONMENT, METRICS, SUMMARY
from tether.train.schedules import SCHEDULES
from tether.train.steps import STEPS, PairForward

if TYPE_CHECKING:
    from accelerate import Accelerator

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Evaluate = Callable[[Encoder], dict[str, float]]
OnRecord = Callable[[dict[str, Any]], None]


class DivergedError(TetherError):
    """Too many steps in a row had gradients that were not finite."""


@dataclass(frozen=True)
class Result:
    """What a finished run leaves in ``summary.json``; ``metrics`` are the last evaluation's.

    Attributes:
        steps: optimiser steps, skipped ones included.
        skipped: steps whose gradients were not finite.
        seconds: wall time of training, without evaluations and checkpoints.
        images_per_second: over all of it.
        loss: of the last step.
        metrics: the last evaluation.
    """

    steps: int
    skipped: int
    seconds: float
    images_per_second: float
    loss: float
    metrics: dict[str, float]


def train(
    config: RunConfig,
    *,
    folder: Path,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    on_record: OnRecord | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    edits: Mapping[str, type[ModelEdit]] = MappingProxyType({}),
    make_loader: Callable[..., Loader] = Loader,
) -> Result:
    """Train one model into ``folder``.

    Args:
        config: everything that decides the trajectory.
        folder: gets config.yaml, metrics.jsonl and checkpoints/; at the end the model and summary.json.
        resume: go on from the folder's newest checkpoint (from step 0 if there is none yet); a finished run is left
            as it is and its result given.
        evaluate: measures a model; called every ``config.evaluate.every`` steps and at the end.
        on_record: gets each log record (main process only).
        should_stop: asked after every step; when true the run saves and raises ``StoppedError``.
        edits: what ``config.edits`` may name, such as ``tether.compress.quantise.QUANTISERS``. They are applied before
            training and merged into the weights after it, before the last evaluation.
        make_loader: gives the batches; who trains several times on the same data can hand out one loader again.

    Raises:
        InputError: the folder holds a run and ``resume`` is false, or that run has other settings.
        LockedError: another run is writing there.
        DivergedError: too many non-finite steps in a row; the newest checkpoint is from before.
        TetherError: the disk is full, or another process of the run ended; it says what to go on from.
    """
    from accelerate import Accelerator

    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise MissingExtraError(tracker, extra="track")
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    check_parts(config, edits, where="settings")
    again = f"go on with: tether train --resume --out {folder}"
    with together(again=again):
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else it overlooks a CPU's process group
            log_with=list(config.trackers) or None,
            project_dir=folder,
        )
        with claimed(folder, config, resume=resume):
            if (folder / SUMMARY).exists():
                return read_result(folder)
            try:
                run = _Run(
                    config,
                    folder,
                    accelerator,
                    evaluate=evaluate,
                    on_record=on_record,
                    should_stop=should_stop,
                    edits=edits,
                    make_loader=make_loader,
                )
                return run.go()
            except WriteError as error:
                saved = list_checkpoints(folder / CHECKPOINTS)
                safe = f"the newest checkpoint is {saved[-1].name}" if saved else "there is no checkpoint yet"
                raise TetherError(f"{error}\n{safe}; when there is room, {again}") from error


class _Run:
    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        accelerator: Accelerator,
        *,
        evaluate: Evaluate | None,
        on_record: OnRecord | None,
        should_stop: Callable[[], bool],
        edits: Mapping[str, type[ModelEdit]],
        make_loader: Callable[..., Loader],
    ) -> None:
        from tether import data
        from tether.data.augment import AUGMENTATIONS
        from tether.data.captions import CAPTION_PICKS
        from tether.losses import OBJECTIVES
        from tether.optim import OPTIMIZERS, parameter_groups
        from tether.optim.clip import CLIPPERS

        self.config, self.folder, self.evaluate = config, folder, evaluate
        self.on_record, self.should_stop = on_record, should_stop
        self.accelerator, self.main, self.device = accelerator, accelerator.is_main_process, accelerator.device
        self.gather = process_gather()
        saved = list_checkpoints(folder / CHECKPOINTS)
        where = str(folder / CONFIG) if saved else "settings"

        random.seed(config.seed)
        np.random.seed(config.seed % 2**32)  # noqa: NPY002 - libraries below may draw from the global one
        torch.manual_seed(config.seed)
        checkpoint = load_checkpoint(saved[-1]) if saved else None
        self.edits = build_edits(config, edits, where=where)
        self.encoder = self._new_encoder()
        if checkpoint is not None:
            fill(self.encoder, checkpoint.tensors.get("model", {}), where=saved[-1])
        source = data.open_source(config.data, where=f"{where}: data")
        if config.vocabulary == "used":
            prune_vocabulary_(self.encoder, source)
        if config.logit_scale == "fixed":
            self.encoder.freeze_logit_scale_()
        self.encoder.to(self.device).train()
        pair = PairForward(self.encoder, micro_batch=config.micro_batch)
        self.sharding = choose_sharding(config.sharding)
        self.forward = parallelise(pair, sharding=self.sharding, device=self.device)
        named = [(name, p) for name, p in self.encoder.named_parameters() if p.requires_grad]
        self.names: dict[torch.Tensor, str] = {parameter: name for name, parameter in named}

        groups = parameter_groups(self.encoder, weight_decay=config.weight_decay)
        optimizer = build(config.optimizer, OPTIMIZERS, where=f"{where}: optimizer", finite=True, params=groups)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"] * group.get("lr_scale", 1.0)
        objective = build(config.objective, OBJECTIVES, where=f"{where}: objective")
        step = build(
            config.step, STEPS, where=f"{where}: step", objective=objective, steps=config.steps, seed=config.seed
        )
        self.player = Player(
            step=step,
            optimizer=optimizer,
            named_parameters=named,
            schedule=build(config.schedule, SCHEDULES, where=f"{where}: schedule", finite=True),
            clipper=build(config.clipper, CLIPPERS, where=f"{where}: clipper"),
        )
        self.loader = make_loader(
            source,
            batch_size=config.batch_size,
            image_spec=self.encoder.image_spec,
            tokenizer=self.encoder.tokenizer,
            seed=config.seed,
            rank=self.gather.rank,
            world=self.gather.world,
            workers=config.workers,
            caption=build(config.caption, CAPTION_PICKS, where=f"{where}: caption"),
            augment=build(config.augment, AUGMENTATIONS, where=f"{where}: augment") if config.augment else None,
            on_bad=folder / BAD_ROWS,
            strict=config.strict,
        )
        self.precision = Precision(self.device, _DTYPES[config.precision])
        self.average = WeightAverage(named, decay=config.ema) if config.ema else None
        self.done, self.skipped, self.in_row, self.seconds, self.metrics = 0, 0, 0, 0.0, {}
        self.last_loss = float("nan")
        if checkpoint is not None:
            try:
                self._restore(checkpoint)
            except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
                raise InputError(f"{saved[-1]}: does not fit this run: {error}") from error

    def go(self) -> Result:
        config = self.config
        if self.main:
            write_config(self.encoder, self.folder)
            write_json(self.folder / ENVIRONMENT, describe_environment() | {"processes": self.gather.world})
            self.logbook = Logbook(self.folder / METRICS, steps_done=self.done)
        if config.trackers:
            plain = config.model_dump(mode="json").items()
            flat = {key: value if isinstance(value, (int, float, str)) else json.dumps(value) for key, value in plain}
            self.accelerator.init_trackers(self.folder.name, config=flat)
        self.pending: list[StepReport] = []
        self.clock = time.perf_counter()
        try:
            fit(
                self.forward,
                [self.player],
                self.loader,
                start=self.done,
                steps=config.steps,
                accumulate=config.accumulate,
                precision=self.precision,
                gather=self.gather,
                on_step=self._on_step,
            )
        finally:
            self.loader.close()
            if self.main:
                self.logbook.close()
            if config.trackers:
                self.accelerator.end_training()
        return self._finish()

    def _on_step(self, report: StepReport) -> None:
        config = self.config
        self.encoder.clamp_logit_scale_()
        if self.average is not None:
            self.average.update_()
        self.done = report.step + 1
        self.pending.append(report)
        last = self.done == config.steps
        if last or self.done % config.log_every == 0:
            self._log()
        every = config.evaluate.every if config.evaluate else 0
        if self.evaluate and not last and every and self.done % every == 0:
            self._evaluate()
        stop = self._asked_to_stop()
        if stop or (self.done % config.save_every == 0 and not last):
            self._save()
        if stop:
            raise StoppedError(f"stopped after step {self.done}; go on with: tether train --resume --out {self.folder}")

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to; all learn it in the same step, so that they save together."""
        asked = self.should_stop()
        if self.gather.world == 1:
            return asked
        return bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.device), reduction="sum"))

    def _log(self) -> None:
        """Write the pending records: loss and terms are means over processes, all else is equal in all of them."""
        elapsed = time.perf_counter() - self.clock
        self.seconds += elapsed
        pairs = len(self.pending) * self.config.batch_size * self.config.accumulate
        for report, means in zip(self.pending, self._means(), strict=True):
            skipped = bool(report.clip.skip)
            self.skipped += skipped
            self.last_loss = means["loss"]
            record = {
                "step": report.step,
                **means,
                "grad_norm": float(report.clip.norm),
                "grad_threshold": float(report.clip.threshold),
                "grad_scale": float(report.clip.scale),
                "skipped": skipped,
                "lr": report.learning_rate,
                "logit_scale": float(self.encoder.logit_scale.detach()),
                "images_per_second": pairs / elapsed,
                "seconds": self.seconds,
            }
            self._record(record)
            self.in_row = self.in_row + 1 if skipped else 0
            if self.in_row >= self.config.max_skips:
                raise DivergedError(
                    f"step {report.step}: gradients were not finite for {self.in_row} steps in a row; the weights are "
                    "those of the last good step. Lower the learning rate, or look at the batches before it"
                )
        self.pending.clear()
        self.clock = time.perf_counter()

    def _means(self) -> list[dict[str, float]]:
        """Loss and terms of the pending steps, averaged over processes in one go."""
        named = [{"loss": report.loss, **report.terms} for report in self.pending]
        if self.gather.world > 1:
            values = [value.to(self.device, torch.float64) for each in named for value in each.values()]
            means = iter(self.accelerator.reduce(torch.stack(values), reduction="mean").tolist())
            return [{name: next(means) for name in each} for each in named]
        return [{name: float(value) for name, value in each.items()} for each in named]

    def _record(self, record: dict[str, Any]) -> None:
        if not self.main:
            return
        self.logbook.write(record)
        if self.config.trackers:
            numbers = {key: value for key, value in record.items() if isinstance(value, float)}
            self.accelerator.log(numbers | record.get("eval", {}), step=record["step"])
        if self.on_record is not None:
            self.on_record(record)

    def _evaluate(self) -> None:
        """Measure the model as it stands, on the main process."""
        if self.pending:
            self._log()
        self._measure(self._whole_encoder())
        self._record({"step": self.done - 1, "eval": self.metrics, "seconds": self.seconds})
        self.clock = time.perf_counter()

    def _measure(self, encoder: Encoder) -> None:
        if self.evaluate is not None and self.main:
            encoder.eval()
            with torch.no_grad():
                self.metrics = self.evaluate(encoder)
            encoder.train()
        self.accelerator.wait_for_everyone()

    def _new_encoder(self) -> Encoder:
        encoder = new_encoder(self.config)
        for edit in self.edits:
            edit.apply_(encoder)
        return encoder

    def _whole_encoder(self) -> Encoder:
        """The encoder itself, or a copy put together from its shards."""
        if self.sharding != "fsdp2":
            return self.encoder
        encoder = self._new_encoder()
        fill(encoder, self._model_tensors(), where="shards")
        return encoder.to(self.device)

    def _model_tensors(self) -> dict[str, torch.Tensor]:
        return {name: whole(tensor) for name, tensor in self.encoder.state_dict().items()}

    def _save(self) -> None:
        if self.pending:
            self._log()
        tensors = {"model": self._model_tensors(), "optimizer": optimizer_tensors(self.player.optimizer, self.names)}
        if self.average is not None:
            tensors["ema"] = self.average.tensors()
        state = {
            "data": self.loader.state_dict(),
            "clipper": self.player.clipper.state_dict(),
            "step": self.player.step.state_dict() if isinstance(self.player.step, Stateful) else {},
            "scaler": self.precision.scaler.state_dict(),
            "generator": torch.get_rng_state(),
            "skipped": self.skipped,
            "seconds": self.seconds,
            "loss": self.last_loss,
        }
        if self.main:
            checkpoint = Checkpoint(self.done, tensors, state, describe_weights(self.encoder))
            save_checkpoint(self.folder / CHECKPOINTS, checkpoint, keep=self.config.keep)
        self.accelerator.wait_for_everyone()
        self.clock = time.perf_counter()

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_optimizer_tensors(self.player.optimizer, self.names, checkpoint.tensors["optimizer"])
        if self.average is not None:
            self.average.load(checkpoint.tensors["ema"])
        state = checkpoint.state
        self.loader.load_state_dict(state["data"])
        self.player.clipper.load_state_dict(state["clipper"])
        if isinstance(self.player.step, Stateful) and state.get("step"):
            self.player.step.load_state_dict(state["step"])
        self.precision.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generator"])
        self.done, self.skipped, self.seconds = checkpoint.step, state["skipped"], state["seconds"]
        self.last_loss = state["loss"]

    def _finish(self) -> Result:
        config = self.config
        if self.average is not None:
            self.average.copy_to_weights_()
        encoder = self._whole_encoder()
        for edit in reversed(self.edits):
            edit.merge_(encoder)
        self._measure(encoder)
        result = Result(
            steps=self.done,
            skipped=self.skipped,
            seconds=self.seconds,
            images_per_second=self.done * config.batch_size * config.accumulate / max(self.seconds, 1e-9),
            loss=self.last_loss,
            metrics=self.metrics,
        )
        if self.main:
            save(encoder, self.folder)
            summary = asdict(result)
            write_json(self.folder / SUMMARY, summary.pop("metrics") | summary)
        self.accelerator.wait_for_everyone()
        return result


def read_result(folder: Path) -> Result:
    """The result of a finished run, from its ``summary.json``.

    Raises:
        InputError: no such file, or not what a run writes.
    """
    values = read_json(folder / SUMMARY)
    own = {field.name for field in fields(Result)} - {"metrics"}
    numbers = isinstance(values, dict) and all(isinstance(value, (int, float)) for value in values.values())
    if not numbers or not own <= values.keys():
        raise InputError(f"{folder / SUMMARY}: expected numbers named {', '.join(sorted(own))} and those of a test")
    metrics = {key: value for key, value in values.items() if key not in own}
    return Result(**{key: values[key] for key in own}, metrics=metrics)
