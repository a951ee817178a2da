"""Which cases of a product ``make test`` runs, and which are left to ``make nightly``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from _pytest.mark.structures import ParameterSet


def covering(
    rows: Iterable[str], columns: Iterable[str], *, turn: int = 0, cheap: Callable[[str, str], bool] | None = None
) -> list[ParameterSet]:
    """All pairs for ``parametrize``: each row with one column stays in ``make test``, the next row with the next one.

    Two tests over the same rows with other turns cover other pairs.

    Args:
        rows: such as recipes.
        columns: such as kinds of encoder.
        turn: the column that the first row gets.
        cheap: pairs that always stay, such as those that are refused at once.
    """
    columns = list(columns)
    cases = []
    for number, row in enumerate(rows):
        dear = [column for column in columns if cheap is None or not cheap(row, column)]
        kept = dear[(number + turn) % len(dear)] if dear else None
        for column in columns:
            marks = [pytest.mark.nightly] if column in dear and column != kept else []
            cases.append(pytest.param(row, column, marks=marks, id=f"{row}-{column}"))
    return cases
