"""Class texts and a cache of labelled embeddings beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.adaptation.heads.head import Head, Multiplier, Strength
from tether.core.errors import InputError
from tether.core.ranges import checked


@final
class CacheHead(Head):
    """``weight @ x + alpha exp(-beta (1 - keys @ x)) @ labels`` of embeddings x scaled to length 1: a Tip-Adapter.

    Source: arXiv 2111.03930, equation 8; ``adaptation.training_free.TipAdapter`` finds what it holds.

    Example:
        >>> import torch
        >>> from tether.adaptation.heads import CacheHead
        >>> keys, key_classes = torch.eye(2), torch.tensor([0, 1])
        >>> head = CacheHead(torch.zeros(2, 2), keys, key_classes, classes=["east", "north"], alpha=1.0, beta=1.0)
        >>> head.logits(torch.tensor([[1.0, 0.0]])).tolist()
        [[1.0, 0.367...]]
    """

    kind = "cache"

    @checked
    def __init__(
        self,
        weight: Float[Tensor, "c d"],
        keys: Float[Tensor, "k d"],
        key_classes: Int[Tensor, " k"],
        *,
        classes: Sequence[str],
        alpha: Strength,
        beta: Multiplier,
    ) -> None:
        """Take what was learnt.

        Args:
            weight: a row for each class, the multiplier of cosines included.
            keys: embeddings of labelled images.
            key_classes: number of each one's class.
            classes: c names.
            alpha: weight of the cache.
            beta: how sharply nearness falls off.

        Raises:
            InputError: shapes or class numbers that do not fit, or numbers that are not finite.
        """
        super().__init__(classes)
        self.weight, self.keys = (rows.detach().float().cpu().contiguous() for rows in (weight, keys))
        self.key_classes, self.alpha, self.beta = key_classes.long().cpu(), float(alpha), float(beta)
        width, count = self.weight.shape[-1], len(self.classes)
        shapes = [tuple(rows.shape) for rows in (self.weight, self.keys, self.key_classes)]
        if shapes != [(count, width), (len(self.keys), width), (len(self.keys),)] or not len(self.keys):
            raise InputError(f"cache head: expected ({count}, d) weights, (k, d) keys and (k,) classes, got {shapes}")
        self.check_numbers()
        if int(self.key_classes.min()) < 0 or int(self.key_classes.max()) >= count:
            raise InputError(f"cache head: expected class numbers from 0 to {count - 1}")

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self.weight.shape[1]

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """See Head."""
        rows = F.normalize(image, dim=1)
        near = torch.exp(-self.beta * (1 - rows @ self.keys.T))
        return (rows @ self.weight.T).index_add(1, self.key_classes, near, alpha=self.alpha)

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {
            "weight": self.weight.numpy(),
            "keys": self.keys.numpy(),
            "key_classes": self.key_classes.numpy(),
        }

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"alpha": self.alpha, "beta": self.beta}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> CacheHead:
        """See Head."""
        weight, keys, owners = (torch.from_numpy(arrays[name]) for name in ("weight", "keys", "key_classes"))
        return cls(weight, keys, owners, classes=classes, alpha=settings["alpha"], beta=settings["beta"])
