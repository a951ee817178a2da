"""Pools and steps that tests of the engine use; in a file of their own, so that worker processes can import them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tether.data.curate.engine.step import FLAG_SCHEMA, Counts, Gives, State, Stateless, column_of

WORDS = ["red", "blue", "fox", "owl", "zebra"]


def texts_of(rows: int, *, seed: int = 0) -> list[list[str] | None]:
    """Captions of a few words for each of some rows, or none."""
    rng = np.random.default_rng(seed)
    found: list[list[str] | None] = []
    for _ in range(rows):
        captions = [" ".join(rng.choice(WORDS, size=rng.integers(1, 4))) for _ in range(rng.integers(0, 4))]
        found.append(captions or None)
    return found


def write_pool(path: Path, texts: Any, *, keys: list[str] | None = None, group_rows: int = 20) -> str:
    """A Parquet file of these captions, with images, origins and licences; its path."""
    count = len(texts)
    columns = {
        **({} if keys is None else {"key": keys}),
        "image": [{"bytes": b"\x89PNG" + b"x" * index, "path": None} for index in range(count)],
        "captions": texts,
        "origin": [("web", "book", None)[index % 3] for index in range(count)],
        "license": [("cc-by", None)[index % 2] for index in range(count)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    return str(path)


def kept(folder: Path) -> list[dict[str, Any]]:
    """Rows of all shards of a finished curation."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return [row for shard in manifest["shards"] for row in pq.read_table(folder / shard["file"]).to_pylist()]


def recipe(*parts: object) -> list:
    """The parts as steps, each called as its class is."""
    return [(type(part).__name__.lower(), part) for part in parts]


class Plain(Stateless):
    """A curator that counts nothing."""

    refusal = "refused"

    @property
    def settings(self) -> dict[str, Any]:
        return {key: str(value) for key, value in vars(self).items() if not key.startswith("_")}


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
    """Keeps images whose file is shorter than some bytes, and only of these sources."""

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
