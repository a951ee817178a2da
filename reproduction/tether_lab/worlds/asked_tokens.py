"""Patches of drawn scenes that a text asks for: which are kept, and what the kept ones still say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.methods.trim import Trimmed, trim_tokens
from tether.models.features.attention_maps import attention_maps
from tether.models.features.find import anatomy_of
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds import drawn_shapes
from tether_lab.worlds.drawn_shapes import COLOURS, DRAWN, PATCH, PHRASES, SHAPES, SIDE
from tether_lab.worlds.in_memory import percent, unit_texts

THINGS, PROBE, ASKED = (3, 4), 200, 1_000
"""Things of a scene; scenes that signs and blocks are chosen on, and those that are measured."""
RATIO = 0.25
"""Of the tokens that are kept; one more is the mean of the others."""
GRID = SIDE // PATCH
Sign = Literal[1, -1]


@dataclass(frozen=True, slots=True)
class AskedScenes:
    """Scenes of several things, one of which is asked for.

    Attributes:
        h: (n, p, w) patches after the last block, not normed.
        seen: (n, blocks, p) what the class token attends to, the mean over heads.
        pooled: (n, d) the encoder's own embeddings.
        inside: (n, p) 1 for patches at least half of which shows the thing that is asked for.
        named: (n,) its phrase, by number; no other thing of the scene has its shape.
    """

    h: Float[Tensor, "n p w"]
    seen: Float[Tensor, "n b p"]
    pooled: Float[Tensor, "n d"]
    inside: Float[Tensor, "n p"]
    named: Int[Tensor, " n"]


@dataclass(frozen=True, slots=True)
class TokenBed:
    """What a seed measures with.

    Attributes:
        model: a small CLIP whose class token alone was trained on captions.
        phrases: (24, d) unit rows of colour and shape.
        questions: (4, d) unit rows of a shape in no colour: the mean over all colours.
        probe: scenes to choose on.
        asked: scenes to measure on.
    """

    model: Clip
    phrases: Float[Tensor, "k d"]
    questions: Float[Tensor, "s d"]
    probe: AskedScenes
    asked: AskedScenes


def prepare(lab: Lab) -> TokenBed:
    """The CLIP from the cache, and scenes."""
    model = drawn_shapes.captioned_base(lab).eval().requires_grad_(False)
    phrases = unit_texts(model, list(PHRASES))
    questions = F.normalize(phrases.unflatten(0, (len(COLOURS), len(SHAPES))).mean(0), dim=1)
    probe, asked = (
        _scenes(lab, model, name, count=lab.steps(count, 8))
        for name, count in (("tokens to choose by", PROBE), ("tokens asked for", ASKED))
    )
    return TokenBed(model, phrases, questions, probe, asked)


def _scenes(lab: Lab, model: Clip, name: str, *, count: int) -> AskedScenes:
    drawn = drawn_shapes.drawn_scenes(lab, name, count=2 * count, world=drawn_shapes.shape_world(THINGS))
    chosen, inside, named = list[int](), list[Tensor](), list[int]()
    for row, (scene, image, phrases) in enumerate(zip(drawn.scenes, drawn.drawn, drawn.phrases, strict=True)):
        shapes = [thing.shape for thing in scene.things]
        alone = [place for place, shape in enumerate(shapes) if shapes.count(shape) == 1]
        if alone and len(chosen) < count:
            mask = torch.from_numpy(image.mask(alone[0])).float()[None, None]
            cells = F.interpolate(mask, (DRAWN * GRID, DRAWN * GRID)).unfold(2, DRAWN, DRAWN).unfold(3, DRAWN, DRAWN)
            inside.append((cells.mean((4, 5)) >= 0.5).float().flatten())
            named.append(PHRASES.index(phrases[alone[0]]))
            chosen.append(row)
    pixels = drawn_shapes.pixels_of(drawn)[chosen]
    tower = anatomy_of(model, "image")
    maps = attention_maps(model, pixels)[..., tower.prefix :].mean(2)
    h = tower.run(tower.embed(pixels)).x[:, tower.prefix :]
    return AskedScenes(h, maps, model.encode_image(pixels).pooled, torch.stack(inside), torch.tensor(named))


def trimmed(bed: TokenBed, scenes: AskedScenes, texts: Tensor, *, sign: Sign) -> Trimmed:
    """``trim_tokens`` with the tower's own norm and projection."""
    tower = bed.model.visual
    return trim_tokens(scenes.h, texts, proj=tower.project, post_norm=tower.readout, ratio=RATIO, sign=sign)


def by_scores(scenes: AskedScenes, scores: Float[Tensor, "n p"]) -> Int[Tensor, "n k"]:
    """Places of as many patches, by another score."""
    return scores.topk(int(RATIO * scenes.h.shape[1]), dim=1).indices


def inside(scenes: AskedScenes, index: Int[Tensor, "n k"]) -> float:
    """Kept tokens that show the thing that is asked for, in per cent."""
    return 100 * float(scenes.inside.gather(1, index).mean())


def with_mean(scenes: AskedScenes, index: Int[Tensor, "n k"]) -> Float[Tensor, "n m w"]:
    """Tokens at these places, and the mean of all others."""
    kept = scenes.h.gather(1, index[..., None].expand(-1, -1, scenes.h.shape[2]))
    rest = (scenes.h.sum(1) - kept.sum(1)) / (scenes.h.shape[1] - index.shape[1])
    return torch.cat([kept, rest[:, None]], 1)


@torch.no_grad()
def colours_right(bed: TokenBed, scenes: AskedScenes, tokens: Float[Tensor, "n m w"] | None) -> float:
    """Scenes in which the colour of the shape that is asked for is nearest, out of six, in per cent.

    Args:
        bed: of the seed.
        scenes: that are asked.
        tokens: whose mean in the joint space is compared; None compares the encoder's own embedding.
    """
    rows = scenes.pooled if tokens is None else bed.model.visual.project(bed.model.visual.readout(tokens)).mean(1)
    of_shape = bed.phrases.unflatten(0, (len(COLOURS), len(SHAPES)))[:, scenes.named % len(SHAPES)]
    cosines = torch.einsum("nd,cnd->nc", F.normalize(rows, dim=1), of_shape)
    return percent(cosines.argmax(1) == scenes.named // len(SHAPES))


def best_sign(bed: TokenBed) -> Sign:
    """The one whose tokens lie in the thing more often on the scenes to choose by."""
    found = {
        sign: inside(bed.probe, trimmed(bed, bed.probe, bed.phrases[bed.probe.named], sign=sign).index)
        for sign in SIGNS
    }
    return max(SIGNS, key=found.__getitem__)


def best_block(bed: TokenBed) -> int:
    """The block in which what the class token attends to lies in the thing more often, on the same scenes."""
    blocks = range(bed.probe.seen.shape[1])
    return max(blocks, key=lambda block: inside(bed.probe, by_scores(bed.probe, bed.probe.seen[:, block])))


SIGNS: tuple[Sign, Sign] = (1, -1)
