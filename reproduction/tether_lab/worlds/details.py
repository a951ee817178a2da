"""Scenes of one thing whose captions grow by a detail at a time, and the same with details that are false.

After the first piece a caption says "it", so that a detail of another image's caption is one of the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.data.segments import growing, split_caption
from tether.data.sets.scenes.captions import PLACES
from tether.data.sets.scenes.world import SIZES
from tether_lab.lab.lab import Lab
from tether_lab.worlds.pairs import load_pairs

SIZE = 32
DETAILS = 4
"""What it is, where everything is, where it is, how large it is."""
_CORNERS = tuple(f"in the {line} {column}" for line in ("top", "bottom") for column in ("left", "right"))
_SPOTS = ("in the middle", "on the left", "on the right", "at the top", "at the bottom", *_CORNERS)
_NAMED = re.compile(r"^The .+? is ")
_VALUES = (tuple(PLACES.values()), _SPOTS, tuple(f"is {size}" for size in SIZES))


@dataclass(frozen=True, slots=True)
class DetailScenes:
    """Images with captions in pieces.

    Attributes:
        pixels: (n, 3, size, size) uint8.
        segments: the true details of each.
        false: for each and each of its details the same sentence with another value; the first names another thing.
        foreign: for each and each of its details a piece of another image's caption that is not its own.
    """

    pixels: Tensor
    segments: tuple[tuple[str, ...], ...]
    false: tuple[tuple[str, ...], ...]
    foreign: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """How many images."""
        return len(self.segments)

    @property
    def captions(self) -> list[str]:
        """All details of each."""
        return [" ".join(pieces) for pieces in self.segments]


def detail_scenes(lab: Lab, *, split: str, rows: int) -> DetailScenes:
    """Scenes of one thing, with the foreign details drawn from the lab's seed."""
    pairs = load_pairs(f"scenes:split={split},rows={rows},things=[1,1],captions=long", size=SIZE)
    # The caption opens with how many things there are, which is no news here.
    told = [split_caption(texts[0])[1 : 1 + DETAILS] for texts in pairs.texts]
    segments = tuple(tuple(_NAMED.sub("It is ", piece) for piece in pieces) for pieces in told)
    rng = np.random.default_rng(int(lab.generator(f"foreign {split}").initial_seed()))
    foreign = []
    for own in segments:
        pieces: list[str] = []
        while len(pieces) < len(own):
            other = segments[int(rng.integers(len(segments)))]
            piece = other[int(rng.integers(len(other)))]
            if piece not in own:
                pieces.append(piece)
        foreign.append(tuple(pieces))
    false = tuple(
        tuple(
            _otherwise(piece, rng=rng) if place else _another(segments, own, rng=rng) for place, piece in enumerate(own)
        )
        for own in segments
    )
    return DetailScenes(pairs.pixels, segments, false, tuple(foreign))


def _another(segments: Sequence[Sequence[str]], own: Sequence[str], *, rng: np.random.Generator) -> str:
    """What another image shows."""
    while (piece := segments[int(rng.integers(len(segments)))][0]) == own[0]:
        pass
    return piece


def _otherwise(sentence: str, *, rng: np.random.Generator) -> str:
    """The same sentence with another background, place or size."""
    values, value = next((values, value) for values in _VALUES for value in values if value in sentence)
    others = [other for other in values if other != value]
    return sentence.replace(value, others[int(rng.integers(len(others)))])


@torch.no_grad()
def growing_scores(
    model: DualEncoder, scenes: DetailScenes, *, wrong: Sequence[Sequence[str]]
) -> tuple[Tensor, Tensor]:
    """(n, DETAILS) cosines of each image with its growing caption, and with a wrong detail at the end of each.

    Column i of the second is the caption of i + 1 true details and the wrong one that stands at i + 1, in place of the
    next true one; in the last column it is at the end of the whole caption.
    """
    from tether_lab.worlds.in_memory import unit_pairs

    true = [caption for pieces in scenes.segments for caption in growing(pieces)]
    other = [
        f"{caption} {pieces[min(place + 1, len(pieces) - 1)]}"
        for own, pieces in zip(scenes.segments, wrong, strict=True)
        for place, caption in enumerate(growing(own))
    ]
    image, text = unit_pairs(model, scenes.pixels, true + other)
    first, second = (text.view(2, len(scenes), DETAILS, -1) * image[:, None]).sum(dim=3)
    return first, second


@torch.no_grad()
def rank_correlation(model: DualEncoder, scenes: DetailScenes) -> float:
    """Mean over images of Kendall's tau between the score of a caption and how many of its details are true.

    Each caption has all its details, the first 0, 1, ... of them true and the others of another image.
    """
    from scipy.stats import kendalltau

    from tether_lab.worlds.in_memory import unit_pairs

    texts = [
        " ".join([*own[:count], *other[count:]])
        for own, other in zip(scenes.segments, scenes.foreign, strict=True)
        for count in range(DETAILS + 1)
    ]
    image, text = unit_pairs(model, scenes.pixels, texts)
    scores = (text.view(len(scenes), DETAILS + 1, -1) * image[:, None]).sum(dim=2).numpy()
    return float(np.mean([kendalltau(np.arange(DETAILS + 1), row).statistic for row in scores]))
