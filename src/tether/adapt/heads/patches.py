"""A linear layer on the mean of an image's patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adapt.finetune.classifier import PatchReadOut
from tether.adapt.heads.head import Head
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.models.mean_patches import MeanPatches, Pool


@final
class PatchHead(Head):
    """``weight @ x + bias`` of the rows x of ``models.mean_patches.MeanPatches`` around the model it is bound to.

    Example:
        >>> import torch
        >>> from tether.adapt.heads import PatchHead
        >>> from tether.models import create
        >>> head = PatchHead(torch.eye(2, 64), classes=["left", "right"])
        >>> model = create("tiny")
        >>> head.logits(head.reader(model).encode_image(torch.rand(3, 3, 32, 32)).pooled.detach()).shape
        torch.Size([3, 2])
    """

    kind = "patches"

    def __init__(
        self,
        weight: Float[Tensor, "c w"],
        *,
        classes: Sequence[str],
        bias: Float[Tensor, " c"] | None = None,
        pool: Pool = "mean_patch",
    ) -> None:
        """Take what was learnt.

        Args:
            weight: a row for each class, the norm's gain included.
            classes: c names.
            bias: of each class, the norm's shift included; 0 if None.
            pool: which tokens of the tower.

        Raises:
            InputError: shapes that do not fit, numbers that are not finite, or tokens of another name.
        """
        super().__init__(classes)
        self.weight = weight.detach().float().cpu()
        self.bias = torch.zeros(len(self.classes)) if bias is None else bias.detach().float().cpu()
        self.pool: Pool = pool
        if self.weight.ndim != 2 or len(self.weight) != len(self.classes) or self.bias.shape != (len(self.weight),):
            raise InputError(
                f"patch head: expected ({len(self.classes)}, w) weights and ({len(self.classes)},) biases, got "
                f"{tuple(self.weight.shape)} and {tuple(self.bias.shape)}"
            )
        if not (torch.isfinite(self.weight).all() and torch.isfinite(self.bias).all()):
            raise InputError("patch head: expected finite numbers, got NaN or infinity")
        if pool not in ("mean_patch", "class_token"):
            raise InputError(f"patch head: pool: expected mean_patch or class_token, got {pool!r:.100}")

    @classmethod
    def of(cls, read: PatchReadOut, *, classes: Sequence[str], pool: Pool) -> Self:
        """From a read-out that was trained."""
        weight = read.head.weight.detach() * read.fc_norm.weight.detach()
        bias = read.head.bias.detach() + read.head.weight.detach() @ read.fc_norm.bias.detach()
        return cls(weight, classes=classes, bias=bias, pool=pool)

    @property
    def dim(self) -> int:
        """See Head."""
        return self.weight.shape[1]

    def reader(self, model: DualEncoder) -> DualEncoder:
        """See Head."""
        return MeanPatches(model, pool=self.pool)

    def scores(self, image: Float[Tensor, "n w"]) -> Float[Tensor, "n c"]:
        """See Head."""
        return image @ self.weight.T + self.bias

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {"weight": self.weight.numpy(), "bias": self.bias.numpy()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"pool": self.pool}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]) -> Self:
        """See Head."""
        weight, bias = (torch.from_numpy(arrays[name]) for name in ("weight", "bias"))
        return cls(weight, classes=classes, bias=bias, pool=settings["pool"])
