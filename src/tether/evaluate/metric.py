"""Retrieval as a ``torchmetrics.Metric``, for loops that already log those."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.evaluate.checks import checked_pair
from tether.evaluate.retrieval import Depths, Similarity, dot_products, recall_at_k


class RetrievalRecall(Metric):
    """Collects embeddings batch by batch and gives ``recall_at_k`` of all of them, over all processes.

    Args:
        k: the depths.
        similarity: how two embeddings are compared, as in ``recall_at_k``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    image: list[Tensor]
    text: list[Tensor]
    owner: list[Tensor]
    per_update: list[Tensor]

    @checked
    def __init__(self, *, k: Depths = (1, 5, 10), similarity: Similarity = dot_products) -> None:
        """Start empty."""
        super().__init__()
        self.k, self.similarity = tuple(k), similarity
        for name in ("image", "text", "owner", "per_update"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self, image: Float[Tensor, "b d"], text: Float[Tensor, "c d"], text_to_image: Int[Tensor, " c"] | None = None
    ) -> None:
        """Add one batch.

        Args:
            image: (b, d) embeddings.
            text: (c, d) embeddings.
            text_to_image: (c,) row *within this batch* of each text's image; None pairs row i with row i.
        """
        image, text = checked_pair(image.detach(), text.detach(), paired="" if text_to_image is not None else "recall")
        owner = torch.arange(len(image), device=image.device) if text_to_image is None else text_to_image
        self.image.append(image)
        self.text.append(text)
        self.owner.append(owner)
        self.per_update.append(torch.tensor([[len(image), len(text)]], device=image.device))

    def compute(self) -> dict[str, float]:
        """The result of ``recall_at_k`` on everything so far."""
        if not len(self.image):
            raise InputError("retrieval recall: no batch has been added")
        sizes = dim_zero_cat(self.per_update)
        # Owners are counted within their batch; batches of all processes now stand one after another.
        shift = torch.repeat_interleave(sizes[:, 0].cumsum(0) - sizes[:, 0], sizes[:, 1])
        return recall_at_k(
            dim_zero_cat(self.image),
            dim_zero_cat(self.text),
            k=self.k,
            text_to_image=dim_zero_cat(self.owner) + shift,
            similarity=self.similarity,
        )
