"""The whole image tower, tuned as a classifier of these classes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from tether.adaptation.recipes.class_step import LABEL
from tether.adaptation.recipes.given import Given
from tether.adaptation.recipes.recipe import Case, TuneRecipe
from tether.adaptation.recipes.tuning import Outcome, Tuning
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Part, PositiveRate, Rate, Share, checked
from tether.core.types import Batch, ImageSpec, Loss
from tether.data.contents import BatchContents
from tether.methods.ft_clip.classifier import ClipClassifier
from tether.methods.ft_clip.label_augment import LabelAugment
from tether.methods.ft_clip.label_loss import LabelLoss
from tether.models.features.mean_patches import Pool, patch_tokens
from tether.training.ema import MovingEncoder
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.steps.module import Encoder, InsideStep, StepModule

READ = "read"
MEMORY = 0.075
"""Share of a short run that its average of weights looks back over."""
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "b16": {"learning_rate": 6e-4, "layer_decay": 0.6, "epochs": 50, "warmup": 10 / 50, "patches": "frozen"},
    "b16_384": {"learning_rate": 7e-4, "layer_decay": 0.6, "epochs": 50, "warmup": 10 / 50},
    "l14": {"learning_rate": 4e-4, "layer_decay": 0.65, "epochs": 30, "warmup": 5 / 30},
}
"""ViT-B/16 at 224 and 384 pixels and ViT-L/14 on ImageNet, in batches of 2,048: table 1 of arXiv 2212.06138 and its
scripts; the defaults of the release's own arguments are others."""


