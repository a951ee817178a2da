"""Cross-entropy on fixed class texts, with a margin that grows with how far two classes lie apart (CLIPood)."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Positive, checked
from tether.core.types import Loss
from tether.losses.checks import LENGTH_TOLERANCE

MARGIN, LOGIT_SCALE = 0.3, 100.0  # arXiv 2302.00864, released main.py; CLIP's own scale


@final
class MarginMetricSoftmax:
    """Classification by similarity to class texts, where a class far from the right one must be beaten by more.

    ``margin`` times the class's own text is taken off the image's unit embedding before it is compared, which, up to
    one constant a row, adds ``margin * (1 - cos(right text, other text))`` to every other class. With margin 0 it is
    plain cross-entropy, and it never falls when the margin grows. The texts stay as they are, so classes that were
    never trained can be added when the model is used.

    Source: arXiv 2302.00864, section 4.1, and the released ``train``. That logs the accuracy of the shifted logits,
    which is too low; ``accuracy`` here is what a user will see, and ``margin_accuracy`` the released one.

    Example:
        >>> import torch
        >>> from tether.methods.clipood import MarginMetricSoftmax
        >>> class_text = torch.eye(3)  # unit embeddings of three class names
        >>> features = torch.tensor([[1.0, 0.9, 0.0], [0.0, 2.0, 0.0]])
        >>> labels = torch.tensor([0, 1])
        >>> plain, wider = (MarginMetricSoftmax(class_text, margin=m)(features, labels=labels) for m in (0.0, 0.3))
        >>> bool(wider.total > plain.total), wider.terms["accuracy"].item(), wider.terms["margin_accuracy"].item()
        (True, 1.0, 0.5)
    """

    @checked
    def __init__(
        self, class_text: Float[Tensor, "c d"], *, margin: NonNegative = MARGIN, logit_scale: Positive = LOGIT_SCALE
    ) -> None:
        """Take the classes.

        Args:
            class_text: one row of length 1 for each of at least two classes.
            margin: lambda of the paper, in units of cosine.
            logit_scale: kappa, what cosines are multiplied by; the model's own, and it does not learn.
        """
        if class_text.ndim != 2 or len(class_text) < 2:
            raise InputError(f"class_text: expected (c, d) rows of at least two classes, got {tuple(class_text.shape)}")
        length = torch.linalg.vector_norm(class_text.detach().double(), dim=1)
        bad = ~((length - 1).abs() <= LENGTH_TOLERANCE.get(class_text.dtype, 1e-3))
        if bad.any():
            row = int(bad.nonzero()[0])
            raise InputError(
                f"class_text: row {row} has length {float(length[row]):.6g}, expected 1: normalise it first"
            )
        self.class_text = class_text.detach()
        self.margin, self.logit_scale = margin, logit_scale

    def __call__(self, features: Float[Tensor, "b d"], *, labels: Int[Tensor, " b"]) -> Loss:
        """The mean loss of a batch of images, at least in float32.

        Args:
            features: embeddings as the tower gives them; they are normalised here.
            labels: place of each image's class among the texts.

        Returns:
            The total, and as shares of the batch ``accuracy``, on plain similarities, and ``margin_accuracy``.
        """
        classes, dim = self.class_text.shape
        if features.ndim != 2 or features.shape[1] != dim or len(features) == 0:
            raise InputError(f"features: expected (b, {dim}) with b >= 1, got {tuple(features.shape)}")
        if labels.shape != features.shape[:1] or labels.is_floating_point():
            raise InputError(f"labels: expected ({len(features)},) integers, got {labels.dtype} {tuple(labels.shape)}")
        if labels.device.type == "cpu" and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise InputError(f"labels: expected 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")
        wide = features.to(torch.promote_types(features.dtype, torch.float32))
        texts, labels = self.class_text.to(wide), labels.long()
        with torch.autocast(wide.device.type, enabled=False):
            unit = F.normalize(wide, dim=-1)
            logits = self.logit_scale * (unit - self.margin * texts[labels]) @ texts.T
            total = F.cross_entropy(logits, labels)
            with torch.no_grad():
                plain = (unit @ texts.T).argmax(dim=1) == labels
                shifted = logits.argmax(dim=1) == labels
        return Loss(total, {"accuracy": plain.float().mean(), "margin_accuracy": shifted.float().mean()})
