"""Image to image: whether an image finds the others of its class, as mean average precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.evaluate.checks import checked_rows
from tether.evaluate.retrieval import BLOCK_CELLS, Depths, Similarity, dot_products


@dataclass(frozen=True, slots=True)
class ImageRetrieval:
    """What the images that have another of their class found.

    Attributes:
        average_precision: (q,) of each such image over the whole ranking, 0 to 1.
        ranks: (q,) of its nearest right answer; 1 is best.
    """

    average_precision: Float[Tensor, " q"]
    ranks: Int[Tensor, " q"]

    @property
    def map(self) -> float:
        """Mean average precision."""
        return float(self.average_precision.mean())

    @checked
    def summary(self, *, k: Depths = (1, 5, 10)) -> dict[str, float]:
        """``image_to_image_map`` and the recall at each k, as ``image_to_image_r1``..."""
        recall = {f"image_to_image_r{depth}": float((self.ranks <= depth).double().mean()) for depth in k}
        return {"image_to_image_map": self.map} | recall


@checked
@torch.no_grad()
def image_retrieval(
    features: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    similarity: Similarity = dot_products,
    block_cells: Count = BLOCK_CELLS,
) -> ImageRetrieval:
    """Rank all other images for each image; those of its class are the right answers.

    An image is no answer to itself. One alone in its class asks no question, and remains a wrong answer for the
    others. Equal similarities count against the query. torchmetrics' average precision takes an answer with a negative
    score for a wrong one, which cosines are not made for.

    Args:
        features: embeddings; normalise them for cosine similarity, or give a model's ``geometry.points``.
        labels: the class of each.
        similarity: (r, d) and (c, d) rows to (r, c).
        block_cells: most similarities held at once.

    Raises:
        InputError: labels that are no whole numbers, or no two images of one class.

    Example:
        >>> import torch
        >>> from tether.methods.retrieval_align.image_retrieval import image_retrieval
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
        >>> found = image_retrieval(features, torch.tensor([0, 0, 1, 2]))
        >>> found.ranks.tolist(), round(found.map, 4)
        ([2, 3], 0.4167)
    """
    features = checked_rows(features, name="features")
    count = len(features)
    if labels.shape != (count,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise InputError(f"labels: expected ({count},) integers, got {labels.dtype} {tuple(labels.shape)}")
    labels = labels.to(features.device)
    precisions, ranks = [], []
    rows = max(1, block_cells // count)
    for start in range(0, count, rows):
        scores = similarity(features[start : start + rows], features)
        mine = labels[start : start + rows, None] == labels
        itself = torch.arange(start, start + len(scores), device=scores.device)[:, None]
        scores, mine = scores.scatter(1, itself, -torch.inf), mine.scatter(1, itself, False)
        asks = mine.any(1)
        scores, mine = scores[asks], mine[asks]
        wrong_first = mine.to(torch.uint8).argsort(dim=1, stable=True)
        order = scores.gather(1, wrong_first).argsort(dim=1, descending=True, stable=True)
        hits = mine.gather(1, wrong_first).gather(1, order).double()
        places = torch.arange(1, count + 1, dtype=torch.float64, device=hits.device)
        precisions.append((hits.cumsum(1) / places * hits).sum(1) / hits.sum(1))
        ranks.append(hits.argmax(1) + 1)
    found = ImageRetrieval(torch.cat(precisions), torch.cat(ranks))
    if not len(found.ranks):
        raise InputError("labels: expected two images of one class at least, got every image alone in its class")
    return found
