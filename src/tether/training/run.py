"""A run from its configuration to its folder: build the parts, resume or refuse, train, save."""

from __future__ import annotations

import copy
import importlib.util
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tether.core.atomic_io import write_json
from tether.core.device import chosen_device
from tether.core.errors import InputError, MissingExtraError, StoppedError, TetherError, WriteError
from tether.core.gather import process_gather
from tether.core.protocols import ModelEdit
from tether.data.loader import Loader
from tether.models.convert.saved_files import describe_weights
from tether.models.save import save, write_config
from tether.training.best_model import BestModel
from tether.training.checkpoints import Checkpoint, list_checkpoints, remove_after, save_checkpoint
from tether.training.claim import claimed
from tether.training.config import RunConfig
from tether.training.environment import describe_environment
from tether.training.epochs import with_steps
from tether.training.journal import Journal, OnRecord
from tether.training.loop import StepReport
from tether.training.metrics_log import read_metrics
from tether.training.parallel import choose_checkpoints, choose_sharding, together
from tether.training.parts import check_parts
from tether.training.result import Result, read_result
from tether.training.rollback import States, TurnBackError
from tether.training.run_files import CHECKPOINTS, CONFIG, ENVIRONMENT, METRICS, SUMMARY
from tether.training.shared_folder import check_shared, checkpoint_to_resume
from tether.training.stages import Stretch
from tether.training.steps.module import Encoder
from tether.training.trainer import Trainer

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[Encoder], dict[str, float]]


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
        edits: what ``config.edits`` may name, such as ``tether.compression.quantise.QUANTISERS``. They are applied
            before training and merged into the weights after it, before the last evaluation.
        device: ``auto`` is an accelerator if there is one; ``cpu``; ``cuda``.
        make_loader: gives the batches; who trains several times on the same data can hand out one loader again.

    Raises:
        InputError: the folder holds a run and ``resume`` is false, or that run has other settings.
        LockedError: another run is writing there.
        DivergedError: too many non-finite steps in a row, or a run that goes back has done so as often as it may; the
            newest checkpoint is from before.
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
        self.should_stop, self.asked = should_stop, False
        self.accelerator, self.main, self.device = accelerator, accelerator.is_main_process, accelerator.device
        self.gather = process_gather()
        random.seed(config.seed)
        np.random.seed(config.seed % 2**32)  # noqa: NPY002 - libraries below may draw from the global one
        torch.manual_seed(config.seed)
        if choose_checkpoints(config.checkpoints, sharding=choose_sharding(config.sharding)) == "sharded":
            check_shared(folder)
        checkpoint = checkpoint_to_resume(folder / CHECKPOINTS, steps=config.steps)
        self.make_trainer = partial(
            make_trainer,
            plan,
            folder=folder,
            device=self.device,
            gather=self.gather,
            where="settings" if checkpoint is None else str(folder / CONFIG),
        )
        self.done, self.metrics = 0, {}
        self.journal = Journal(config, folder, accelerator, on_record=on_record)
        best = config.evaluate.best if config.evaluate else None
        self.best = None if best is None else BestModel(folder, name=best, steps=config.steps)
        scaled = config.precision == "fp16"
        self.states = States(config.rollback, scaled=scaled) if config.rollback is not None else None
        if checkpoint is not None:
            self.done = checkpoint.step
            try:
                self.journal.load_state_dict(checkpoint.state)
            except (KeyError, OverflowError, TypeError, ValueError) as error:
                raise InputError(f"{checkpoint.where}: does not fit this run: {error}") from error
        self.number = max(number for number, stretch in enumerate(plan) if number == 0 or self.done >= stretch.first)
        self.trainer = self.make_trainer(self.number, checkpoint=checkpoint)
        border = self.number > 0 and self.done == plan[self.number].first
        crossing = checkpoint is not None and border and not checkpoint.state.get("crossed")
        if checkpoint is not None and self.states is not None:
            placed = self.trainer.placed if self.trainer.sharded else Checkpoint.together
            self.states.load_from(checkpoint if crossing else placed(checkpoint), held=not crossing)
        if self.states is not None and (checkpoint is None or crossing):
            self.states.begin(self._state(held=True))

    def go(self) -> Result:
        if self.main:
            write_config(self.trainer.encoder, self.folder)
            write_json(self.folder / ENVIRONMENT, describe_environment() | {"processes": self.gather.world})
        self.journal.begin()
        self._open_log()
        self.journal.start_clock()
        try:
            self._play()
            while self.number + 1 < len(self.plan):
                self._cross()
                self._play()
            return self._finish()
        finally:
            self.trainer.loader.close()
            self.journal.close()

    def _play(self) -> None:
        """The steps of this stretch that are left."""
        while self.done < self.trainer.stretch.end:
            if (why := self._fit()) is not None:
                self._turn_back(why)

    def _fit(self) -> str | None:
        """Steps up to the stretch's end, or why the run has to go back."""
        try:
            self.trainer.fit(start=self.done, on_step=self._on_step)
        except TurnBackError as turn:
            return str(turn)
        return None

    def _cross(self) -> None:
        """Go over to the next stretch, as a run does that goes on from a checkpoint of the border."""
        self.journal.write(self.trainer)
        self.trainer.loader.close()
        checkpoint = Checkpoint(self.done, *self.trainer.checkpoint(), where=f"stage {self.number}")
        self.number += 1
        self.trainer = self.make_trainer(self.number, checkpoint=checkpoint)
        if self.states is not None:
            self.states.begin(self._state(held=True))
        if self.main:
            write_config(self.trainer.encoder, self.folder)
        self.journal.start_clock()

    def _turn_back(self, why: str) -> None:
        """Go on from a state from before the fault, with the batches after those of the last step."""
        assert self.states is not None
        end, position = self.done, self.trainer.loader.state_dict()
        self.trainer.loader.close()
        self.trainer.player.optimizer.state.clear()  # room for the one that comes
        record, state = self.states.turn_back(end=end, why=why, each=self.trainer.config.accumulate)
        self.done = state.step
        self.journal.go_back(state.state)
        self.trainer = self.make_trainer(self.number, checkpoint=state)
        self.trainer.loader.load_state_dict(position)
        for _ in range(self.states.rule.further * self.trainer.config.accumulate):
            next(self.trainer.loader)
        if self.main:
            gone = [one for one in read_metrics(self.folder / METRICS) if one["step"] >= self.done and "loss" in one]
            record["rollback"]["losses"] = [one["loss"] for one in gone]
        self._save(keep=self.config.steps)  # those of later steps are the newest until they are removed
        if self.main:
            remove_after(self.folder / CHECKPOINTS, step=self.done)
        self._open_log()
        if self.main:
            self.journal.tell(record)
        self.accelerator.wait_for_everyone()
        if self.asked:
            raise self._stopped()
        self.journal.start_clock()

    def _on_step(self, report: StepReport) -> None:
        config = self.config
        self.trainer.encoder.clamp_logit_scale_()
        if self.trainer.average is not None:
            self.trainer.average.update_()
        self.done = report.step + 1
        self.journal.add(report)
        stop, turn = False, None
        if self.states is not None:
            stop, turn = self.states.look(report, asked=self.should_stop(), device=self.device)
        if turn is not None:
            self._name_signs()  # and log what is undone: it is shown as well
            self.asked = stop
            raise turn
        last = self.done == config.steps
        if last or self.done % config.log_every == 0:
            self.journal.write(self.trainer)
        every = config.evaluate.every if config.evaluate else 0
        if self.evaluate and not last and every and self.done % every == 0:
            self._evaluate()
        if self.states is None:
            stop = self._asked_to_stop()
        elif self.states.due(self.done) and not last:
            self.states.hold(self._state(held=True))
        in_turn = self.done % config.save_every == 0 and not last
        if in_turn:
            self._name_signs()
        if stop or in_turn:
            self._save()
        if stop:
            raise self._stopped()

    def _stopped(self) -> StoppedError:
        return StoppedError(f"stopped after step {self.done}; go on with: tether train --resume --out {self.folder}")

    def _asked_to_stop(self) -> bool:
        """Whether any process was asked to; all learn it in the same step, so that they save together."""
        asked = self.should_stop()
        if self.gather.world == 1:
            return asked
        return bool(self.accelerator.reduce(torch.tensor(float(asked), device=self.device), reduction="sum"))

    def _state(self, *, held: bool = False) -> Checkpoint:
        """All that the run needs to go on from here, held for later or not; every process must call it."""
        self.journal.write(self.trainer)
        tensors, state = self.trainer.checkpoint(held=held)
        state |= self.journal.state_dict()
        if self.done == self.trainer.stretch.first:
            state["crossed"] = True  # by this stretch's trainer; what a run saves at a border is by the one before
        return Checkpoint(self.done, tensors, state)

    def _turns(self) -> list[dict[str, Any]]:
        """The records of the times that the run went back."""
        return [] if self.states is None else self.states.records

    def _open_log(self) -> None:
        self.journal.open(done=self.done, turns=self._turns())

    def _name_signs(self) -> None:
        self.journal.write(self.trainer)
        self.journal.name_signs(done=self.done)

    def _record_metrics(self) -> None:
        self.journal.record({"step": self.done - 1, "eval": self.metrics, "seconds": self.journal.seconds})

    def _evaluate(self) -> None:
        """Measure the model as it stands, on the main process."""
        self.journal.write(self.trainer)
        encoder, heads = self.trainer.whole_encoder(), self.trainer.head_tensors()
        self._measure(self.trainer.finished(encoder, heads))
        self._record_metrics()
        if self.main:
            self._keep_best(encoder, heads)
        self.journal.start_clock()

    def _measure(self, encoder: Encoder) -> None:
        if self.evaluate is not None and self.main:
            encoder.eval()
            with torch.no_grad():
                self.metrics = self.evaluate(encoder)
            encoder.train()
        self.accelerator.wait_for_everyone()

    def _keep_best(self, encoder: Encoder, heads: Mapping[str, torch.Tensor]) -> None:
        """Save the model if it is the best that was measured so far."""

        def finished() -> Encoder:
            merged = copy.deepcopy(encoder) if self.trainer.edits else encoder  # kept as it will be in the end
            for edit in reversed(self.trainer.edits):
                edit.merge_(merged)
            return self.trainer.finished(merged, heads)

        if self.best is not None:
            self.best.keep(encoder, done=self.done, metrics=self.metrics, finished=finished)

    def _save(self, *, keep: int | None = None) -> None:
        checkpoint = replace(self._state(), about=describe_weights(self.trainer.encoder))
        if self.states is not None:
            checkpoint = self.states.save_into(checkpoint)
        keep = keep or self.config.keep
        if self.trainer.sharded:
            from tether.training.sharded import save_sharded  # which takes a while to import

            save_sharded(self.folder / CHECKPOINTS, checkpoint, keep=keep)
        elif self.main:
            save_checkpoint(self.folder / CHECKPOINTS, checkpoint, keep=keep)
        self.accelerator.wait_for_everyone()
        self.journal.start_clock()

    def _finish(self) -> Result:
        self._name_signs()
        trainer = self.trainer
        if trainer.average is not None:
            trainer.average.copy_to_weights_()
        encoder, heads = trainer.whole_encoder(), trainer.head_tensors()
        for edit in reversed(trainer.edits):
            edit.merge_(encoder)
        encoder = trainer.finished(encoder, heads)
        self._measure(encoder)
        if self.main:
            if self.best is not None:
                self.metrics = self.best.take(encoder, metrics=self.metrics)
            if self.metrics:
                self._record_metrics()
        images = sum((one.end - one.first) * one.config.batch_size * one.config.accumulate for one in self.plan)
        result = Result(
            steps=self.done,
            skipped=self.journal.skipped,
            seconds=self.journal.seconds,
            images_per_second=images / max(self.journal.seconds, 1e-9),
            loss=self.journal.last_loss,
            metrics=self.metrics,
            rollbacks=len(self._turns()),
        )
        if self.main:
            save(encoder, self.folder)
            summary = asdict(result)
            write_json(self.folder / SUMMARY, summary.pop("metrics") | summary)
        self.accelerator.wait_for_everyone()
        return result
