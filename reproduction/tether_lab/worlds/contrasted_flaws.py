"""Flaws found by two sets of texts, one for and one against: attention alone, and with a network that repairs.

The flawed things and their CLIP are those of ``flawed_things``; for the network there are photographs of cloth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.data.images import decode
from tether.data.sets.scenes.world import COLOURS, SHAPES
from tether.data.sets.textile import Label, TextileSet
from tether.methods.clap import ClapDetector
from tether.methods.clap.contrast import contrast, unit_range
from tether.models.towers.clip import Clip
from tether.tasks.anomaly import Detector, PatchesDetector
from tether_lab.lab.lab import Lab
from tether_lab.worlds import flawed_things, in_memory
from tether_lab.worlds.flawed_things import Flawed
from tether_lab.worlds.flaws_within import flat, within_flawed

Dense = Literal["tokens", "values", "value-attention"]
BLOCKS: dict[Dense, int] = {"tokens": 1, "values": 1, "value-attention": 2}
"""Last blocks in which patches are read so; the first two ways have one by definition."""
NAME = "object"
"""What the CLIP's captions call half of their things, and so what all things are called here."""
POSITIVE, NEGATIVE = (
    tuple(template.format(state) for template in flawed_things.TEMPLATES for state in states)
    for states in (flawed_things.DAMAGED, flawed_things.NORMAL)
)
STRANGE = (
    *("harbour", "violin", "teacher", "winter", "newspaper", "mountain", "dinner", "engine", "garden"),
    *("letter", "parliament", "elephant", "sweater", "railway", "doctor", "candle", "island", "orchestra"),
)
"""As many words as there are negative texts, of nothing that the scenes have; the CLIP never learnt their vectors."""
RANGED = ("contrast", "things", "strange")
"""Arms whose maps are a difference of which nothing below 0 is left."""
ASKED = 300
RECALL = 0.8
CLOTH = 100
"""Photographs of cloth that a network learns from, and as many that are asked about of each kind."""
SIDE, SIZE = 64, None
"""Pixels of the short side of a photograph when it is repaired, and when its patches are read (None: the model's)."""
KINDS: tuple[Label, ...] = ("local", "global")
STEPS = 300


def asked(lab: Lab) -> Flawed:
    """Images of all ten shapes, half of them flawed."""
    return flawed_things.flawed(lab, "contrasted", lab.steps(ASKED, 12), SHAPES)


def other_texts(lab: Lab) -> dict[str, list[str]]:
    """As many texts as the negative ones, in the same sentences.

    ``things`` names drawn things that the images need not show; so it takes away what all texts of things share.
    ``strange`` has words of nothing that is drawn.
    """
    dice = in_memory.dice_of(lab, "texts", salt="random negatives")
    drawn = [f"{dice.pick(tuple(COLOURS))} {dice.pick(SHAPES)}" for _ in NEGATIVE]
    names = {"things": drawn, "strange": STRANGE}
    return {arm: [dice.pick(flawed_things.TEMPLATES).format(name) for name in some] for arm, some in names.items()}


def attentions(
    lab: Lab, model: Clip, pixels: UInt8[Tensor, "n 3 h w"], *, dense: Dense, name: str = NAME
) -> tuple[dict[str, Float[Tensor, "n r c"]], dict[str, Float[Tensor, "n r c"]]]:
    """Maps of each arm, and of those in ``RANGED`` the differences before what is below 0 is cut off.

    ``positive`` is of positive texts alone, ``contrast`` less negative ones, ``things`` and ``strange`` less others
    (see ``other_texts``), each in the range of its image as the method has it; ``similar`` and ``difference`` are of
    the mean similarities as they are, ``softmax`` is a patch's probability of the mean positive against the mean
    negative text, as WinCLIP's, and ``image`` the image's own at every place.

    Args:
        lab: seed, of the other texts.
        model: the CLIP.
        pixels: of the images.
        dense: see ``ClapDetector``.
        name: what the texts call the things.
    """
    detector, *others = (
        ClapDetector(positive=POSITIVE, negative=negative, dense=dense, blocks=BLOCKS[dense]).prepare(model, name)
        for negative in (NEGATIVE, *other_texts(lab).values())
    )
    positive, negative = means_of(detector, pixels).unbind(dim=1)
    lengths = [float(texts.mean(dim=0).norm()) for texts in detector.texts]
    margin = positive / lengths[0] - negative / lengths[1]  # cosines to the mean texts
    scale, (_, rows, columns) = float(model.logit_scale.detach()), positive.shape
    against = dict(zip(RANGED, (negative, *(means_of(other, pixels)[:, 1] for other in others)), strict=True))
    maps = {
        "positive": unit_range(positive),
        **{arm: unit_range(contrast(positive, other)) for arm, other in against.items()},
        "similar": positive,
        "difference": positive - negative,
        "softmax": (scale * margin).double().sigmoid(),
        "image": flat((scale * image_margins(detector, model, pixels)).sigmoid(), (rows, columns)),
    }
    return maps, {arm: unit_range(positive) - unit_range(other) for arm, other in against.items()}


