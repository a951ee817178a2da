"""The whole image tower, tuned as a classifier of these classes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tether.adapt.finetune.classifier import ClipClassifier
from tether.adapt.finetune.classifier_recipe import FineTuneRecipe, LabelLoss
from tether.adapt.recipes.class_step import LABEL
from tether.adapt.recipes.given import Given
from tether.adapt.recipes.recipe import Case, TuneRecipe
from tether.adapt.recipes.tuning import Outcome, Tuning
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Part, Positive, Share, checked
from tether.core.types import Batch, Loss
from tether.data.contents import BatchContents
from tether.models.mean_patches import Pool, patch_tokens
from tether.train.ema import MovingEncoder
from tether.train.loop import StepReport
from tether.train.steps.module import Encoder, StepModule, loss_inside

READ = "read"
_PARTS = 1000  # a share as epochs of a thousand


class ClassifierRecipe(TuneRecipe):
    """FT-CLIP: small rates that fall from layer to layer, an average of weights, light changes of images.

    The result is a head on the tuned image tower's patches. It knows these classes alone; what the tuned model still
    knows of others by their words stands in the report. Norms keep their statistics.

    Source: arXiv 2212.06138; ``adapt.finetune.FINE_TUNE_RECIPES`` has the published settings for ImageNet, of which the
    defaults here differ in the batch, the rate and the number of steps. An average over few steps looks back over 7.5 %
    of them, see ``FineTuneRecipe.momentum``.
    """

    takes = "labels"
    gives = "both"
    cost = 300.0

    @checked
    def __init__(
        self,
        *,
        steps: Count = 400,
        batch_size: Count = 32,
        learning_rate: Positive = 2e-4,
        layer_decay: Part = 0.65,
        below: Positive = 1.0,
        warmup: Share = 0.2,
        weight_decay: NonNegative = 0.05,
        ema: Decay = 0.9998,
        label_smoothing: Decay = 0.1,
        rand_augment: str | None = "rand-m9-mstd0.5-inc1",
        erase: Share = 0.25,
        least_crop: Part = 0.08,
        flip: Share = 0.5,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        patches: Literal["frozen", "tuned"] = "tuned",
        pool: Pool = "mean_patch",
    ) -> None:
        """Take the settings.

        Args:
            steps: of the run.
            batch_size: images of a step.
            learning_rate: the highest, of the read-out.
            layer_decay: factor on it from each layer to the one below; 1 gives all the same.
            below: a factor on all but the read-out.
            warmup: share of the steps in which the rate rises.
            weight_decay: of matrices.
            ema: decay of the average of weights, less in a short run; 0 takes the last weights.
            label_smoothing: share of the target spread over all classes.
            rand_augment: timm's words for changes of colour and shape; None leaves them out.
            erase: chance of noise in a rectangle.
            least_crop: least area of the random crop.
            flip: chance to exchange left and right; wrong for lettering.
            mixup: alpha of Mixup; 0 leaves it out.
            cutmix: alpha of CutMix; 0 leaves it out.
            patches: whether the layer that makes patches of pixels learns.
            pool: what the read-out reads.
        """
        if warmup == 1:
            raise InputError("warmup: expected a share below 1, got 1")
        self.steps, self.patches, self.pool = steps, patches, pool
        self.settings = FineTuneRecipe(
            learning_rate=learning_rate,
            layer_decay=layer_decay,
            below=below,
            epochs=_PARTS,
            warmup_epochs=round(_PARTS * warmup),
            warmup_rate=min(1e-6, learning_rate),
            least_rate=min(1e-6, learning_rate),
            batch_size=batch_size,
            weight_decay=weight_decay,
            ema=ema,
            label_smoothing=label_smoothing,
            rand_augment=rand_augment,
            erase=erase,
            crop=(least_crop, 1.0),
            flip=flip,
            mixup=mixup,
            cutmix=cutmix,
        )

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        if "labels" not in case.kinds or case.least < 50:
            return ""
        return f"{case.least} images a class or more are enough to tune the whole image tower for these classes alone"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        size = model.image_spec.fixed().size
        blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.logit_scale.device)
        with torch.no_grad():
            patch_tokens(model, blank, pool=self.pool)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        settings, generator = self.settings, torch.Generator().manual_seed(given.seed)
        classifier = ClipClassifier(
            cast(Encoder, model), classes=len(given.classes), pool=self.pool, generator=generator
        )
        if self.patches == "frozen":
            classifier.freeze_patches_()
        average = _Average(classifier, momentum=settings.momentum(steps=self.steps), steps=self.steps)
        loss = LabelLoss(
            classes=len(given.classes),
            label_smoothing=settings.label_smoothing,
            mixup=settings.mixup,
            cutmix=settings.cutmix,
            seed=given.seed,
        )

        def finish() -> Outcome:
            average.copy_to_(classifier)
            return Outcome(model, classifier.head(given.classes))

        crops = {"image": {"scale": settings.crop, "flip": settings.flip}}
        return Tuning(
            step=_PatchStep(loss, pool=self.pool),
            batches=given.loader(
                model,
                batch_size=settings.batch_size,
                augment=settings.augment(model.image_spec.fixed()),
                contents=BatchContents(crops=crops),
            ),
            steps=self.steps,
            optimizer={
                "name": "adamw",
                "lr": settings.learning_rate,
                "betas": list(settings.betas),
                "eps": settings.eps,
            },
            groups=classifier.groups(
                layer_decay=settings.layer_decay, weight_decay=settings.weight_decay, below=settings.below
            ),
            schedule=settings.schedule(steps=self.steps),
            modules={READ: classifier.read},
            kept={"average": average},
            after_step=average.follow_,
            finish=finish,
        )


class _PatchStep:
    """The loss of labelled images by a read-out of patches; a ``core.protocols.Step``."""

    def __init__(self, loss: LabelLoss, *, pool: Pool) -> None:
        self.loss, self.pool = loss, pool

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step."""
        del gather
        return loss_inside(model, self._loss, batch, step=step)

    def _loss(self, module: StepModule, batch: Batch, *, step: int) -> Loss:
        labels = batch.extra[LABEL]
        assert isinstance(labels, Tensor)
        image, target = self.loss.mixed(batch.image, labels, step=step)
        tokens = patch_tokens(cast(DualEncoder, module.model), image, pool=self.pool)
        return self.loss(module.heads[READ](tokens), target, labels=labels)


class _Average:
    """An average of weights and statistics that is saved with the checkpoints; a ``core.protocols.Stateful``."""

    def __init__(self, model: nn.Module, *, momentum: float, steps: int) -> None:
        rest = [name for name, one in model.named_parameters() if not one.requires_grad]
        self._moving = MovingEncoder(model, momentum=momentum, steps=steps, buffers="averaged", exclude=rest)

    def follow_(self, report: StepReport) -> None:
        """Take in the weights after a step."""
        self._moving.update_(step=report.step)

    def copy_to_(self, model: nn.Module) -> None:
        """Make the average the weights of a model like the one that it followed."""
        model.load_state_dict(self._moving.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """All of its tensors."""
        return self._moving.tensors()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
        self._moving.load(dict(state))
