"""A step of a recipe: of images that a model finds nearly the same, one stays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
from annotated_types import Gt, Le
from jaxtyping import Float, Float16, Int, UInt64

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.engine.hashing import hashed, row_keys
from tether.data.curate.engine.stateless import column_of, pictures_of
from tether.data.curate.engine.step import IMAGE, Counts, State
from tether.data.curate.steps.greedy_dedup import staying
from tether.tasks.curate.lazy_encoder import Backbone

EXACT = 20_000
"""Images up to which all pairs are compared; more are first sorted into cells."""
_CELL = 2_000  # images of a cell, about
_CELLS_EACH = 2  # nearest cells in which an image is compared
_SAMPLE = 50_000  # images that the cells' centres are found on
_BLOCK = 1_024


class EmbeddingDuplicates:
    """Drops images whose embedding has a cosine of at least ``threshold`` with that of one that stays.

    It also finds crops, mirrored or recoloured copies and other views of one thing, which ``near_duplicates`` cannot
    see; it cannot tell a copy from what the model takes for the same. Images are ranked by a hash of the key, so the
    order of the pool does not matter; from the first to the last, an image stays when none that stays is alike.

    Rows are compared: a row that stays keeps all its captions. Rows without an image, and images that cannot be
    decoded, stay. Above 20,000 images, pairs are compared that share one of their two nearest cells of a k-means
    partition with seed 0, after the README of opendatalab/CLIP-Parrot-Bias (and SemDeDup, arXiv 2303.09540); the few
    that do not are missed. Memory: two bytes for each image and dimension while counting, twice that when deciding.
    Once it was sent to another process it holds the decision alone and counts no more.
    """

    refusal = "an image with nearly the same embedding stays in its place"
    columns: tuple[str, ...] = (IMAGE,)
    counts: Counts = "pool"

    @checked
    def __init__(self, *, model: str, threshold: Annotated[float, Gt(-1), Le(1)] = 0.95, device: str = "cpu") -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            threshold: cosine from which two images are alike.
            device: of the model.
        """
        self.backbone = Backbone(model, device=device)
        self.threshold = threshold
        self._clear()

    def _clear(self) -> None:
        self.pairs = self.unreadable = 0
        self._held: list[tuple[np.ndarray, np.ndarray]] = []
        self._leaving: np.ndarray | None = None
        self._images: int | None = None  # of a decision that came without its vectors

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords and the model's digest."""
        return {"model": self.backbone.name, "model_digest": self.backbone.digest, "threshold": self.threshold}

    def empty(self) -> Self:
        """The same settings and model without any counts."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__}
        other._clear()
        return other

    def partial_fit(self, rows: pa.RecordBatch) -> Self:
        """Embed the images of one batch; the captions of one row are taken to share its image."""
        self._counting()
        images = pictures_of(rows)
        keys = hashed(row_keys(column_of(rows, "key")))
        self.pairs += rows.num_rows
        first = np.ones(rows.num_rows, np.bool_)
        first[1:] = keys[1:] != keys[:-1]
        place = np.flatnonzero(first & np.asarray(images.is_valid()))
        vectors, good = self.backbone.images(images.take(pa.array(place, pa.int64())))
        self.unreadable += int((~good).sum())
        self._add(keys[place][good], vectors[good].astype(np.float16))
        return self

    def merge(self, other: Self) -> Self:
        """Add the images of another shard.

        Raises:
            InputError: they were embedded by another model, or either holds its decision alone.
        """
        self._counting()
        other._counting()
        self.backbone.check_digest(other.backbone.digest, what="embeddings")
        self.pairs += other.pairs
        self.unreadable += other.unreadable
        for held in other._held:
            self._add(*held)
        return self

    def _counting(self) -> None:
        if self._images is not None:
            raise InputError("this step was sent from another process with its decision alone; it counts no more")

    def _add(self, keys: UInt64[np.ndarray, " n"], vectors: Float16[np.ndarray, "n d"]) -> None:
        if len(keys):
            self._held.append((keys, vectors))
        self._leaving = None

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for pairs whose image stays, 0 for those whose image is like one that does.

        Raises:
            InputError: nothing was counted yet.
        """
        if not self.pairs:
            raise InputError("nothing was counted yet; call partial_fit over the whole pool first")
        return (~np.isin(hashed(row_keys(column_of(rows, "key"))), self._decide())).astype(np.float64)

    def _decide(self) -> UInt64[np.ndarray, " n"]:
        """Hashes of the rows that leave."""
        if self._leaving is None:
            keys, vectors = self._table()
            pairs = [np.zeros((2, 0), np.int64), *_alike(vectors, least=self.threshold)]
            first, second = np.concatenate(pairs, axis=1)
            stays = staying(len(keys), better=np.minimum(first, second), worse=np.maximum(first, second))
            self._leaving = keys[~stays]
        return self._leaving

    def _table(self) -> tuple[UInt64[np.ndarray, " n"], Float16[np.ndarray, "n d"]]:
        """Hash and vector of each row, rising by hash, each once."""
        if not self._held:
            return np.zeros(0, np.uint64), np.zeros((0, 1), np.float16)
        keys, vectors = (np.concatenate([held[side] for held in self._held]) for side in (0, 1))
        if len(self._held) > 1 or (keys[1:] <= keys[:-1]).any():
            # Of one key the vector that is smallest number by number, so that the order of arrival does not matter.
            order = np.lexsort((*vectors.T[::-1], keys)) if len(np.unique(keys)) < len(keys) else np.argsort(keys)
            keys, vectors = keys[order], vectors[order]
            once = np.concatenate(([True], keys[1:] != keys[:-1]))
            keys, vectors = keys[once], vectors[once]
            self._held = [(keys, vectors)]
        return keys, vectors

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self.pairs and self._images is None:  # other processes ask it, and need no vectors for that
            state |= {"_leaving": self._decide(), "_images": len(self._table()[0]), "_held": []}
        return state

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """Hash and vector of each row, how many pairs and unreadable images were seen, and the model's digest."""
        self._counting()
        keys, vectors = self._table()
        counts = {"pairs": self.pairs, "unreadable": self.unreadable}
        return {"keys": keys, "vectors": vectors, **counts, "model_digest": self.backbone.digest}

    def load_state_dict(self, state: State) -> None:
        """Take over what was saved."""
        self.backbone.check_digest(str(state["model_digest"]), what="saved embeddings")
        self._clear()
        self._add(np.asarray(state["keys"], np.uint64), np.asarray(state["vectors"], np.float16))
        self.pairs, self.unreadable = int(state["pairs"]), int(state["unreadable"])

    def report(self) -> dict[str, Any]:
        """Pairs seen, images compared, those that stay, and how many could not be decoded."""
        images = len(self._table()[0]) if self._images is None else self._images
        stay = images - len(self._decide())
        return {"pairs": self.pairs, "images": images, "stay": stay, "unreadable": self.unreadable}