@torch.no_grad()
def image_margins(detector: ClapDetector, model: Clip, pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """How much nearer by cosine whole images are to the mean positive than to the mean negative text."""
    rows = F.normalize(torch.cat([model.encode_image(some).pooled for some in pixels.split(100)]), dim=1)
    positive, negative = (F.normalize(texts.mean(dim=0), dim=0) for texts in detector.texts)
    return rows @ (positive - negative)


def means_of(detector: ClapDetector, pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2 r c"]:
    """Mean similarities of patches to both sets of texts."""
    return torch.stack([look.rows[0].T.unflatten(1, look.grid) for look in detector.look(list(pixels))])


def pixel_figures(
    maps: Float[Tensor, "n r c"], images: Flawed, *, before: Float[Tensor, "n r c"] | None = None
) -> dict[str, float]:
    """Figures of pixels in percent.

    ``auroc`` is over all images, ``within`` in each flawed one by itself, and ``false`` the share of good pixels at or
    above the threshold that finds ``RECALL`` of the flawed ones. With ``before`` there is also ``lost``, the share of
    flawed pixels where the map is 0.

    Args:
        maps: of 0 or more where ``before`` is given.
        images: with their masks.
        before: differences of which nothing below 0 is left in ``maps``. Where these are 0, no threshold tells pixels
            apart and more than the rest cannot be found; so ``false`` ranks such pixels by what they were before.
    """
    from sklearn.metrics import roc_auc_score

    scores, truth = _at_pixels(maps, images), images.masks.flatten().numpy()
    found = {"auroc": 100 * float(roc_auc_score(truth, scores)), "within": within_flawed(images, maps)}
    if before is not None:
        found["lost"] = 100 * float((scores[truth] <= 0).mean())
        scores = np.where(scores > 0, scores, _at_pixels(before, images))
    threshold = np.quantile(scores[truth], 1 - RECALL, method="lower")
    return found | {"false": 100 * float((scores[~truth] >= threshold).mean())}


def _at_pixels(maps: Float[Tensor, "n r c"], images: Flawed) -> Float[np.ndarray, " p"]:
    return F.interpolate(maps[:, None], images.masks.shape[1:], mode="bilinear").flatten().numpy()


def cloth_figures(lab: Lab, model: Clip, *, dense: Dense) -> dict[str, float]:
    """Image AUROC on photographs of cloth, percent: blurred by both sets of texts or by the positive ones alone.

    Each learns its network from the same normal photographs. Beside it is a memory of their patches.

    Args:
        lab: seed.
        model: the CLIP.
        dense: see ``ClapDetector``.
    """
    few = lab.steps(CLOTH)
    good, normal = cloth(lab, "normal", split="train", count=few), cloth(lab, "normal", split="test", count=few)
    defective = {kind: cloth(lab, kind, split="test", count=few) for kind in KINDS}
    settings: dict[str, Any] = {
        "seed": lab.seed,
        "positive": POSITIVE,
        "dense": dense,
        "blocks": BLOCKS[dense],
        "size": SIZE,
        "side": SIDE,
        "steps": lab.steps(STEPS),
    }
    arms: dict[str, Detector] = {
        "contrast": ClapDetector(negative=NEGATIVE, **settings),
        "positive": ClapDetector(negative=None, **settings),
        "patches": PatchesDetector(size=SIZE),
    }
    found = {}
    for name, detector in arms.items():
        detector.prepare(model, NAME)
        detector.remember(detector.look(good))
        at_rest = [one.score for one in detector.predict(normal)]
        scores = {kind: [one.score for one in detector.predict(some)] for kind, some in defective.items()}
        found[f"cloth_{name}"] = image_auroc(at_rest, [score for some in scores.values() for score in some])
        found |= {f"cloth_{name}_{kind}": image_auroc(at_rest, some) for kind, some in scores.items()}
    return found


def cloth(lab: Lab, kind: Label, *, split: Literal["train", "test"], count: int) -> list[UInt8[Tensor, "3 h w"]]:
    """Photographs of one kind, drawn by the seed."""
    source = TextileSet(split=split, classes=(kind,))
    rows = torch.randperm(len(source), generator=lab.generator(f"cloth {kind} {split}"))[:count]
    return [decode(source.paths[row]) for row in rows.tolist()]


def image_auroc(normal: Sequence[float], defective: Sequence[float]) -> float:
    """Chance in percent that a defective image scores above a normal one."""
    from sklearn.metrics import roc_auc_score

    return 100 * float(roc_auc_score([0] * len(normal) + [1] * len(defective), [*normal, *defective]))
