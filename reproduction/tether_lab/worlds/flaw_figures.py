"""How well flaws are found, in percent; apart from the bed, whose CLIP an edit of measures need not train anew."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.evaluate.anomaly import AnomalyScores
from tether.evaluate.medical.report import curves, ranked
from tether_lab.worlds.flawed_things import Flawed


def flaw_figures(asked: Flawed, scores: Float[Tensor, " n"], maps: Float[Tensor, "n r c"]) -> dict[str, float]:
    """Image AUROC, pixel AUROC and average precision, and AUPRO up to 30 % false pixels, in percent.

    Args:
        asked: the images.
        scores: of each, 0 to 1, the higher the more unusual.
        maps: likewise of its places, enlarged bilinearly.
    """
    measured, pixels = AnomalyScores(), []
    for score, values, mask in zip(scores.tolist(), maps.float().numpy(), asked.masks.numpy(), strict=True):
        found = AnomalyMap(score, values, mask.shape)
        measured.add(found, mask=mask)
        pixels.append(found.pixels().ravel())
    rows = ranked(np.concatenate(pixels), truth=asked.masks.numpy().ravel())
    report = measured.report(resamples=1)
    figures = {"image_auroc": report.image_auroc, "pixel_auroc": report.pixel_auroc, "aupro": report.aupro}
    precision = float(curves(rows, weights=np.ones((1, len(rows.order))))[1][0])
    return {name: 100 * one.value for name, one in figures.items() if one} | {"pixel_ap": 100 * precision}
