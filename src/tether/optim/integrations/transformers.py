"""A clipper inside the Trainer of transformers, saved and resumed with its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import GradClipper
from tether.core.types import ClipReport
from tether.optim.clip import CLIPPERS
from tether.optim.integrations import refuse_hidden_shards

try:
    from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
    from transformers.trainer_callback import ExportableState
except ImportError:
    raise MissingExtraError("transformers", extra="hf") from None


@final
class ClippingCallback(TrainerCallback, ExportableState):
    """Clips before each of the Trainer's optimiser steps; give the arguments ``max_grad_norm=0``.

    When the gradients are not finite they are taken away (``None``, not zero), so that the optimiser leaves every
    weight and every moment as it was: zeros would still let AdamW move by momentum and weight decay. The Trainer
    counts such a step all the same, and its schedule moves on.

    The state travels in ``trainer_state.json`` of every checkpoint; ``train(resume_from_checkpoint=...)`` takes it up.

    Attributes:
        clipper: bounds the gradients.
        report: of the last step, or None.
        skipped: 0-d count of the steps that were not finite.
    """

    def __init__(self, clipper: GradClipper | str | Mapping[str, Any]) -> None:
        """Args: clipper: a clipper, or the name or mapping of one as recipes have it."""
        if isinstance(clipper, (str, Mapping)):
            clipper = build(clipper, CLIPPERS, where="clipper")
        self.clipper: GradClipper = clipper
        self.report: ClipReport | None = None
        self.skipped = torch.tensor(0)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Refuse arguments that would clip beside this, as soon as the Trainer is made."""
        self._check(args)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the state of the checkpoint, if there is one.

        Raises:
            InputError: the Trainer would clip too, something else steps or shards, or the state does not fit.
        """
        self._check(args)
        refuse_hidden_shards(kwargs["model"])
        # A mapping by now, whatever its annotation says; without our entry the Trainer could not save a run whose
        # checkpoint knew no clipper.
        states = cast("dict[str, Any]", state.stateful_callbacks)
        saved = states.setdefault(type(self).__name__, self.state())
        if isinstance(saved, list):
            raise InputError("clipping: a Trainer takes one ClippingCallback, this one has several")
        if state.global_step > 0:
            self.clipper_state = saved["attributes"]["clipper_state"]

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Clip, or take the gradients away when they are not finite."""
        model: nn.Module = kwargs["model"]
        self.report = self.clipper.clip_(model.named_parameters(), step=state.global_step)
        self.skipped = self.skipped.to(self.report.skip.device) + self.report.skip
        if bool(self.report.skip):
            for parameter in model.parameters():
                parameter.grad = None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add ``clip_norm``, ``clip_scale``, ``clip_threshold`` and ``clip_skipped`` to what is logged."""
        logs = kwargs.get("logs")
        if self.report is None or logs is None or "loss" not in logs:
            return
        figures = {
            "clip_norm": float(self.report.norm),
            "clip_scale": float(self.report.scale),
            "clip_threshold": float(self.report.threshold),
            "clip_skipped": int(self.skipped),
        }
        logs.update(figures)
        state.log_history[-1].update(figures)

    @property
    def clipper_state(self) -> dict[str, Any]:
        """The clipper's state as JSON has it; setting it loads it."""
        return {key: _to_json(value) for key, value in self.clipper.state_dict().items()}

    @clipper_state.setter
    def clipper_state(self, state: Mapping[str, Any]) -> None:
        self.clipper.load_state_dict({key: _from_json(value) for key, value in state.items()})

    def state(self) -> dict[str, Any]:
        """What the Trainer writes: how to make this callback, and the clipper's state."""
        name = CLIPPERS.name_of(type(self.clipper))
        settings = self.clipper.state_dict().get("settings", {})
        args = {"clipper": {"name": name, **settings}} if name in CLIPPERS else {}
        return {"args": args, "attributes": {"clipper_state": self.clipper_state}}

    def _check(self, args: TrainingArguments) -> None:
        if args.max_grad_norm:
            raise InputError(
                f"clipping: the Trainer clips to max_grad_norm={args.max_grad_norm} as well; give TrainingArguments "
                "max_grad_norm=0"
            )
        if args.fp16 and "_get_grad_norm" not in vars(Trainer):  # measuring the norm is what unscales
            raise InputError(
                "clipping: with fp16 this version of transformers asks callbacks before the gradients are unscaled; "
                "use bf16, or a version whose Trainer measures the norm with max_grad_norm=0 as well"
            )
        if args.deepspeed:
            raise InputError("clipping: DeepSpeed steps inside backward, where no clipper is asked; use FSDP2 or DDP")
        if args.restore_callback_states_from_checkpoint and CLIPPERS.name_of(type(self.clipper)) not in CLIPPERS:
            raise InputError(
                "clipping: restore_callback_states_from_checkpoint makes callbacks anew, but only from clippers by "
                f"name, not from {type(self.clipper).__name__}; leave it off, the state is taken up without it"
            )


def _to_json(value: Any) -> Any:
    """A tensor as its type and numbers, which JSON carries exactly; anything else as it is."""
    if isinstance(value, Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "values": value.tolist()}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping) and value.keys() == {"dtype", "values"}:
        return torch.tensor(value["values"], dtype=getattr(torch, value["dtype"]))
    return value
