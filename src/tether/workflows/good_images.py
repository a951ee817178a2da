"""Images without defects for ``tether detect``: what a detector remembers, and from which score on it alarms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.originals import originals
from tether.evaluate.false_alarms import AlarmThreshold, alarm_threshold
from tether.tasks.anomaly import Detector
from tether.workflows.models import Data

FOLDS = 5
"""Parts of the good images of which each is scored by what remembers the others."""


@dataclass(frozen=True)
class GoodImages:
    """Images without defects.

    Attributes:
        keys: of them, in order.
        scores: of each, by the detector that remembers four fifths of the others, or all others of few; none of one.
        digest: of their pixels.
        threshold: fitted on the scores; None with fewer than two.
        more: whether there were more images than were wanted.
        bad: images that could not be read.
    """

    keys: Sequence[str] = ()
    scores: Sequence[float] = ()
    digest: str = ""
    threshold: AlarmThreshold | None = None
    more: bool = False
    bad: int = 0


def remember_good(
    source: Data,
    detector: Detector,
    *,
    most: int,
    rate: float | None,
    batch_size: int,
    workers: int,
    strict: bool,
) -> GoodImages:
    """Let a prepared detector remember good images, and fit the threshold on them.

    Each part of the images is scored by what remembers the other parts, and all are remembered in the end. What
    remembers more finds a further good image no more unusual, so the promise leans to the safe side; where good images
    have much the same scores it is that of ``alarm_threshold``.

    Args:
        source: what ``data.open_source`` takes.
        detector: prepared.
        most: images that are taken, the first of the source.
        rate: of false alarms; see ``alarm_threshold``.
        batch_size: images that are looked at together.
        workers: threads that decode ahead.
        strict: stop at the first bad row.

    Raises:
        InputError: no good image that can be read, or too few for the rate.
    """
    rows = open_source(source, where="--good")
    bad = BadRows(rows.name, strict=strict)
    keys, looks, total, more = list[str](), [], hashlib.blake2b(digest_size=16), False
    for some, images in originals(rows, bad=bad, batch_size=batch_size, workers=workers):
        images = images[: most - len(keys)]
        more = more or len(images) < len(some)
        looks += detector.look(images)
        keys += [row.key for row in some[: len(images)]]
        for image in images:
            total.update(pixel_digest(image).encode())
        if more:
            break
    if not keys:
        raise InputError(f"--good: {rows.name}: {bad.nothing_good()}")
    scores = [0.0] * len(looks) if len(looks) > 1 else []
    folds = min(FOLDS, len(looks))
    for fold in range(folds if scores else 0):
        detector.remember([look for number, look in enumerate(looks) if number % folds != fold])
        for number in range(fold, len(looks), folds):
            scores[number] = detector.judge(looks[number]).score
    detector.remember(looks)
    if not scores and rate is not None:
        raise InputError("--false-alarms: 1 good image gives no threshold; give 2 at least, or leave it out")
    threshold = alarm_threshold(scores, rate=rate) if scores else None
    return GoodImages(tuple(keys), tuple(scores), total.hexdigest(), threshold, more, bad.count)


def pixel_digest(image: UInt8[Tensor, "3 h w"]) -> str:
    """Names the pixels of an image and its size."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return f"{pixels.shape[0]}x{pixels.shape[1]}:{hashlib.blake2b(pixels.data, digest_size=16).hexdigest()}"
