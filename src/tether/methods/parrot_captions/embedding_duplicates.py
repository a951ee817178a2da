"""A step of a recipe: of images that a model finds nearly the same, one stays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from annotated_types import Gt, Le
from jaxtyping import Bool, Float, Float16, Int

from tether.core.ranges import checked
from tether.data.curate.engine.step import State
from tether.data.curate.steps.image_duplicates import Columns, ImageDuplicates, kept_greedily
from tether.tasks.curate.lazy_encoder import Backbone

EXACT = 20_000
"""Pictures up to which all pairs are compared; more are first sorted into cells."""
_CELL = 2_000  # images of a cell, about
_CELLS_EACH = 2  # nearest cells in which an image is compared
_SAMPLE = 50_000  # images that the cells' centres are found on
_BLOCK = 1_024


class EmbeddingDuplicates(ImageDuplicates):
    """Drops images whose embedding has a cosine of at least ``threshold`` with that of one that stays.

    It also finds crops, mirrored or recoloured copies and other views of one thing, which ``near_duplicates`` cannot
    see; it cannot tell a copy from what the model takes for the same. Pictures are ranked by a hash of the key, so the
    order of the pool does not matter; from the first to the last, an image stays when none that stays is alike.

    Rows are compared: a row that stays keeps all its captions. Rows without an image, and images that cannot be
    decoded, stay. Above 20,000 images, pairs are compared that share one of their two nearest cells of a k-means
    partition with seed 0, after the README of opendatalab/CLIP-Parrot-Bias (and SemDeDup, arXiv 2303.09540); the few
    that do not are missed. Memory: two bytes for each image and dimension while counting, twice that when deciding.
    """

    refusal = "an image with nearly the same embedding stays in its place"
    held: ClassVar[Mapping[str, type[np.generic]]] = {"keys": np.uint64, "vectors": np.float16}

    @checked
    def __init__(self, *, model: str, threshold: Annotated[float, Gt(-1), Le(1)] = 0.95, device: str = "cpu") -> None:
        """Take the settings; the model is loaded when it is needed.

        Args:
            model: what ``tether.load`` takes.
            threshold: cosine from which two images are alike, in (-1, 1].
            device: of the model.
        """
        self.backbone = Backbone(model, device=device)
        self.threshold = threshold
        self._clear()

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords and the model's digest."""
        return {"model": self.backbone.name, "model_digest": self.backbone.digest, "threshold": self.threshold}

    def read(self, images: pa.BinaryArray) -> tuple[Columns, Bool[np.ndarray, " n"]]:
        """Embeddings of images, and which could be decoded."""
        vectors, good = self.backbone.images(images)
        return (vectors.astype(np.float16),), good

    def staying(self, *columns: np.ndarray) -> Bool[np.ndarray, " n"]:
        """Which images stay."""
        pairs = [np.zeros((2, 0), np.int64), *_alike(columns[1], least=self.threshold)]
        first, second = np.concatenate(pairs, axis=1)
        return kept_greedily(len(columns[0]), better=np.minimum(first, second), worse=np.maximum(first, second))

    def state_dict(self) -> dict[str, np.ndarray | int | float | str]:
        """The columns held, how many pairs and unreadable images were seen, and the model's digest."""
        return {**super().state_dict(), "model_digest": self.backbone.digest}

    def load_state_dict(self, state: State) -> None:
        """Take over what was saved.

        Raises:
            InputError: it was embedded by another model.
        """
        self.backbone.check_digest(str(state["model_digest"]), what="saved embeddings")
        super().load_state_dict(state)


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
