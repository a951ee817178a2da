"""What a clause says, as numbers: duty, permission, negation, amounts, conditions (arXiv 1906.02121)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError

_WORDS = {
    "duty": r"\b(shall|must|will|should|is to|are to|agrees? to|required|obliged)\b",
    "permission": r"\b(may|can|could|allowed|permitted|entitled|option|free to)\b",
    "prohibition": r"\b(shall|must|will|should|may|can)\s?(not\b|never\b)|\b(cannot|prohibited|forbidden|refrain)\b",
    "negation": r"\b(not|no|never|nor|neither|without|none|cannot)\b",
    "condition": r"\b(if|unless|when|where|provided|except|only|until|subject to|in case)\b",
}
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]+")
CLAUSE_FEATURES = (
    *(f"{name}_{side}" for name in _WORDS for side in ("first", "second")),
    *(f"{name}_differs" for name in _WORDS),
    "numbers_differ",
    "overlap",
)
"""Names of the 17 columns."""


def clause_features(first: Sequence[str], second: Sequence[str]) -> Float[np.ndarray, "n 17"]:
    """Whether each clause has a word of five kinds, whether the two differ in it, in numbers, and words shared.

    Source: the sheet of arXiv 1906.02121 names the idea (modality is what conflicts); words and columns are ours.

    Args:
        first: n clauses.
        second: n clauses.

    Returns:
        0 and 1 in all columns but the last, the share of all words that both have.

    Example:
        >>> from tether.methods.norm_conflicts import CLAUSE_FEATURES, clause_features
        >>> row = clause_features(["The tenant shall pay."], ["The tenant may pay."])[0]
        >>> [name for name, value in zip(CLAUSE_FEATURES, row) if value == 1]
        ['duty_first', 'permission_second', 'duty_differs', 'permission_differs']
    """
    if len(first) != len(second):
        raise InputError(f"clauses: expected as many second ones as first ones, got {len(second)} and {len(first)}")
    return np.array([_row(a.lower(), b.lower()) for a, b in zip(first, second, strict=True)]).reshape(-1, 17)


def _row(first: str, second: str) -> list[float]:
    sides = [[float(bool(re.search(words, text))) for text in (first, second)] for words in _WORDS.values()]
    numbers = float(set(_NUMBER.findall(first)) != set(_NUMBER.findall(second)))
    a, b = set(_WORD.findall(first)), set(_WORD.findall(second))
    overlap = len(a & b) / len(a | b) if a | b else 0.0
    return [*(value for side in sides for value in side), *(float(a != b) for a, b in sides), numbers, overlap]
