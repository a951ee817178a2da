"""A clipper inside the Trainer of Lightning, saved and resumed with its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch.optim import Optimizer

from tether.core.component import build
from tether.core.errors import InputError, MissingExtraError
from tether.core.protocols import GradClipper
from tether.core.types import ClipReport
from tether.optim.clip import CLIPPERS
from tether.optim.integrations import refuse_hidden_shards

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy
except ImportError:
    raise MissingExtraError("lightning", extra="lightning") from None


@final
class ClippingCallback(Callback):
    """Clips before each step of one optimiser, after accumulation and unscaling.

    When the gradients are not finite they are taken away (``None``, not zero), so that the optimiser leaves every
    weight and every moment as it was: zeros would still let AdamW move by momentum and weight decay. Lightning counts
    such a step all the same, and its schedules move on.

    Attributes:
        clipper: bounds the gradients.
        report: of the last step, or None.
        skipped: 0-d count of the steps that were not finite.
    """

    def __init__(self, clipper: GradClipper | str | Mapping[str, Any], *, optimizer: int = 0) -> None:
        """Take the clipper.

        Args:
            clipper: a clipper, or the name or mapping of one as recipes have it.
            optimizer: which of the module's optimisers, in the order of ``configure_optimizers``; a second one takes
                a second callback with a clipper of its own.
        """
        if isinstance(clipper, (str, Mapping)):
            clipper = build(clipper, CLIPPERS, where="clipper")
        self.clipper: GradClipper = clipper
        self.optimizer = optimizer
        self.report: ClipReport | None = None
        self.skipped = torch.tensor(0)

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint, one for each optimiser."""
        return self._generate_state_key(optimizer=self.optimizer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that nothing else clips and that every gradient will be seen whole.

        Raises:
            InputError: the trainer clips too, or something else steps or shards, or there is no such optimiser.
        """
        if trainer.gradient_clip_val:
            raise InputError(
                f"clipping: the Trainer clips to gradient_clip_val={trainer.gradient_clip_val} as well; leave it None"
            )
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            raise InputError("clipping: DeepSpeed steps inside backward, where no clipper is asked; use FSDP2 or DDP")
        refuse_hidden_shards(pl_module)
        if self.optimizer >= len(trainer.optimizers):
            raise InputError(f"clipping: optimizer {self.optimizer} of a module that has {len(trainer.optimizers)}")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Clip the gradients that this optimiser moves, or take them away when they are not finite."""
        if optimizer is not trainer.optimizers[self.optimizer]:
            return
        moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        named = [(name, parameter) for name, parameter in pl_module.named_parameters() if id(parameter) in moved]
        self.report = self.clipper.clip_(named, step=trainer.global_step)
        self.skipped = self.skipped.to(self.report.skip.device) + self.report.skip
        if bool(self.report.skip):
            for _, parameter in named:
                parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The clipper's state."""
        return self.clipper.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the clipper's state from a checkpoint."""
        self.clipper.load_state_dict(state_dict)
