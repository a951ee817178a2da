"""How an attribute pulls images to a class: measures on scores alone, without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tether.core.hash_rng import hash_uniform


@dataclass(frozen=True, slots=True)
class Pull:
    """For each row asked its pull (1 when it was turned, less the base rate), which rows, and the favoured classes."""

    values: Tensor
    asked: np.ndarray
    favours: tuple[tuple[str, int], ...]


def pull(predicted: np.ndarray, truth: np.ndarray, attribute: Sequence[str], *, keys: Sequence[str]) -> Pull | None:
    """How much more often rows with a value are taken for the class the value favours, of rows of other classes.

    Args:
        predicted: (n,) class each row is taken for.
        truth: (n,) class it is of.
        attribute: (n,) value of its attribute.
        keys: (n,) names that decide which half a row is in.

    Returns:
        the pull of each row that a favoured class was found for, or None when there is none.
    """
    values = np.array(attribute)
    half = hash_uniform(keys, salt="shortcuts") < 0.5
    found, asked, favours = [], [], Counter()
    for fitted in (half, ~half):
        for value in dict.fromkeys(attribute):
            favoured = _favoured(predicted, truth, values == value, fitted)
            if favoured is None:
                continue
            judged = ~fitted & (truth != favoured)
            here, elsewhere = judged & (values == value), judged & (values != value)
            if here.sum() < 2 or elsewhere.sum() < 2:
                continue
            base = float((predicted[elsewhere] == favoured).mean())
            found.append((predicted[here] == favoured) - base)
            asked.append(np.flatnonzero(here))
            favours[(value, int(favoured))] += int((predicted[here] == favoured).sum())
    if not found:
        return None
    return Pull(
        torch.from_numpy(np.concatenate(found)), np.concatenate(asked), tuple(pair for pair, _ in favours.most_common())
    )


def strength(
    scores: np.ndarray, truth: np.ndarray, attribute: Sequence[str], *, favours: Sequence[tuple[str, int]]
) -> float:
    """How much higher the favoured class scores where the value is, of rows of other classes; a mean of cosines.

    Args:
        scores: (n, c) cosines with the classes.
        truth: (n,) class of each row.
        attribute: (n,) value of its attribute.
        favours: values with the class that each favours.
    """
    centred, values = scores - scores.mean(axis=1, keepdims=True), np.array(attribute)
    found = []
    for value, favoured in favours:
        here, elsewhere = (values == value) & (truth != favoured), (values != value) & (truth != favoured)
        if here.any() and elsewhere.any():
            found.append(centred[here, favoured].mean() - centred[elsewhere, favoured].mean())
    return float(np.mean(found)) if found else 0.0


def _favoured(predicted: np.ndarray, truth: np.ndarray, has: np.ndarray, used: np.ndarray) -> int | None:
    """The class that rows with the value are wrongly taken for most beyond the others."""
    best, where = -np.inf, None
    for number in np.unique(predicted[used & has]):
        here, elsewhere = used & has & (truth != number), used & ~has & (truth != number)
        if here.sum() < 2 or elsewhere.sum() < 2:
            continue
        gain = (predicted[here] == number).mean() - (predicted[elsewhere] == number).mean()
        if gain > best:
            best, where = gain, int(number)
    return where


def cramers_v(truth: np.ndarray, attribute: Sequence[str]) -> float:
    """Cramér's V, 0 for independent and 1 for bound."""
    _, rows = np.unique(truth, return_inverse=True)
    _, columns = np.unique(np.array(attribute), return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    least = min(table.shape) - 1
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / least)) if least else 0.0


def aligned(
    truth: np.ndarray, attribute: Sequence[str], *, favours: Sequence[tuple[str, int]]
) -> Bool[np.ndarray, " n"]:
    """Which rows show a value together with the class that it favours most.

    Args:
        truth: (n,) class of each row.
        attribute: (n,) value of its attribute.
        favours: values with a class, the surest first.
    """
    first: dict[str, int] = {}
    for value, favoured in favours:
        first.setdefault(value, favoured)
    return np.array([first.get(value) == number for value, number in zip(attribute, truth.tolist(), strict=True)])
