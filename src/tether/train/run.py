"""A run from its configuration to its folder: build the parts, resume or refuse, train, save."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tether.core.atomic_io import write_json
from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError, StoppedError, TetherError, WriteError
from tether.core.gather import process_gather
from tether.core.protocols import ModelEdit
from tether.data.loader import Loader
from tether.models.load import chosen_device, fill
from tether.models.save import describe_weights, save, write_config
from tether.train.checkpoints import Checkpoint, list_checkpoints, newest_checkpoint, save_checkpoint
from tether.train.claim import claimed
from tether.train.config import RunConfig
from tether.train.environment import describe_environment
from tether.train.epochs import with_steps
from tether.train.loop import StepReport, fit
from tether.train.metrics_log import Logbook
from tether.train.parallel import together
from tether.train.parts import check_parts
from tether.train.result import Result, read_result
from tether.train.run_files import BEST, CHECKPOINTS, CONFIG, ENVIRONMENT, METRICS, SUMMARY
from tether.train.stages import Stretch
from tether.train.steps.module import Encoder
from tether.train.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[Encoder], dict[str, float]]
OnRecord = Callable[[dict[str, Any]], None]


class DivergedError(TetherError):
    """Too many steps in a row had gradients that were not finite."""


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
    device: str = "auto",
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
        device: ``auto`` is an accelerator if there is one; ``cpu``; ``cuda``.
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
    config = with_steps(config)
    plan = check_parts(config, edits, where="settings")
    again = f"go on with: tether train --resume --out {folder}"
    with together(again=again):
        accelerator = Accelerator(
            cpu=chosen_device(device).type == "cpu",  # else it overlooks a CPU's process group
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
                    plan=plan,
                    evaluate=evaluate,
                    on_record=on_record,
                    should_stop=should_stop,
                    make_trainer=partial(Trainer, edits=edits, make_loader=make_loader),
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
        plan: Sequence[Stretch],
        evaluate: Evaluate | None,
        on_record: OnRecord | None,
        should_stop: Callable[[], bool],
        make_trainer: Callable[..., Trainer],
    ) -> None:
        self.config, self.folder, self.evaluate, self.plan = config, folder, evaluate, plan
        self.on_record, self.should_stop = on_record, should_stop
        self.accelerator, self.main, self.device = accelerator, accelerator.is_main_process, accelerator.device
        self.gather = process_gather()
        random.seed(config.seed)
        np.random.seed(config.seed % 2**32)  # noqa: NPY002 - libraries below may draw from the global one
        torch.manual_seed(config.seed)
        checkpoint = newest_checkpoint(folder / CHECKPOINTS, steps=config.steps)
        self.make_trainer = partial(
            make_trainer,
            plan,
            folder=folder,
            device=self.device,
            gather=self.gather,
            where="settings" if checkpoint is None else str(folder / CONFIG),
        )
        self.done, self.skipped, self.in_row, self.seconds, self.metrics = 0, 0, 0, 0.0, {}
        self.last_loss = float("nan")
        if checkpoint is not None:
            self.done, state = checkpoint.step, checkpoint.state
            try:
                self.skipped, self.seconds, self.last_loss = state["skipped"], state["seconds"], state["loss"]
            except KeyError as error:
                raise InputError(f"{checkpoint.where}: does not fit this run: {error}") from error
        self.number = max(number for number, stretch in enumerate(plan) if number == 0 or self.done >= stretch.first)
        self.trainer = self.make_trainer(self.number, checkpoint=checkpoint)

    def go(self) -> Result:
        config = self.config
        if self.main:
            write_config(self.trainer.encoder, self.folder)
            write_json(self.folder / ENVIRONMENT, describe_environment() | {"processes": self.gather.world})
            self.logbook = Logbook(self.folder / METRICS, steps_done=self.done)
        if config.trackers:
            plain = config.model_dump(mode="json").items()
            flat = {key: value if isinstance(value, (int, float, str)) else json.dumps(value) for key, value in plain}
            self.accelerator.init_trackers(self.folder.name, config=flat)
        self.pending: list[StepReport] = []
        self.clock = time.perf_counter()
        try:
            self._play()
            while self.number + 1 < len(self.plan):
                self._cross()
                self._play()
            return self._finish()
        finally:
            self.trainer.loader.close()
            if self.main:
                self.logbook.close()
            if config.trackers:
                self.accelerator.end_training()

    def _play(self) -> None:
        """The steps of this stretch that are left."""
        trainer = self.trainer
        fit(
            trainer.forward,
            [trainer.player],
            trainer.loader,
            start=self.done,
            steps=self.config.steps,
            end=trainer.stretch.end,
            accumulate=trainer.config.accumulate,
            precision=trainer.precision,
            gather=self.gather,
            on_step=self._on_step,
        )

    def _cross(self) -> None:
        """Go over to the next stretch, as a run does that goes on from a checkpoint of the border."""
        if self.pending:
            self._log()
        self.trainer.loader.close()
        checkpoint = Checkpoint(self.done, *self.trainer.checkpoint(), where=f"stage {self.number}")
        self.number += 1
        self.trainer = self.make_trainer(self.number, checkpoint=checkpoint)
        if self.main:
            write_config(self.trainer.encoder, self.folder)
        self.clock = time.perf_counter()

    def _on_step(self, report: StepReport) -> None:
        config = self.config
        self.trainer.encoder.clamp_logit_scale_()
        if self.trainer.average is not None:
            self.trainer.average.update_()
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
        pairs = len(self.pending) * self.trainer.config.batch_size * self.trainer.config.accumulate
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
                "logit_scale": float(self.trainer.encoder.logit_scale.detach()),
                "images_per_second": pairs / elapsed,
                "seconds": self.seconds,
            }
            self._record(record)
            self.in_row = self.in_row + 1 if skipped else 0
            if self.in_row >= self.config.max_skips:
                raise DivergedError(
                    f"step {report.step}: gradients were not finite for {self.in_row} steps in a row; the weights are "
                    f"those of the last good step. Lower the learning rate, {report.learning_rate:g} at this step, or "
                    "look at the batches before it"
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
        encoder, heads = self.trainer.whole_encoder(), self.trainer.head_tensors()
        self._measure(self.trainer.finished(encoder, heads))
        self._record({"step": self.done - 1, "eval": self.metrics, "seconds": self.seconds})
        if self.main:
            self._keep_best(encoder, heads)
        self.clock = time.perf_counter()

    def _measure(self, encoder: Encoder) -> None:
        if self.evaluate is not None and self.main:
            encoder.eval()
            with torch.no_grad():
                self.metrics = self.evaluate(encoder)
            encoder.train()
        self.accelerator.wait_for_everyone()

    def _keep_best(self, encoder: Encoder, heads: Mapping[str, torch.Tensor]) -> None:
        """Save the model if it is the best that was measured so far."""
        name = self.config.evaluate.best if self.config.evaluate else None
        if name is None or not self.metrics:
            return
        if name not in self.metrics:
            raise InputError(f"evaluate.best: {closest(name, self.metrics)}, got {name!r}")
        saved = self._best(encoder)
        if saved is not None and saved.state["metrics"][name] >= self.metrics[name]:
            return
        if self.trainer.edits:  # kept as it will be in the end: merged
            encoder = copy.deepcopy(encoder)
            for edit in reversed(self.trainer.edits):
                edit.merge_(encoder)
        encoder = self.trainer.finished(encoder, heads)
        tensors = {key: tensor.detach().cpu() for key, tensor in encoder.state_dict().items()}
        best = Checkpoint(self.done, {"model": tensors}, {"metrics": self.metrics}, describe_weights(encoder))
        save_checkpoint(self.folder / BEST, best, keep=1)

    def _best(self, encoder: Encoder) -> Checkpoint | None:
        """The best model so far; one that was measured at other sizes than the encoder's now does not count."""
        without = "go on without the best model so far"
        best = newest_checkpoint(self.folder / BEST, steps=self.config.steps, without=without)
        if best is None:
            return None
        own = encoder.state_dict()
        fits = all(own[name].shape == tensor.shape for name, tensor in best.tensors["model"].items() if name in own)
        return best if fits else None

    def _save(self) -> None:
        if self.pending:
            self._log()
        tensors, state = self.trainer.checkpoint()
        state |= {"skipped": self.skipped, "seconds": self.seconds, "loss": self.last_loss}
        if self.main:
            checkpoint = Checkpoint(self.done, tensors, state, describe_weights(self.trainer.encoder))
            save_checkpoint(self.folder / CHECKPOINTS, checkpoint, keep=self.config.keep)
        self.accelerator.wait_for_everyone()
        self.clock = time.perf_counter()

    def _take_best(self, encoder: Encoder) -> None:
        """Give the model the weights of the best evaluation, if that was an earlier one."""
        name = self.config.evaluate.best if self.config.evaluate else None
        best = self._best(encoder)
        if name is None or best is None:
            return
        if best.state["metrics"][name] > self.metrics[name]:
            fill(encoder, best.tensors["model"], where=best.where)
            self.metrics = {**best.state["metrics"], "best_step": float(best.step)}

    def _finish(self) -> Result:
        trainer = self.trainer
        if trainer.average is not None:
            trainer.average.copy_to_weights_()
        encoder, heads = trainer.whole_encoder(), trainer.head_tensors()
        for edit in reversed(trainer.edits):
            edit.merge_(encoder)
        encoder = trainer.finished(encoder, heads)
        self._measure(encoder)
        if self.main:
            self._take_best(encoder)
            if self.metrics:
                self._record({"step": self.done - 1, "eval": self.metrics, "seconds": self.seconds})
        images = sum((one.end - one.first) * one.config.batch_size * one.config.accumulate for one in self.plan)
        result = Result(
            steps=self.done,
            skipped=self.skipped,
            seconds=self.seconds,
            images_per_second=images / max(self.seconds, 1e-9),
            loss=self.last_loss,
            metrics=self.metrics,
        )
        if self.main:
            save(encoder, self.folder)
            summary = asdict(result)
            write_json(self.folder / SUMMARY, summary.pop("metrics") | summary)
        self.accelerator.wait_for_everyone()
        return result