def _alike(vectors: Float16[np.ndarray, "n d"], *, least: float) -> Iterator[Int[np.ndarray, "2 m"]]:
    """Positions of pairs with a cosine of at least ``least``, some of them twice."""
    if len(vectors) <= EXACT:
        yield from _within(vectors.astype(np.float32), np.arange(len(vectors)), least=least)
        return
    for members in _cells(vectors):
        yield from _within(vectors[members].astype(np.float32), members, least=least)


def _within(
    vectors: Float[np.ndarray, "n d"], names: Int[np.ndarray, " n"], *, least: float
) -> Iterator[Int[np.ndarray, "2 m"]]:
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    # What was equal before it was rounded shall not fail a threshold of 1 by the last digit.
    floor = least - 1e-6
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors[start:].T >= floor
        first, second = np.nonzero(np.triu(block, 1))
        if len(first):
            yield names[np.stack([first + start, second + start])]


def _cells(vectors: Float16[np.ndarray, "n d"]) -> Iterator[Int[np.ndarray, " m"]]:
    """Rows of each cell, rising; every row is in its nearest cells."""
    from sklearn.cluster import MiniBatchKMeans

    # Rows are ranked by a hash, so the first are a random sample.
    centres = MiniBatchKMeans(-(-len(vectors) // _CELL), random_state=0, n_init=1, batch_size=4_096)
    centres.fit(vectors[:_SAMPLE].astype(np.float32))
    middle = centres.cluster_centers_.astype(np.float32)
    nearest = np.concatenate(
        [_nearest(vectors[start : start + _BLOCK], middle) for start in range(0, len(vectors), _BLOCK)]
    )
    owner = np.repeat(np.arange(len(vectors)), nearest.shape[1])
    order = np.argsort(nearest.ravel(), kind="stable")
    edges = np.searchsorted(nearest.ravel()[order], np.arange(len(middle) + 1))
    for start, end in itertools.pairwise(edges):
        yield owner[order[start:end]]


def _nearest(vectors: Float16[np.ndarray, "n d"], middle: Float[np.ndarray, "k d"]) -> Int[np.ndarray, "n c"]:
    closeness = 2 * vectors.astype(np.float32) @ middle.T - (middle**2).sum(axis=1)
    wanted = min(_CELLS_EACH, len(middle))
    return np.argsort(-closeness, axis=1, kind="stable")[:, :wanted]
