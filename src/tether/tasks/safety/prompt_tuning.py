"""The mathematics of tuning one prompt vector for each class, in closed form (arXiv 2110.04222)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PromptLoss:
    """Loss of a batch, and what it asks of the prompts.

    Attributes:
        loss: weighted mean of the cross-entropy, in nats.
        gradient: (k, d) with respect to the prompts, which are not normalised.
        probability: (n, k) softmax of the logits.
    """

    loss: float
    gradient: Float[np.ndarray, "k d"]
    probability: Float[np.ndarray, "n k"]


@dataclass(frozen=True, slots=True)
class TuningEpoch:
    """One pass over the images, measured before each step as the release does.

    Attributes:
        loss: mean over batches.
        accuracy: mean over batches of the fraction that is right; a short last batch weighs as much as any other.
    """

    loss: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class PromptReport:
    """What a classifier gets right.

    Attributes:
        accuracy: mean over batches of the fraction that is right, as the release reports it.
        by_class: fraction that is right of each class, NaN for one without rows.
        balanced: mean of ``by_class`` over the classes that have rows.
        confusion: (k, k) rows of class i that are said to be j.
    """

    accuracy: float
    by_class: tuple[float, ...]
    balanced: float
    confusion: Int[np.ndarray, "k k"]


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Rows that sum to 1."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def other_share(counts: Sequence[int] | NDArray[np.integer]) -> Float[np.ndarray, " k"]:
    """Weight of each class: the fraction of the others among all rows. With two equal classes both are 0.5."""
    table = np.asarray(counts, dtype=np.float64)
    return 1 - table / table.sum()


def prompt_loss(
    prompts: Float[np.ndarray, "k d"],
    *,
    features: Float[np.ndarray, "n d"],
    y: Int[np.ndarray, " n"],
    class_weight: Float[np.ndarray, " k"],
    scale: float,
) -> PromptLoss:
    """Weighted cross-entropy of ``scale`` times the cosines, and its gradient.

    The gradient of a row is at a right angle to it and goes with 1 / its length: a learning rate is tied to the length
    of the start prompts.

    Args:
        prompts: one a class, not normalised.
        features: rows of length 1.
        y: class numbers.
        class_weight: one a class; the mean is over the rows' weights, so a common factor changes nothing.
        scale: of the cosines.
    """
    length = np.linalg.norm(prompts, axis=1, keepdims=True)
    directions = prompts / length
    logits = scale * features @ directions.T
    shifted = logits - logits.max(axis=1, keepdims=True)
    raised = np.exp(shifted)
    whole = raised.sum(axis=1)
    probability = raised / whole[:, None]
    rows = np.arange(len(y))
    weight = class_weight[y]
    share = weight / weight.sum()
    loss = float(share @ (np.log(whole) - shifted[rows, y]))
    pull = probability.copy()
    pull[rows, y] -= 1
    toward = (scale * share[:, None] * pull).T @ features
    gradient = (toward - directions * (toward * directions).sum(axis=1, keepdims=True)) / length
    return PromptLoss(loss, gradient, probability)


def report(probability: Float[np.ndarray, "n k"], *, y: Int[np.ndarray, " n"], batch_size: int) -> PromptReport:
    """Accuracies and confusion of predictions; ties go to the first class.

    Args:
        probability: or any scores, higher is likelier.
        y: class numbers.
        batch_size: of the mean over batches.
    """
    said, k = probability.argmax(axis=1), probability.shape[1]
    confusion = np.zeros((k, k), np.int64)
    np.add.at(confusion, (y, said), 1)
    totals = confusion.sum(axis=1)
    by_class = tuple(float(confusion[c, c] / totals[c]) if totals[c] else float("nan") for c in range(k))
    right = [
        float((said[at : at + batch_size] == y[at : at + batch_size]).mean()) for at in range(0, len(y), batch_size)
    ]
    return PromptReport(float(np.mean(right)), by_class, float(np.nanmean(by_class)), confusion)
