"""One row of weights for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.base import BaseEstimator
from torch import Tensor

from tether.adaptation.heads.head import Head
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import checked
from tether.models.features.mean_patches import MeanPatches

Reads = Literal["embedding", "mean_patch", "class_token"]


@final
class LinearHead(Head):
    """``weight @ x + bias`` of embeddings x scaled to length 1: a logistic regression, LDA, or learnt class texts.

    With ``reads`` x are the rows of ``models.features.mean_patches.MeanPatches`` as they are, in place of embeddings.

    Example:
        >>> import torch
        >>> from tether.adaptation.heads import LinearHead
        >>> head = LinearHead(100 * torch.eye(2), classes=["east", "north"])
        >>> head.logits(torch.tensor([[3.0, 4.0]])).tolist()
        [[60.00000...]]
    """

    kind = "linear"

    @checked
    def __init__(
        self,
        weight: Float[Tensor, "c d"],
        *,
        classes: Sequence[str],
        bias: Float[Tensor, " c"] | None = None,
        reads: Reads = "embedding",
    ) -> None:
        """Take what was learnt.

        Args:
            weight: a row for each class, the multiplier of cosines included.
            classes: c names.
            bias: of each class; 0 if None.
            reads: the ``embedding`` of an image, or its patches: ``mean_patch`` or ``class_token``.

        Raises:
            InputError: shapes that do not fit, or numbers that are not finite.
        """
        super().__init__(classes)
        self.reads: Reads = reads
        self.weight = weight.detach().float().cpu().contiguous()
        self.bias = torch.zeros(len(self.classes)) if bias is None else bias.detach().float().cpu()
        if self.weight.ndim != 2 or len(self.weight) != len(self.classes) or self.bias.shape != (len(self.weight),):
            raise InputError(
                f"linear head: expected ({len(self.classes)}, d) weights and ({len(self.classes)},) biases, got "
                f"{tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )
        self.check_numbers()

    @classmethod
    def of(cls, estimator: BaseEstimator, *, classes: Sequence[str]) -> LinearHead:
        """From a linear classifier of scikit-learn that was fitted on rows of length 1 and the numbers 0 to c - 1."""
        weight, bias = (np.atleast_1d(getattr(estimator, name)) for name in ("coef_", "intercept_"))
        if len(classes) == 2 and len(weight) == 1:  # its two classes share one row; a softmax of 0 and z is its sigmoid
            weight, bias = np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])
        return cls(torch.from_numpy(weight), classes=classes, bias=torch.from_numpy(bias))

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self.weight.shape[1]

    def reader(self, model: DualEncoder) -> DualEncoder:
        """See Head."""
        return model if self.reads == "embedding" else MeanPatches(model, pool=self.reads)

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """See Head."""
        rows = F.normalize(image, dim=1) if self.reads == "embedding" else image
        return rows @ self.weight.T + self.bias

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {"weight": self.weight.numpy(), "bias": self.bias.numpy()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"reads": self.reads}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> LinearHead:
        """See Head."""
        weight, bias = (torch.from_numpy(arrays[name]) for name in ("weight", "bias"))
        return cls(weight, classes=classes, bias=bias, reads=settings["reads"])
