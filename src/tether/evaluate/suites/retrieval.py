"""Retrieval numbers as clip_benchmark 1.6.2 takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.evaluate.retrieval import BLOCK_CELLS, chance
from tether.evaluate.suites.number import SuiteNumber
from tether.evaluate.suites.seen import SeenSet
from tether.models.embed import encode_texts

DEPTHS = (1, 5, 10)


def retrieval(
    model: DualEncoder,
    seen: SeenSet,
    *,
    depths: Sequence[int] = DEPTHS,
    batch_size: int = 256,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, SuiteNumber]:
    """``image_retrieval_recall@k`` of texts that look for their image, ``text_retrieval_recall@k`` of the other way.

    An image's query is a hit when any of its captions is among the first k. A depth beyond the pool is left out. Of
    equal similarities torch's ``topk`` chooses, as there.

    Args:
        model: gives the texts' embeddings.
        seen: rows with captions.
        depths: the ks.
        batch_size: texts in one forward.
        resamples: draws of whole images for the intervals; 0 makes none.
        seed: of the draws.

    Raises:
        InputError: fewer than two images.
    """
    images = len(seen.rows)
    if images < 2:
        raise InputError(f"{seen.name}: {images} image; retrieval is between at least 2")
    owner = torch.repeat_interleave(torch.arange(images), torch.tensor([len(row.texts) for row in seen.rows]))
    texts = [text for row in seen.rows for text in row.texts]
    rows = seen.geometry.points(encode_texts(model, texts, batch_size=batch_size))
    to_image = [depth for depth in depths if depth <= images]
    to_text = [depth for depth in depths if depth <= len(texts)]
    from_text, from_image, ties = _hits(seen, rows, owner, to_image=to_image, to_text=to_text)
    own = torch.bincount(owner, minlength=images).double().numpy()
    luck = chance(owner, images=images, k=tuple(depths))
    drawing = {"resamples": resamples, "seed": seed}
    found: dict[str, SuiteNumber] = {}
    for depth, hits in zip(to_image, from_text.T, strict=True):
        sums = np.bincount(owner.numpy(), weights=hits, minlength=images)
        found[f"image_retrieval_recall@{depth}"] = SuiteNumber.of(
            float(hits.mean()),
            statistic=lambda weights, sums=sums: float(weights @ sums / (weights @ own)),
            rows=images,
            chance=luck[f"text_to_image_r{depth}_chance"],
            ties=ties,
            **drawing,
        )
    for depth, hits in zip(to_text, from_image.T, strict=True):
        by_luck = luck[f"image_to_text_r{depth}_chance"]
        found[f"text_retrieval_recall@{depth}"] = SuiteNumber.of_rows(hits, chance=by_luck, **drawing)
    return found


def _hits(
    seen: SeenSet, texts: Float[Tensor, "m d"], owner: Tensor, *, to_image: Sequence[int], to_text: Sequence[int]
) -> tuple[Bool[np.ndarray, "m k"], Bool[np.ndarray, "n k"], int]:
    """Whether each query's own answer is among the first k, block by block; and texts whose image has an equal."""
    from_text, from_image, ties = [], [], 0
    step = max(1, BLOCK_CELLS // max(len(texts), len(seen.image)))
    for start in range(0, len(texts), step):
        scores = seen.geometry.similarity(texts[start : start + step], seen.image)
        mine = owner[start : start + step, None]
        ties += int(((scores == scores.gather(1, mine)).sum(1) > 1).sum())
        from_text.append(_among(scores, lambda found, mine=mine: found == mine, depths=to_image))
    for start in range(0, len(seen.image), step):
        scores = seen.geometry.similarity(seen.image[start : start + step], texts)
        mine = torch.arange(start, start + len(scores))[:, None]
        from_image.append(_among(scores, lambda found, mine=mine: owner[found] == mine, depths=to_text))
    return np.concatenate(from_text), np.concatenate(from_image), ties


def _among(scores: Tensor, right, *, depths: Sequence[int]) -> Bool[np.ndarray, "r k"]:
    hits = right(scores.topk(max(depths), dim=1).indices)
    return torch.stack([hits[:, :depth].any(1) for depth in depths], dim=1).numpy()
