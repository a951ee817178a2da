"""A saved head in the place of prompts: what names images for ``tether classify``."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from tether.adaptation.heads import Head
from tether.core.protocols import DualEncoder
from tether.core.types import Batch
from tether.models.embed import encode_images
from tether.tasks.classify.calibrate import Calibration, fit_scale, labelled_scores
from tether.tasks.classify.zero_shot import Scores


class HeadClassifier:
    """Names images by a head of ``tether adapt``; its ``Scores`` have logits in the place of cosines.

    Attributes:
        head: of ``adaptation.heads.load_head``.
        scale: multiplier of the logits.
        calibration: how it was fitted, or None where it is 1.
    """

    def __init__(self, head: Head, model: DualEncoder, *, support: Iterable[Batch] | None = None) -> None:
        """Take a head and the encoder that it was fitted on.

        Args:
            head: which.
            model: the encoder.
            support: labelled images to calibrate on; ``extra["labels"]`` holds (b,) class numbers.

        Raises:
            InputError: another encoder.
        """
        head.check(model)
        self.head, self._model, self.scale = head, head.reader(model), 1.0
        self.calibration: Calibration | None = None
        if support is not None:
            scored, labels = labelled_scores(support, lambda image: head.logits(encode_images(self._model, [image])))
            self.calibration = fit_scale(scored, labels=labels, own=1.0)
            self.scale = self.calibration.scale

    def predict(self, image: Tensor) -> Scores:
        """Scores of (b, 3, h, w) images, uint8 or normalised floats."""
        logits = self.head.logits(encode_images(self._model, [image]))
        probability = F.softmax(self.scale * logits, dim=1)
        return Scores(self.head.classes, logits, probability, self.scale, calibrated=self.calibration is not None)
