"""Images without defects for ``tether detect``: what a detector remembers, and from which score on it alarms."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.data.bad_rows import BadRows
from tether.data.in_order import originals
from tether.evaluate.false_alarms import AlarmThreshold, alarm_threshold
from tether.tasks.anomaly import Detector, ImageFeatures
from tether.workflows.models import Progress

FOLDS = 5
"""Parts of the good images of which each is scored by what remembers the others."""


@dataclass(frozen=True)
class GoodImages:
    """What images without defects gave.

    Attributes:
        keys: of them, in order.
        scores: of each, by the detector that remembers the other parts of them; none of one image alone.
        threshold: fitted on the scores; None with fewer than two.
        more: whether there were more images than were wanted.
        bad: images that could not be read.
    """

    keys: Sequence[str] = ()
    scores: Sequence[float] = ()
    threshold: AlarmThreshold | None = None
    more: bool = False
    bad: int = 0


class GoodSource:
    """Good images that a prepared detector looks at once, and only if there is something to compare with them.

    Each part of the images is scored by what remembers the other parts, and all are remembered in the end. What
    remembers more finds a further good image no more unusual, so the promise leans to the safe side; where good images
    have much the same scores it is that of ``alarm_threshold``.

    Attributes:
        keys: of the images, in order.
        digest: of their pixels.
        digests: of the pixels of each, see ``pixel_digest``.
        scores: see ``GoodImages``; None until they are known.
    """

    def __init__(
        self,
        rows: Source,
        detector: Detector,
        *,
        most: int,
        rate: float | None,
        batch_size: int,
        workers: int,
        bad: BadRows,
        on_progress: Progress | None = None,
    ) -> None:
        """Read the images' pixels, to name them.

        Args:
            rows: the images.
            detector: prepared.
            most: images that are taken, the first of the source.
            rate: of false alarms; see ``alarm_threshold``.
            batch_size: images that are looked at together.
            workers: threads that decode ahead.
            bad: account of images that cannot be read.
            on_progress: called with images looked at and how many there are.

        Raises:
            InputError: no good image that can be read, or too few for the rate.
        """
        self._rows, self._detector, self._rate, self._most = rows, detector, rate, most
        self._settings = {"batch_size": batch_size, "workers": workers}
        self._bad, self._told = bad, on_progress
        self._more = self._ready = False
        self.scores: Sequence[float] | None = None
        self.keys: list[str] = []
        self.digests: set[str] = set()
        total = hashlib.blake2b(digest_size=16)
        for some, images in originals(rows, bad=self._bad, **self._settings):
            room = most - len(self.keys)
            self.keys += [row.key for row in some[:room]]
            for image in images[:room]:
                self.digests.add(one := pixel_digest(image))
                total.update(one.encode())
            if len(some) > room:
                self._more = True
                break
        if not self.keys:
            raise InputError(f"--good: {rows.name}: {self._bad.nothing_good()}")
        self.digest = total.hexdigest()
        if len(self.keys) > 1:
            alarm_threshold([0.0] * len(self.keys), rate=rate)  # what so many cannot promise is refused at once
        elif rate is not None:
            raise InputError("--false-alarms: 1 good image gives no threshold; give 2 at least, or leave it out")

    def remember(self) -> None:
        """Let the detector remember all images, and score each by the others; nothing where that is done."""
        if self._ready:
            return
        self._ready = True
        looks, count = list[ImageFeatures](), len(self.keys)
        for _, images in originals(self._rows, bad=self._bad, **self._settings):
            looks += self._detector.look(images[: count - len(looks)])
            if self._told is not None:
                self._told(len(looks), count)
            if len(looks) == count:
                break
        if self.scores is None:
            self.scores = self._held_out(looks) if count > 1 else ()
        self._detector.remember(looks)

    def _held_out(self, looks: Sequence[ImageFeatures]) -> list[float]:
        scores, folds = [0.0] * len(looks), min(FOLDS, len(looks))
        for fold in range(folds):
            self._detector.remember([look for number, look in enumerate(looks) if number % folds != fold])
            for number in range(fold, len(looks), folds):
                scores[number] = self._detector.judge(looks[number]).score
        return scores

    def images(self) -> GoodImages:
        """What they gave, looking at them if that is not known yet."""
        if self.scores is None:
            self.remember()
        assert self.scores is not None  # remember sets them
        threshold = alarm_threshold(self.scores, rate=self._rate) if self.scores else None
        return GoodImages(tuple(self.keys), tuple(self.scores), threshold, self._more, self._bad.count)


def pixel_digest(image: UInt8[Tensor, "3 h w"]) -> str:
    """Names the pixels of an image and its size."""
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    return f"{pixels.shape[0]}x{pixels.shape[1]}:{hashlib.blake2b(pixels.data, digest_size=16).hexdigest()}"
