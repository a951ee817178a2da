"""Cross-entropy on labelled images, smoothed and mixed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Decay, NonNegative, checked
from tether.core.types import Loss
from tether.methods.ft_clip.label_augment import seeded


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
