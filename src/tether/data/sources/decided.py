"""A source as a person's decisions leave it: rows dropped, labels and captions changed."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.printable import quoted
from tether.core.types import Row
from tether.data.decisions import Decision, check_known, read_decisions
from tether.data.labelled import LABEL, PickedRows


class DecidedSource(PickedRows):
    """The rows of a source with the decisions of a review applied, for every verb that takes a source.

    A row goes where its label, a copy or an outlier is dropped, and where its last caption is. A new label stands in
    the column ``label``, a new caption in the old one's place. Rows that are bad stay, to be counted and named.

    Attributes:
        dropped: rows that went.
        changed: rows with another label or other captions.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from tether.data import open_source
        >>> from tether.data.decisions import Decision, write_decisions
        >>> rows = open_source("digits:split=test")
        >>> key = next(rows.read(rows.blocks()[0])).key
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "decisions.csv"
        ...     write_decisions(file, [Decision(key, "label", "drop")])
        ...     left = open_source({"name": "decided", "source": "digits:split=test", "decisions": str(file)})
        >>> len(left) - len(rows), left.dropped
        (-1, 1)
    """

    def __init__(self, *, source: str | dict[str, Any], decisions: str, label: str = LABEL) -> None:
        """Read the decisions, and the source once to find their rows.

        Args:
            source: what ``open_source`` takes.
            decisions: a CSV file that the page of ``tether audit`` saved, or a JSON export of Label Studio.
            label: column that new labels stand in.

        Raises:
            InputError: decisions that cannot be read, keys that are no rows of the source, a caption that its row does
                not have, or no row that stays.
        """
        from tether.data.opening import open_source

        inner = open_source(source, where="decided: source")
        by_key: dict[str, list[Decision]] = defaultdict(list)
        for one in (made := read_decisions(decisions)):
            by_key[one.key].append(one)
        picked: dict[tuple[str, int], tuple[tuple[str, ...], dict[str, object]] | None] = {}
        self.dropped = self.changed = 0
        seen: set[str] = set()
        for block in inner.blocks():
            for number, row in enumerate(inner.read(block)):
                seen.add(row.key)
                about = by_key.get(row.key, [])
                after = None if row.bad else _applied(row, about, label=label, where=decisions)
                if after == "gone":
                    self.dropped += 1
                    continue
                assert not isinstance(after, str)
                self.changed += after is not None
                picked[block.id, number] = after
        check_known(made, seen, where=decisions, of=inner.name)
        if not picked:
            raise InputError(f"{decisions}: drops every row of {inner.name}")
        super().__init__(inner, picked, name=f"{inner.name} (decided)")
        self.version = f"{hash_int(f'{inner.version} {label} {sorted(map(repr, made))}'):016x}"


def _applied(
    row: Row, about: list[Decision], *, label: str, where: str
) -> tuple[tuple[str, ...], dict[str, object]] | str | None:
    """The captions and columns of a row afterwards; None for no change, ``gone`` for a row that goes."""
    if any(one.choice == "drop" and one.kind != "caption" for one in about):
        return "gone"
    texts, columns = list(row.texts), dict[str, object]()
    for one in about:
        if one.choice == "keep":
            continue
        if one.kind == "label":
            columns[label] = one.new
            continue
        if one.given not in texts:
            raise InputError(f"{where}: key {quoted(row.key)}: it has no caption {quoted(one.given)}")
        place = texts.index(one.given)
        texts[place : place + 1] = [one.new] if one.choice == "relabel" else []
    if row.texts and not texts:
        return "gone"
    return (tuple(texts), columns) if columns or texts != list(row.texts) else None
