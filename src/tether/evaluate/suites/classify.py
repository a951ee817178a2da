"""Zero-shot numbers as clip_benchmark 1.6.2 takes them: one class an image, or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.data.suites.shards import SLOT
from tether.evaluate.suites.measured import SuiteNumber
from tether.evaluate.suites.seen import SeenSet
from tether.models.embed import encode_texts
from tether.tasks.classify.zero_shot import weights_of_prompts

FIVE = 5
AP_RESAMPLES = 200
"""Draws for the interval of a mean average precision, at most: each goes through all classes."""
_MOVED = 0.3
"""How much better names in another order must do before that is said."""


def class_points(
    model: DualEncoder, classes: Sequence[str], *, templates: Sequence[str], batch_size: int = 256
) -> Float[Tensor, "c d"]:
    """(c, d) one point a class, the mean of its prompts; a name may come twice, as in clip_benchmark.

    Args:
        model: any model that ``tether.load`` gives.
        classes: names.
        templates: with ``{c}`` for the name.
        batch_size: prompts in one forward.
    """
    prompts = [template.replace(SLOT, name) for name in classes for template in templates]
    rows = encode_texts(model, prompts, batch_size=batch_size)
    return weights_of_prompts(rows.view(len(classes), len(templates), -1), geometry=geometry_of(model).detached())


def classify(
    seen: SeenSet, weights: Float[Tensor, "c d"], *, resamples: int = 1000, seed: int = 0
) -> dict[str, SuiteNumber]:
    """``acc1``, ``acc5`` (of five classes and more) and ``mean_per_class_recall``, over the classes that have rows.

    The first answer is the most similar class; of equal ones torch's ``topk`` and ``argmax`` choose, as there.

    Args:
        seen: rows with labels.
        weights: see ``class_points``.
        resamples: draws for the intervals; 0 makes none.
        seed: of the draws.
    """
    scores = 100.0 * seen.geometry.similarity(seen.image, weights)
    return accuracies(scores, seen.labels, resamples=resamples, seed=seed)


def accuracies(
    scores: Float[Tensor, "n c"],
    labels: Int[np.ndarray, " n"],
    *,
    five: bool | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, SuiteNumber]:
    """The three numbers from scores of classes; ``five`` says whether ``acc5`` is taken, None by the classes."""
    classes = scores.shape[1]
    five = classes >= FIVE if five is None else five
    truth = torch.from_numpy(labels)
    best = scores.topk(FIVE if five else 1, dim=1).indices == truth[:, None]
    own = scores.gather(1, truth[:, None])
    ties = int(((scores == own).sum(1) > 1).sum())
    drawing = {"resamples": resamples, "seed": seed}
    found = {"acc1": SuiteNumber.of_rows(best[:, 0].numpy(), chance=1 / classes, ties=ties, **drawing)}
    if five:
        found["acc5"] = SuiteNumber.of_rows(best.any(1).numpy(), chance=FIVE / classes, **drawing)
    right = (scores.argmax(1) == truth).numpy().astype(np.float64)

    def recall(weights: np.ndarray) -> float:
        asked = np.bincount(labels, weights=weights, minlength=classes)
        hits = np.bincount(labels, weights=weights * right, minlength=classes)
        return float((hits[asked > 0] / asked[asked > 0]).mean())

    found["mean_per_class_recall"] = SuiteNumber.of(
        recall(np.ones(len(labels))), statistic=recall, rows=len(labels), chance=1 / classes, **drawing
    )
    return found


def moved_names(scores: Float[Tensor, "n c"], labels: Int[np.ndarray, " n"]) -> str:
    """What to say where the names seem to stand in another order than the labels count, or the empty string.

    A model that names most images right once its answers are renamed, and few before, was given the wrong list; most
    and few are more and fewer than one answer to every image would get.
    """
    from scipy.optimize import linear_sum_assignment

    classes = scores.shape[1]
    answers = scores.argmax(1).numpy()
    table = np.bincount(labels * classes + answers, minlength=classes * classes).reshape(classes, classes)
    row, column = linear_sum_assignment(-table)
    now, renamed = np.trace(table) / len(labels), table[row, column].sum() / len(labels)
    common = table.sum(axis=1).max() / len(labels)
    if len(labels) < 5 * classes or renamed < 0.5 or renamed - max(now, common) < _MOVED:
        return ""
    return (
        f"the names seem to stand in another order than the labels: {now:.0%} right, {renamed:.0%} if the answers "
        f"were renamed; compare classnames.txt with how the labels were counted"
    )


def multilabel(
    seen: SeenSet, weights: Float[Tensor, "c d"], *, resamples: int = AP_RESAMPLES, seed: int = 0
) -> dict[str, SuiteNumber]:
    """``mean_average_precision`` over all classes; one without any image counts as 0, as in clip_benchmark.

    Args:
        seen: rows with ``labels``.
        weights: see ``class_points``.
        resamples: draws for the interval; 0 makes none, and there are at most 200.
        seed: of the draws.

    Raises:
        InputError: no row has any class.
    """
    truth = np.stack([np.asarray(row.meta["labels"]) for row in seen.rows])
    if not truth.any():
        raise InputError(f"{seen.name}: no row has a class, so no precision can be taken")
    scores = 100.0 * seen.geometry.similarity(seen.image, weights)
    order = scores.sort(dim=0, descending=True).indices.numpy()
    sorted_truth = np.ascontiguousarray(np.take_along_axis(truth, order, axis=0).T)
    places = np.ascontiguousarray(order.T)

    def value(counts: np.ndarray) -> float:
        return float(_precisions(sorted_truth, counts[places]).mean())

    return {
        "mean_average_precision": SuiteNumber.of(
            value(np.ones(len(truth))),
            statistic=value,
            rows=len(truth),
            chance=float(truth.mean()),
            resamples=min(resamples, AP_RESAMPLES),
            seed=seed,
        )
    }


def _precisions(truth: Bool[np.ndarray, "c n"], weights: Float[np.ndarray, "c n"]) -> Float[np.ndarray, " c"]:
    """Average precision of each class, images sorted by its score and counted ``weights`` times."""
    own = truth * weights
    hits, all_of = own.cumsum(1), weights.cumsum(1)
    precision = np.divide(hits, all_of, out=np.zeros_like(hits), where=all_of > 0)
    return (precision * own).sum(1) / np.maximum(own.sum(1), 1)
