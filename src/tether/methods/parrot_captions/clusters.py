"""Which kinds of images carry text: clusters of embeddings with the overlap of caption and image in each."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.methods.parrot_captions.ocr_overlap import FUZZY, OverlapReport, caption_overlap, summarise

CLUSTERS, DIMENSIONS, CHUNK = 4_000, 256, 200_000
ITERATIONS, RESTARTS, SEED = 300, 10, 42
"""Of kmeans.py in opendatalab/CLIP-Parrot-Bias (commit a1552ce)."""


@dataclass(frozen=True, slots=True)
class ClusterOverlap:
    """Clusters of images.

    Attributes:
        labels: (n,) cluster of each image, 0 to k - 1.
        reports: the overlap within each cluster; one without images has rates of 0.
        digest: of the model that embedded the images, as it was given.
    """

    labels: Int[np.ndarray, " n"]
    reports: tuple[OverlapReport, ...]
    digest: str

    def most_lettered(self) -> Int[np.ndarray, " k"]:
        """Clusters by their fraction of images with text, highest first; ties to the smaller number."""
        return np.argsort([-report.image_text_rate for report in self.reports], kind="stable")


@checked
def cluster_overlap(
    features: Float[np.ndarray, "n d"],
    *,
    captions: Sequence[str],
    ocr: Sequence[Collection[str]],
    clusters: int = CLUSTERS,
    dimensions: Count = DIMENSIONS,
    chunk: Count = CHUNK,
    iterations: Count = ITERATIONS,
    restarts: Count = RESTARTS,
    seed: int = SEED,
    fuzzy: float = FUZZY,
    digest: str = "",
) -> ClusterOverlap:
    """Shorten embeddings by incremental PCA, cluster them by k-means, and report the overlap in each cluster.

    Source: arXiv 2312.14232, section 3, and kmeans.py, which runs faiss where this runs scikit-learn: the same
    method with another random start.

    Args:
        features: (n, d) embeddings of images.
        captions: of the n pairs.
        ocr: what was read in each image.
        clusters: how many, at most n.
        dimensions: of the shortened embeddings; those of the features where they have fewer.
        chunk: rows of one step of the PCA.
        iterations: of k-means at most.
        restarts: of k-means; the best is taken.
        seed: of k-means.
        fuzzy: as ``caption_overlap``.
        digest: of the model that made the features (``core.model_digest.model_digest``), kept in the result.
    """
    from sklearn.cluster import KMeans

    rows = np.asarray(features)
    if rows.ndim != 2 or rows.dtype.kind != "f" or not np.isfinite(rows).all():
        raise InputError(f"features: expected finite floats (n, d), got {rows.dtype} {rows.shape}")
    if not len(rows) == len(captions) == len(ocr):
        raise InputError(
            f"expected one caption and reading for each of {len(rows)} rows, got {len(captions)} and {len(ocr)}"
        )
    if not 1 <= clusters <= len(rows):
        raise InputError(f"clusters: expected 1 to {len(rows)}, the number of images, got {clusters}")
    short = _shortened(rows, dimensions=dimensions, chunk=chunk)
    found = KMeans(clusters, n_init=restarts, max_iter=iterations, random_state=seed).fit(short)
    labels = found.labels_.astype(np.int64)
    overlaps = [caption_overlap(text, ocr=read, fuzzy=fuzzy) for text, read in zip(captions, ocr, strict=True)]
    members = [np.flatnonzero(labels == cluster) for cluster in range(clusters)]
    return ClusterOverlap(labels, tuple(summarise([overlaps[row] for row in some]) for some in members), digest)


def _shortened(rows: Float[np.ndarray, "n d"], *, dimensions: int, chunk: int) -> Float[np.ndarray, "n e"]:
    from sklearn.decomposition import IncrementalPCA

    if len(rows) == 1:  # no variance to keep
        return rows
    wanted = min(dimensions, *rows.shape)
    chunk = max(chunk, wanted, 2)
    pca = IncrementalPCA(wanted)
    edges = [*range(0, len(rows), chunk), len(rows)]
    if len(edges) > 2 and edges[-1] - edges[-2] < wanted:  # a step needs at least as many rows as dimensions
        del edges[-2]
    parts = [rows[start:end] for start, end in itertools.pairwise(edges)]
    with np.errstate(invalid="ignore"):  # shares of the variance, which are not used, of equal rows
        for part in parts:
            pca.partial_fit(part)
    return np.concatenate([pca.transform(part) for part in parts])
