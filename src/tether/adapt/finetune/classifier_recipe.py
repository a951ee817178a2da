"""FT-CLIP's settings as data, and the step of a classifier that learns by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Decay, NonNegative, Part, Positive, Share, Whole, checked
from tether.core.types import ImageSpec, Loss
from tether.data.crops import Crop
from tether.data.label_augment import LabelAugment, seeded
from tether.train.schedules import Cosine

MEMORY = 0.075
"""Share of a short run that its average of weights looks back over."""


@checked
@dataclass(frozen=True, kw_only=True)
class FineTuneRecipe:
    """All settings of a fine-tuning; the defaults are those that every published run shares.

    Source: arXiv 2212.06138, table 1, and the released scripts; the defaults of the release's own arguments are others.

    Attributes:
        learning_rate: the highest, of the read-out.
        layer_decay: factor on it from each layer to the one below.
        below: a factor on all but the read-out.
        epochs: of the run.
        warmup_epochs: at its start.
        batch_size: images of a step.
        image_size: side in pixels.
        patches: whether the layer that makes patches of pixels is ``frozen`` or ``tuned``.
        weight_decay: of matrices.
        betas: of AdamW.
        eps: of AdamW.
        warmup_rate: of the first step.
        least_rate: toward which the rate falls after the last step.
        ema: decay of the average of weights, which is what is used; see ``momentum``.
        label_smoothing: share of the target spread over all classes.
        rand_augment: timm's words, or None.
        erase: chance of random erasing.
        crop: least and largest area of the random crop.
        flip: chance to exchange left and right.
        mixup: alpha of Mixup; 0 leaves it out.
        cutmix: alpha of CutMix; 0 leaves it out. With both, each batch has one of them.

    Example:
        >>> from tether.adapt.finetune import FineTuneRecipe
        >>> recipe = FineTuneRecipe.from_name("b16")
        >>> recipe.learning_rate, recipe.layer_decay, recipe.schedule(steps=500).warmup
        (0.0006, 0.6, 100)
        >>> recipe.momentum(steps=1_000_000), round(recipe.momentum(steps=400), 3)
        (0.9998, 0.967)
    """

    learning_rate: Positive
    layer_decay: Part
    epochs: Count
    warmup_epochs: Whole
    image_size: Count = 224
    patches: Literal["frozen", "tuned"] = "tuned"
    below: Positive = 1.0
    batch_size: Count = 2048
    weight_decay: NonNegative = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    warmup_rate: NonNegative = 1e-6
    least_rate: NonNegative = 1e-6
    ema: Decay = 0.9998
    label_smoothing: Decay = 0.1
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    erase: Share = 0.25
    crop: tuple[Part, Part] = (0.08, 1.0)
    flip: Share = 0.5
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0

    def __post_init__(self) -> None:
        """Refuse a warm-up as long as the run, and rates above the highest."""
        if self.warmup_epochs >= self.epochs:
            raise InputError(f"warmup_epochs: expected fewer than the {self.epochs} epochs, got {self.warmup_epochs}")
        for name in ("warmup_rate", "least_rate"):
            if getattr(self, name) > self.learning_rate:
                raise InputError(
                    f"{name}: expected at most learning_rate, {self.learning_rate}, got {getattr(self, name)}"
                )

    @classmethod
    def from_name(cls, name: str) -> FineTuneRecipe:
        """One of the published: ``b16`` and ``b16_384`` for ViT-B/16, ``l14`` for ViT-L/14."""
        if name not in FINE_TUNE_RECIPES:
            raise InputError(f"recipe: none is called {name!r}; {closest(name, FINE_TUNE_RECIPES)}")
        return FINE_TUNE_RECIPES[name]

    def schedule(self, *, steps: Count) -> Cosine:
        """Factors on ``learning_rate`` over a run, whose warm-up is the same share of it."""
        return Cosine(
            warmup=round(steps * self.warmup_epochs / self.epochs),
            start=self.warmup_rate / self.learning_rate,
            floor=self.least_rate / self.learning_rate,
        )

    def momentum(self, *, steps: int) -> float:
        """Decay of the average: ``ema``, or in a short run less, so that it looks back over 7.5 % of the steps.

        The published decay forgets the start after some 10,000 steps; a short run's average would be the start.
        """
        return min(self.ema, 1 - min(1.0, 1 / (MEMORY * steps)))

    def image_crop(self) -> Crop:
        """The random crop that an image is trained in."""
        return Crop(scale=self.crop, flip=self.flip)

    def augment(self, spec: ImageSpec) -> LabelAugment:
        """What happens to a crop."""
        return LabelAugment(spec, rand=self.rand_augment, erase=self.erase)


FINE_TUNE_RECIPES: Mapping[str, FineTuneRecipe] = {
    "b16": FineTuneRecipe(learning_rate=6e-4, layer_decay=0.6, epochs=50, warmup_epochs=10, patches="frozen"),
    "b16_384": FineTuneRecipe(learning_rate=7e-4, layer_decay=0.6, epochs=50, warmup_epochs=10, image_size=384),
    "l14": FineTuneRecipe(learning_rate=4e-4, layer_decay=0.65, epochs=30, warmup_epochs=5),
}
"""The published settings for ImageNet."""


class LabelLoss:
    """Cross-entropy with smoothed labels, on images that are mixed where the settings say so."""

    @checked
    def __init__(
        self,
        *,
        classes: Count,
        label_smoothing: Decay = 0.0,
        mixup: NonNegative = 0.0,
        cutmix: NonNegative = 0.0,
        seed: int = 0,
    ) -> None:
        """Take the settings.

        Args:
            classes: c.
            label_smoothing: share of the target spread over all classes.
            mixup: alpha of Mixup (arXiv 1710.09412); 0 leaves it out.
            cutmix: alpha of CutMix (arXiv 1905.04899); 0 leaves it out.
            seed: of the draws of both, one for each step.
        """
        self.classes, self.label_smoothing, self.seed = classes, label_smoothing, seed
        self.mixup, self.cutmix = mixup, cutmix

    def mixed(
        self, image: Tensor, labels: Int[Tensor, " b"], *, step: int
    ) -> tuple[Tensor, Int[Tensor, " b"] | Float[Tensor, "b c"]]:
        """Images and targets of a step, by timm; an odd row at the end is left out where rows are mixed.

        Args:
            image: (b, 3, h, w) uint8 pixels or floats.
            labels: of their classes.
            step: of the run; the same one is mixed in the same way.

        Raises:
            InputError: labels outside the classes, or a single image to mix.
        """
        self._check(image, labels)
        if not (self.mixup or self.cutmix):
            return image, labels.long()
        from timm.data.mixup import Mixup

        even = len(image) // 2 * 2
        if not even:
            raise InputError("mixup, cutmix: expected at least two images in a batch, got one")
        mixer = Mixup(self.mixup, self.cutmix, label_smoothing=self.label_smoothing, num_classes=self.classes)
        floats = image[:even].to(torch.float32, copy=True)
        with seeded(hash_int(str(step), seed=self.seed, salt="mix")):
            found, target = mixer(floats, labels[:even].long())
        return (found.round().byte() if image.dtype == torch.uint8 else found.to(image.dtype)), target

    def __call__(self, logits: Float[Tensor, "b c"], target: Tensor, *, labels: Int[Tensor, " b"]) -> Loss:
        """The mean loss, and ``accuracy``, the share told rightly, as far as images are not mixed."""
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        total = F.cross_entropy(logits.float(), target, label_smoothing=smoothing)
        right = logits.detach().argmax(dim=1) == labels[: len(logits)]
        return Loss(total, {"accuracy": right.float().mean()})

    def _check(self, image: Tensor, labels: Tensor) -> None:
        if labels.shape != (len(image),) or labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(f"labels: expected ({len(image)},) integers, got {labels.dtype} {tuple(labels.shape)}")
        if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes:
            raise InputError(
                f"labels: expected 0 to {self.classes - 1}, got {int(labels.min())} to {int(labels.max())}"
            )
