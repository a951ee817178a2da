"""Steps that tests of the engine use; in a file of their own, so that worker processes can import them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tether.data.curate.engine.step import FLAG_SCHEMA, Counts, Gives, State, column_of


class Plain:
    """A curator that counts nothing."""

    refusal = "refused"
    columns: tuple[str, ...] = ()
    counts: Counts = "nothing"

    @property
    def settings(self) -> dict[str, Any]:
        return {key: str(value) for key, value in vars(self).items() if not key.startswith("_")}

    def empty(self):
        return self

    def partial_fit(self, rows):
        return self

    def merge(self, other):
        return self

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: State) -> None:
        assert not state

    def report(self) -> dict[str, Any]:
        return {}


class Without(Plain):
    """Refuses captions with a word, and writes down which keys it was asked about."""

    def __init__(self, word: str, log: Path | None = None) -> None:
        self.word, self.log, self.refusal = word, log, f"says {word}"

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write("".join(f"{key}\n" for key in rows.column("key").to_pylist()))
        return np.array([self.word not in (text or "") for text in rows.column("text").to_pylist()], float)


class Shorter(Plain):
    """Keeps pictures whose file is shorter than some bytes, and only of these sources."""

    columns = ("image", "origin")

    def __init__(self, size: int, origin: str) -> None:
        self.size, self.origin = size, origin

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        assert rows.schema.names == ["key", "text", "image", "origin"]
        sizes = [len(data) if data is not None else 10**9 for data in column_of(rows, "image").to_pylist()]
        good = np.array([origin == self.origin for origin in column_of(rows, "origin").to_pylist()])
        return ((np.array(sizes) < self.size) & good).astype(float)


class Once(Plain):
    """Keeps the pair with the least key of each text; counts the pool."""

    counts: Counts = "pool"
    refusal = "the text stands at another key"

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def empty(self) -> Once:
        return Once()

    def partial_fit(self, rows: pa.RecordBatch) -> Once:
        for key, text in zip(rows.column("key").to_pylist(), rows.column("text").to_pylist(), strict=True):
            self._first[str(text)] = min(key, self._first.get(str(text), key))
        return self

    def merge(self, other: Once) -> Once:
        for text, key in other._first.items():
            self._first[text] = min(key, self._first.get(text, key))
        return self

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        pairs = zip(rows.column("key").to_pylist(), rows.column("text").to_pylist(), strict=True)
        return np.array([self._first[str(text)] == key for key, text in pairs], float)

    def state_dict(self) -> dict[str, Any]:
        return {"texts": np.array(list(self._first)), "keys": np.array(list(self._first.values()))}

    def load_state_dict(self, state: State) -> None:
        self._first = dict(
            zip(np.atleast_1d(state["texts"]).tolist(), np.atleast_1d(state["keys"]).tolist(), strict=True)
        )

    def report(self) -> dict[str, Any]:
        return {"texts": len(self._first)}


class Upper:
    """Every ``word`` in capitals."""

    columns: tuple[str, ...] = ()
    gives: Gives = "one"

    def __init__(self, word: str) -> None:
        self.word = word

    @property
    def settings(self) -> dict[str, Any]:
        return {"word": self.word}

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        texts = column_of(rows, "text").to_pylist()
        return pa.array(
            [[text and text.replace(self.word, self.word.upper())] for text in texts], pa.list_(pa.string())
        )


class Twice:
    """The caption, and the caption with a mark; a caption that is short stays alone."""

    columns: tuple[str, ...] = ()
    gives: Gives = "several"

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        texts = column_of(rows, "text").to_pylist()
        lists = [[text] if text is None or len(text) < 4 else [text, f"{text}!"] for text in texts]
        return pa.array(lists, pa.list_(pa.string()))


class Marks:
    """Flags captions that hold a word, with their length as score."""

    columns: tuple[str, ...] = ()

    def __init__(self, word: str) -> None:
        self.word = word

    @property
    def settings(self) -> dict[str, Any]:
        return {"word": self.word}

    def flag(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        texts = column_of(rows, "text").to_pylist()
        labels = [self.word if text and self.word in text else None for text in texts]
        return pa.record_batch(
            [pa.array(labels, pa.string()), pa.array([float(len(t or "")) for t in texts])], schema=FLAG_SCHEMA
        )


class Deadly(Plain):
    """Kills its own process when it meets a key, as often as there are marks to remove in a folder."""

    def __init__(self, key: str, marks: Path) -> None:
        self.key, self.marks = key, marks

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        if any(key.startswith(self.key) for key in rows.column("key").to_pylist()):
            mark = next(iter(sorted(self.marks.iterdir())), None)
            if mark is not None:
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return np.ones(rows.num_rows)


class Broken(Plain):
    """Fails as a part with a mistake in it does."""

    def keep(self, rows: pa.RecordBatch) -> np.ndarray:
        raise KeyError("a mistake")
