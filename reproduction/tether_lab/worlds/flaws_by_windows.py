"""Flaws found by words in windows, in single patches and in whole images, and by four good images of a product."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.methods.winclip.detector import WinclipDetector
from tether.methods.winclip.token_windows import window_masks
from tether.models.features.dense import DensePath, dense_tokens
from tether.models.towers.clip import Clip
from tether.tasks.anomaly.detector import Detector, ImageFeatures
from tether.tasks.anomaly.harmonic import harmonic_map, harmonic_mean
from tether.tasks.anomaly.patches import PatchesDetector
from tether_lab.lab.lab import Lab
from tether_lab.worlds.flaw_figures import flaw_figures
from tether_lab.worlds.flawed_things import LAYERS, SEEN, TEMPLATES, UNSEEN, Flawed, flawed
from tether_lab.worlds.flaws_within import flat, within_flawed

ASKED, CHOOSING, GOOD, OF_A_PRODUCT = 300, 100, 4, 60
"""Images that are asked about, those to choose by, good ones of a product, and those asked about of each product."""
NAME = "object"
PATHS = {
    "tokens": None,
    "values": DensePath(),
    "beside": DensePath(kind="v", start=-2, beside=True, feed_forward=False),
}
"""Ways to read patches, of which the baseline takes the best: as they leave the tower, with their own values in the
last block (MaskCLIP), and attending by values over the last two (AnomalyCLIP)."""


def words(model: Clip) -> WinclipDetector:
    """The published windows, with sentences that the CLIP's captions have."""
    return WinclipDetector(templates=TEMPLATES).prepare(model, NAME)


def from_words(lab: Lab, model: Clip) -> dict[str, float]:
    """Figures of windows, of patches and of whole images by the same two texts.

    ``patches`` has of each figure that of the reading which has the best one on other images.
    """
    asked = flawed(lab, "asked", lab.steps(ASKED, 12), UNSEEN)
    other = flawed(lab, "to choose by", lab.steps(CHOOSING, 12), SEEN)
    detector = words(model)
    looks = detector.look(list(asked.pixels))
    found = [detector.judge(look) for look in looks]
    scores = torch.tensor([one.score for one in found])
    maps = {
        "windows": torch.from_numpy(np.stack([one.values for one in found])),
        "arithmetic": _arithmetic(detector, looks),
        **_patches(detector, model, asked),
    }
    figures = {name: _figures(asked, one) for name, one in maps.items()}
    ahead = {name: _figures(other, one) for name, one in _patches(detector, model, other).items()}
    figures["patches"] = {
        what: figures[max(ahead, key=lambda name: ahead[name][what])][what] for what in figures["windows"]
    }
    apart = flaw_figures(asked, scores, flat(scores, detector.grid))
    notes = {f"{what}_{name}": value for name, each in figures.items() for what, value in each.items()}
    return notes | {"image_auroc": apart["image_auroc"], "pixel_auroc_image": apart["pixel_auroc"]}


def from_good_images(lab: Lab, model: Clip) -> dict[str, float]:
    """Figures over products of unseen shapes, by words alone, by words with good images, and by a memory of patches.

    The block after which the memory's patches are read is the best on products of seen shapes.
    """
    memories = [PatchesDetector(block=block).prepare(model, NAME) for block in range(LAYERS)]
    ahead = [_products(lab, memory, SEEN, good=True)["image_auroc"] for memory in memories]
    arms: dict[str, tuple[Detector, bool]] = {
        "words": (words(model), False),
        "both": (words(model), True),
        "memory": (memories[int(np.argmax(ahead))], True),
    }
    return {
        f"product_{what}_{name}": value
        for name, (detector, good) in arms.items()
        for what, value in _products(lab, detector, UNSEEN, good=good).items()
        if what in ("image_auroc", "pixel_auroc")
    }


def _products(lab: Lab, detector: Detector, shapes: tuple[str, ...], *, good: bool) -> dict[str, float]:
    """The mean of products, each with its own good images."""
    found = list[dict[str, float]]()
    for shape in shapes:
        known = flawed(lab, f"good {shape}", GOOD, (shape,), damaged=0.0, alike=True)
        asked = flawed(lab, f"asked {shape}", lab.steps(OF_A_PRODUCT, 12), (shape,), alike=True)
        detector.remember(detector.look(list(known.pixels)) if good else [])
        maps = detector.predict(list(asked.pixels))
        scores = torch.tensor([one.score for one in maps])
        found.append(flaw_figures(asked, scores, torch.from_numpy(np.stack([one.values for one in maps]))))
    return {what: float(np.mean([one[what] for one in found])) for what in found[0]}


def _figures(asked: Flawed, maps: Float[Tensor, "n r c"]) -> dict[str, float]:
    """Of maps alone."""
    found = flaw_figures(asked, torch.zeros(len(asked)), maps)
    return {"pixel_auroc": found["pixel_auroc"], "aupro": found["aupro"], "within": within_flawed(asked, maps)}


@torch.no_grad()
def _patches(detector: WinclipDetector, model: Clip, asked: Flawed) -> dict[str, Float[Tensor, "n r c"]]:
    """Maps of single patches by the detector's texts, with the image's score as one more scale, as windows have it."""
    parts = asked.pixels.split(100)
    whole = detector.defect_scores(torch.cat([model.encode_image(some).pooled for some in parts]))
    maps = {}
    for name, path in PATHS.items():
        tokens = torch.cat([dense_tokens(model, some, path=path) for some in parts])
        scores = detector.defect_scores(tokens).unflatten(1, detector.grid)
        maps[name] = harmonic_mean([flat(whole, detector.grid), scores])
    return maps


def _arithmetic(detector: WinclipDetector, looks: list[ImageFeatures]) -> Float[Tensor, "n r c"]:
    """The detector's maps with plain means in place of harmonic ones."""
    whole, _, *windows = (torch.stack(rows) for rows in zip(*(look.rows for look in looks), strict=True))
    maps = [flat(detector.defect_scores(whole)[:, 0], detector.grid)]
    for rows, side in zip(windows, detector.scales, strict=True):
        masks = window_masks(detector.grid, side=side)
        inverse = harmonic_map(detector.defect_scores(rows).reciprocal(), masks=masks, grid=detector.grid)
        maps.append(inverse.reciprocal())
    return torch.stack(maps).mean(dim=0)
