"""Which single objects an embedding of several resembles, and which position among them wins (arXiv 2502.19842)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.evaluate.checks import checked_rows

ListOrder = Literal["best_first", "best_last"]


@dataclass(frozen=True, slots=True)
class ObjectRetrieval:
    """Retrieval of the n objects of N items among K prototypes; position j is the item's j-th object.

    Attributes:
        predicted: (N, n) the n most similar objects of each item, in the order asked for.
        topn_correct: how many items have exactly their own objects there.
        first_in_correct: (n,) of those, how often the most similar object is the one at each position.
        best_counts: (n,) over all items, how often each position is the most similar of those present.
        precision: (N,) fraction of the retrieved that are present.
        recall: (N,) fraction of the present that are retrieved.
        f1: (N,) their harmonic mean, 0 when both are 0.
        precision_at: (N, n) precision of the first 1 to n of the list.
        recall_at: (N, n) recall of the first 1 to n of the list.
        average_precision: (N,) of each list.
        gains: (N,) normalised discounted gain of each list, against the best order of the same list.
    """

    predicted: Int[Tensor, "N n"]
    topn_correct: int
    first_in_correct: Int[Tensor, " n"]
    best_counts: Int[Tensor, " n"]
    precision: Float[Tensor, " N"]
    recall: Float[Tensor, " N"]
    f1: Float[Tensor, " N"]
    precision_at: Float[Tensor, "N n"]
    recall_at: Float[Tensor, "N n"]
    average_precision: Float[Tensor, " N"]
    gains: Float[Tensor, " N"]

    @property
    def topn_accuracy(self) -> float:
        """Fraction of items whose n most similar objects are exactly their own."""
        return self.topn_correct / len(self.predicted)

    @property
    def first_share(self) -> Float[Tensor, " n"]:
        """Of the items retrieved right, the share in which each position comes first; zeros when there are none."""
        return self.first_in_correct.double() / max(1, self.topn_correct)

    @property
    def best_share(self) -> Float[Tensor, " n"]:
        """Fraction of all items in which each position is the most similar of those present; 1 / n without a bias."""
        return self.best_counts.double() / len(self.predicted)

    @property
    def map(self) -> float:
        """Mean average precision."""
        return float(self.average_precision.mean())

    @property
    def ndcg(self) -> float:
        """Mean normalised discounted gain."""
        return float(self.gains.mean())


@checked
def object_retrieval(
    features: Float[Tensor, "N d"],
    *,
    prototypes: Float[Tensor, "K d"],
    present: Int[Tensor, "N n"],
    listing: ListOrder = "best_first",
) -> ObjectRetrieval:
    """Rank the K single objects by their cosine to each item of several, and see which position wins.

    Source: arXiv 2502.19842 (IOR and TOR), and its released IOR.py. It differs in that lists run from the most similar
    down; ``best_last`` gives the released order, from which MAP, NDCG and the figures at 1 to n are then computed.

    Args:
        features: embeddings of the items, any length.
        prototypes: embeddings of the single objects, any length.
        present: which n objects each item holds, in the order of their positions.
        listing: ``best_first``, or ``best_last`` as the release lists them.

    Example:
        >>> import torch
        >>> from tether.methods.comco import object_retrieval
        >>> alone = torch.eye(4)  # embeddings of single objects
        >>> present = torch.tensor([[0, 1], [2, 3], [1, 2]])  # what each image holds, by place
        >>> several = alone[present[:, 0]] + 0.5 * alone[present[:, 1]]  # the first place outweighs the second
        >>> found = object_retrieval(several, prototypes=alone, present=present)
        >>> found.topn_accuracy, found.best_share.tolist()
        (1.0, [1.0, 0.0])
    """
    items, singles = _unit(features, name="features"), _unit(prototypes, name="prototypes")
    if items.shape[1] != singles.shape[1]:
        raise InputError(f"features and prototypes differ in width: {tuple(items.shape)}, {tuple(singles.shape)}")
    present = _checked_present(present, items=len(items), objects=len(singles)).to(items.device)
    n = present.shape[1]
    similarity = items @ singles.T
    predicted = similarity.argsort(dim=1, descending=True, stable=True)[:, :n]
    hit = (predicted[:, :, None] == present[:, None, :]).any(2)
    right = hit.all(1)
    best = similarity.gather(1, present).argmax(1)
    if listing == "best_last":
        predicted, hit = predicted.flip(1), hit.flip(1)
    hits = hit.double()
    steps = torch.arange(1, n + 1, dtype=torch.float64, device=hits.device)
    precision_at = hits.cumsum(1) / steps
    discount = 1 / torch.log2(steps + 1)
    ideal = (hits.sort(1, descending=True).values * discount).sum(1)
    share = hits.mean(1)
    return ObjectRetrieval(
        predicted=predicted,
        topn_correct=int(right.sum()),
        first_in_correct=torch.bincount(best[right], minlength=n),
        best_counts=torch.bincount(best, minlength=n),
        # As many are retrieved as are present, so precision, recall and their harmonic mean are one number.
        precision=share,
        recall=share,
        f1=share,
        precision_at=precision_at,
        recall_at=hits.cumsum(1) / n,
        average_precision=(hits * precision_at).sum(1) / n,
        gains=torch.where(ideal > 0, (hits * discount).sum(1) / ideal.clamp_min(discount[-1]), 0.0),
    )


def _unit(rows: Tensor, *, name: str) -> Tensor:
    rows = checked_rows(rows, name=name)
    lengths = rows.norm(dim=1)
    if not (lengths > 0).all():
        raise InputError(f"{name}: row {int((lengths == 0).nonzero()[0])} is zero and has no direction")
    return F.normalize(rows.double(), dim=1)


def _checked_present(present: Tensor, *, items: int, objects: int) -> Tensor:
    if present.ndim != 2 or len(present) != items or not present.shape[1] or present.is_floating_point():
        raise InputError(f"present: expected whole numbers ({items}, n), got {present.dtype} {tuple(present.shape)}")
    if present.shape[1] > objects:
        raise InputError(f"present: {present.shape[1]} objects in an item, but there are only {objects} prototypes")
    if int(present.min()) < 0 or int(present.max()) >= objects:
        raise InputError(
            f"present: expected objects 0 to {objects - 1}, got {int(present.min())} to {int(present.max())}"
        )
    ordered = present.sort(1).values
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if twice.any():
        row = int(twice.nonzero()[0])
        raise InputError(f"present: item {row} holds an object twice: {present[row].tolist()}")
    return present.long()