class ClassifierRecipe(TuneRecipe):
    """FT-CLIP: small rates that fall from layer to layer, an average of weights, light changes of images.

    The result is a head on the tuned image tower's patches. It knows these classes alone; what the tuned model still
    knows of others by their words stands in the report. Norms keep their statistics.

    Source: arXiv 2212.06138. Batch, rates and steps are for a few hundred images, the other defaults those that every
    published run shares; ``from_name`` gives the published. An average over few steps looks back over 7.5 % of them.

    Example:
        >>> from tether.methods.ft_clip import ClassifierRecipe
        >>> recipe = ClassifierRecipe.from_name("b16")
        >>> recipe.learning_rate, recipe.layer_decay, recipe.schedule(steps=500).warmup
        (0.0006, 0.6, 100)
        >>> recipe.momentum(steps=1_000_000), round(recipe.momentum(steps=400), 3)
        (0.9998, 0.967)
    """

    takes = "labels"
    gives = "both"
    cost = 300.0
    least = 50

    @checked
    def __init__(
        self,
        *,
        steps: Count = 400,
        epochs: Count | None = None,
        batch_size: Count = 32,
        learning_rate: PositiveRate = 2e-4,
        layer_decay: Part = 0.65,
        below: PositiveRate = 1.0,
        warmup: Decay = 0.2,
        warmup_rate: Rate = 1e-6,
        least_rate: Rate = 1e-6,
        weight_decay: Rate = 0.05,
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
            epochs: passes over the images, in place of ``steps``.
            batch_size: images of a step.
            learning_rate: the highest, of the read-out.
            layer_decay: factor on it from each layer to the one below; 1 gives all the same.
            below: a factor on all but the read-out.
            warmup: share of the steps in which the rate rises.
            warmup_rate: of the first step; at most ``learning_rate``.
            least_rate: toward which the rate falls after the last step; at most ``learning_rate``.
            weight_decay: of matrices.
            ema: decay of the average of weights, less in a short run; 0 takes the last weights.
            label_smoothing: share of the target spread over all classes.
            rand_augment: timm's words for changes of colour and shape; None leaves them out.
            erase: chance of noise in a rectangle.
            least_crop: least area of the random crop.
            flip: chance to exchange left and right; wrong for lettering.
            mixup: alpha of Mixup; 0 leaves it out.
            cutmix: alpha of CutMix; 0 leaves it out. With both, each batch has one of them.
            patches: whether the layer that makes patches of pixels learns.
            pool: what the read-out reads.
        """
        for name, rate in (("warmup_rate", warmup_rate), ("least_rate", least_rate)):
            if rate > learning_rate:
                raise InputError(f"{name}: expected at most the learning_rate, {learning_rate}, got {rate}")
        self.steps, self.epochs, self.batch_size = steps, epochs, batch_size
        self.learning_rate, self.layer_decay, self.below = learning_rate, layer_decay, below
        self.warmup, self.warmup_rate, self.least_rate = warmup, warmup_rate, least_rate
        self.weight_decay, self.ema, self.label_smoothing = weight_decay, ema, label_smoothing
        self.rand_augment, self.erase, self.least_crop, self.flip = rand_augment, erase, least_crop, flip
        self.mixup, self.cutmix, self.patches, self.pool = mixup, cutmix, patches, pool
        self.augment(ImageSpec(size=(32, 32)))  # refuses words that timm does not know before data are read

    @classmethod
    def from_name(cls, name: str) -> ClassifierRecipe:
        """One of ``PUBLISHED``."""
        if name not in PUBLISHED:
            raise InputError(f"recipe: none is called {name!r}; {closest(name, PUBLISHED)}")
        return cls(batch_size=2048, **PUBLISHED[name])

    def schedule(self, *, steps: int) -> Cosine:
        """Factors on ``learning_rate`` over a run."""
        first, last = self.warmup_rate / self.learning_rate, self.least_rate / self.learning_rate
        return Cosine(warmup=round(steps * self.warmup), start=first, floor=last)

    def momentum(self, *, steps: int) -> float:
        """Decay of the average: ``ema``, or in a short run less, so that it looks back over 7.5 % of the steps.

        The published decay forgets the start after some 10,000 steps; a short run's average would be the start.
        """
        return min(self.ema, 1 - min(1.0, 1 / (MEMORY * steps)))

    def augment(self, spec: ImageSpec) -> LabelAugment:
        """What happens to a crop."""
        return LabelAugment(spec, rand=self.rand_augment, erase=self.erase)

    @classmethod
    def suits(cls, case: Case) -> str:
        """See Recipe."""
        return f"tunes the whole image tower on {case.least} images a class, for these alone; compare it with probe"

    def check(self, model: DualEncoder) -> None:
        """See Recipe."""
        size = model.image_spec.fixed().size
        blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=model.logit_scale.device)
        with torch.no_grad():
            patch_tokens(model, blank, pool=self.pool)

    def tuning(self, model: DualEncoder, given: Given) -> Tuning:
        """See TuneRecipe."""
        count, size = len(given.classes), min(self.batch_size, given.rows)
        steps = self.steps if self.epochs is None else self.epochs * max(1, given.rows // size)
        generator = torch.Generator().manual_seed(given.seed)
        classifier = ClipClassifier(cast(Encoder, model), classes=count, pool=self.pool, generator=generator)
        if self.patches == "frozen":
            classifier.freeze_patches_()
        average = _Average(classifier, momentum=self.momentum(steps=steps), steps=steps)
        loss = LabelLoss(
            classes=count,
            label_smoothing=self.label_smoothing,
            mixup=self.mixup,
            cutmix=self.cutmix,
            seed=given.seed,
        )

        def finish() -> Outcome:
            average.copy_to_(classifier)
            return Outcome(model, classifier.head(given.classes))

        return Tuning(
            step=_PatchStep(loss, pool=self.pool),
            batches=given.loader(
                model,
                batch_size=size,
                augment=self.augment(model.image_spec.fixed()),
                contents=BatchContents(crops={"image": {"scale": (self.least_crop, 1.0), "flip": self.flip}}),
            ),
            steps=steps,
            optimizer={"name": "adamw", "lr": self.learning_rate, "betas": [0.9, 0.999], "eps": 1e-8},
            groups=classifier.groups(layer_decay=self.layer_decay, weight_decay=self.weight_decay, below=self.below),
            schedule=self.schedule(steps=steps),
            modules={READ: classifier.read},
            kept={"average": average},
            after_step=average.follow_,
            finish=finish,
        )


class _PatchStep(InsideStep):
    """The loss of labelled images by a read-out of patches; a ``core.protocols.Step``."""

    def __init__(self, loss: LabelLoss, *, pool: Pool) -> None:
        self.loss, self.pool = loss, pool

    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See InsideStep."""
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
