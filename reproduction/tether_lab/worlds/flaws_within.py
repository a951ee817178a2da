"""How much of a pixel figure is telling images apart: maps that are flat, and figures within flawed images alone.

Pixels of flawed and of whole images stand in one ranking, so a map that has its image's score in every place does well
without finding a place; within one image it is at chance.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tether.core.anomaly_map import enlarged
from tether.evaluate.medical.report import curves, ranked
from tether_lab.worlds.flawed_things import Flawed


def flat(scores: Float[Tensor, " n"], grid: tuple[int, int]) -> Float[Tensor, "n r c"]:
    """Maps with the score of the image in every place."""
    return scores.float()[:, None, None].expand(-1, *grid).contiguous()


def within_flawed(asked: Flawed, maps: Float[Tensor, "n r c"]) -> float:
    """AUROC of pixels in percent, in each flawed image by itself, the mean over these; a flat map has 50.

    Args:
        asked: the images, one of them flawed at least.
        maps: of each, the higher the more unusual, enlarged bilinearly.
    """
    areas = []
    for values, mask in zip(maps.float().numpy(), asked.masks.numpy(), strict=True):
        if mask.any():
            rows = ranked(enlarged(values, mask.shape).ravel(), truth=mask.ravel())
            areas.append(float(curves(rows, weights=np.ones((1, mask.size)))[0][0]))
    return 100 * float(np.mean(areas))
