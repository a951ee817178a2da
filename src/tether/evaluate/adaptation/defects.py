"""How well learnt texts find the defects of held-out images, against sentences read on the same features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from tether.core.anomaly_map import AnomalyMap
from tether.core.protocols import DualEncoder, Source
from tether.data.bad_rows import BadRows
from tether.data.defect_truths import DefectTruths, mask_at
from tether.data.in_order import originals
from tether.evaluate.medical.report import curves, ranked
from tether.tasks.anomaly import Detector

MOST = 500
"""Images that are looked at, at most."""
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class AskedDefects:
    """What several detectors said of the same images.

    Attributes:
        scores: (k, n) of images, by detector.
        defective: (n,) which of them are.
        pixels: (k, m) pixel AUROC within each of m defective images with a mask.
    """

    scores: Float[np.ndarray, "k n"]
    defective: Bool[np.ndarray, " n"]
    pixels: Float[np.ndarray, "k m"]

    def image_auroc(self) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "r k"]] | None:
        """That of each detector, and of draws of the images; None where all images are of one kind."""
        if self.defective.all() or not self.defective.any():
            return None
        count, rng = len(self.defective), np.random.default_rng(0)
        drawn = [np.bincount(rng.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
        weights = np.stack([np.ones(count), *drawn]).astype(float)
        found = np.stack([curves(ranked(one, truth=self.defective), weights=weights)[0] for one in self.scores], axis=1)
        return found[0], found[1:]


def ask_defects(
    source: Source, model: DualEncoder, detectors: list[Detector], *, truths: DefectTruths
) -> AskedDefects | None:
    """Let detectors look at images of which something is known; None where nothing is known of any.

    Args:
        source: of images, of which the first 500 are looked at.
        model: that the detectors are told.
        detectors: any; they are prepared here.
        truths: what is known of the images.
    """
    ready = [one.prepare(model, "object") for one in detectors]
    scores, defective, pixels = list[list[float]](), list[bool](), list[list[float]]()
    for rows, images in originals(source, bad=BadRows(source.name)):
        known = [(truths.read(row), image) for row, image in zip(rows, images, strict=True)]
        some = [(truth, image) for truth, image in known if truth is not None][: MOST - len(scores)]
        said = [one.predict([image for _, image in some]) for one in ready]
        for (truth, _), maps in zip(some, zip(*said, strict=True), strict=True):
            scores.append([one.score for one in maps])
            defective.append(truth.defective)
            if truth.mask is not None and truth.defective and not truth.mask.all():
                pixels.append([_pixel_auroc(one, truth.mask) for one in maps])
        if len(scores) == MOST:
            break
    if not scores:
        return None
    places = np.array(pixels).T if pixels else np.empty((len(ready), 0))
    return AskedDefects(np.array(scores).T, np.array(defective), places)


def _pixel_auroc(found: AnomalyMap, mask: Bool[np.ndarray, "h w"]) -> float:
    truth = mask_at(mask, found.size).ravel()
    area, _ = curves(ranked(found.pixels().ravel(), truth=truth), weights=np.ones((1, truth.size)))
    return float(area[0])
