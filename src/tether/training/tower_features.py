"""What locked towers give for a source: computed once, kept in the cache, and read by whatever is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.bad_rows import BadRows
from tether.models.composed.cached import CachedEncoder
from tether.models.composed.encoder import ComposedEncoder
from tether.models.embed import encode_texts

BATCH = 32
"""Images in one forward: the most that a kill costs."""


@dataclass(frozen=True, slots=True)
class TowerFeatures:
    """Rows of both towers for the pairs of a source.

    Attributes:
        keys: of the n images, in the source's order.
        image: (n, w) float32 rows of the image tower.
        text: (m, v) float32 rows of the text tower.
        owner: (m,) the image that each caption belongs to.
    """

    keys: list[str]
    image: Float[Tensor, "n w"]
    text: Float[Tensor, "m v"]
    owner: Int[Tensor, " m"]


def tower_features(
    model: ComposedEncoder,
    source: Source,
    *,
    bad_rows: Path,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> TowerFeatures:
    """The rows of a source through the two towers of a model, each image and each caption once.

    What was computed before, for these towers and this source, is read from the cache; a run that was killed resumes.

    Args:
        model: its towers are asked in evaluation mode; its maps are not.
        source: where rows come from; those without a caption are left out.
        bad_rows: JSON-lines log of rows without features, written anew.
        workers: threads that decode ahead.
        strict: stop at the first bad row.
        on_progress: called with (images done, None).

    Raises:
        InputError: not one good row, or a bad row under ``strict``.
    """
    account = BadRows.anew(source.name, path=bad_rows, strict=strict)
    towers = CachedEncoder(model, maps=False)
    keys: list[str] = []
    texts: list[list[str]] = []
    image: list[Tensor] = []
    for rows, found in towers.rows_of(
        source, batch_size=BATCH, workers=workers, on_bad=account, on_progress=on_progress
    ):
        for row, features in zip(rows, found, strict=True):
            captions = [text for text in row.texts if text.strip()]
            if not captions:
                account.add(row.key, "no caption")
            elif not torch.isfinite(features).all():
                account.add(row.key, "its features are not finite")
            else:
                keys.append(row.key)
                texts.append(captions)
                image.append(features)
    if not keys:
        raise InputError(f"{source.name}: {account.nothing_good()}")
    text = encode_texts(towers, [caption for captions in texts for caption in captions], not_finite="nan")
    owner = torch.repeat_interleave(torch.arange(len(texts)), torch.tensor([len(some) for some in texts]))
    return TowerFeatures(keys, torch.stack(image), text, owner)
