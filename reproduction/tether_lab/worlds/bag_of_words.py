"""Encoders that know which thing has which colour, under a CLIP whose captions were bags of words.

An ordinary small CLIP on synthetic scenes binds colours to shapes by itself, so the premise is built: each encoder
learns alone to name the colour of each shape and is frozen; then two linear heads are trained as a CLIP on captions
whose colours are exchanged half of the time, so that their cosine cannot use the binding that both sides hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.hash_rng import hash_uniform
from tether.data.sets.scenes import Dice, Scene, short
from tether.losses import clip_loss
from tether_lab.worlds.in_memory import drawn, plain_world

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond")
COLOURS = ("red", "yellow", "green", "blue", "purple", "pink", "black", "turquoise", "brown")
WORLD = plain_world(things=(2, 2), shapes=SHAPES, colours=COLOURS, sizes=("large",), backgrounds=("snow", "sand"))
SIDE, WIDTH, DIM = 64, 128, 64
HELD_OUT = 0.2
"""Share of the combinations that only testing shows."""
BATCH, HEAD_RATE, SCALE = 128, 1e-3, 1 / 0.07
_WORDS = {word: number for number, word in enumerate(("", "a", "and", *COLOURS, *SHAPES))}


@dataclass(frozen=True, slots=True)
class Scenes:
    """Scenes of one or two things with their captions.

    Attributes:
        pixels: (n, 3, 32, 32) in [0, 1].
        words: (n, l) word ids of each caption, things in random order, zero after the end.
        swapped: (n, l) the same with the two colours exchanged; equal to ``words`` for one thing alone.
        colours: (n, shapes) which colour each shape has, -1 where it is not there.
        keys: which colours and which shapes there are, in whatever combination: a scene and its twin share it.
    """

    pixels: Float[Tensor, "n 3 h w"]
    words: Int[Tensor, "n l"]
    swapped: Int[Tensor, "n l"]
    colours: Int[Tensor, "n s"]
    keys: tuple[str, ...]

    @property
    def objects(self) -> list[list[str]]:
        """Shapes of each scene."""
        return [[SHAPES[shape] for shape in np.flatnonzero(row >= 0)] for row in self.colours.numpy()]

    @property
    def attributes(self) -> list[list[str]]:
        """Their colours, in the same order."""
        return [[COLOURS[colour] for colour in row[row >= 0]] for row in self.colours.numpy()]


@dataclass(frozen=True, slots=True)
class EmbeddedScenes:
    """What the frozen model gives for scenes: raw embeddings of the shared space.

    Attributes:
        image: (n, d).
        text: (n, d) of the captions.
        text_neg: (n, d) of the captions with colours exchanged.
    """

    image: Float[Tensor, "n d"]
    text: Float[Tensor, "n d"]
    text_neg: Float[Tensor, "n d"]


def draw(count: int, *, seed: int, part: str, things: int = 2) -> Scenes:
    """Scenes whose combinations are of one part only.

    Args:
        count: how many.
        seed: of everything drawn.
        part: ``train`` or ``test``; a combination and its twin are in the same.
        things: 2, or 1 for one thing alone.
    """
    dice = Dice(np.random.default_rng([seed, len(part), things]))
    scenes, words, swapped, colours, keys = [], [], [], [], []
    while len(keys) < count:
        scene = WORLD.draw(dice, count=things)
        kinds = {thing.shape for thing in scene.things}, {thing.colour for thing in scene.things}
        key = " ".join(sorted(kinds[0]) + sorted(kinds[1]))
        if any(len(kind) < things for kind in kinds) or (things == 2 and part != part_of(key)):
            continue
        scenes.append(scene)
        scene = replace(scene, things=tuple(dice.shuffled(scene.things)))
        words.append(spell(scene))
        swapped.append(spell(twin(scene)))
        row = torch.full((len(SHAPES),), -1)
        for thing in scene.things:
            row[SHAPES.index(thing.shape)] = COLOURS.index(thing.colour)
        colours.append(row)
        keys.append(key)
    small = F.avg_pool2d(drawn(scenes, size=SIDE).float() / 255, 2)
    return Scenes(small, pad(words), pad(swapped), torch.stack(colours), tuple(keys))


def part_of(key: str) -> str:
    """Which part a combination belongs to; the same for every seed."""
    return "test" if hash_uniform([key], salt="bags combination")[0] < HELD_OUT else "train"


def twin(scene: Scene) -> Scene:
    """The scene with the colours of its things exchanged."""
    turned = scene.things[1:] + scene.things[:1]
    pairs = zip(scene.things, turned, strict=True)
    return replace(scene, things=tuple(replace(thing, colour=other.colour) for thing, other in pairs))


def spell(scene: Scene) -> list[int]:
    """Word ids of the caption, things in the scene's order."""
    return [_WORDS[word] for word in short(scene, order="given").split()]


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "n l"]:
    """Rows of seven ids, zeros after the end."""
    return torch.tensor([[*row, *[0] * (7 - len(row))] for row in rows])


def join(first: Scenes, second: Scenes) -> Scenes:
    """Both, one after the other."""
    return Scenes(
        torch.cat([first.pixels, second.pixels]),
        torch.cat([first.words, second.words]),
        torch.cat([first.swapped, second.swapped]),
        torch.cat([first.colours, second.colours]),
        first.keys + second.keys,
    )


def choose(scenes: Scenes, rows: Sequence[int]) -> Scenes:
    """Some of the scenes."""
    places = torch.tensor(rows)
    return Scenes(
        scenes.pixels[places],
        scenes.words[places],
        scenes.swapped[places],
        scenes.colours[places],
        tuple(scenes.keys[row] for row in rows),
    )


class Seer(nn.Module):
    """A small convolutional net: (b, 3, 32, 32) to (b, WIDTH)."""

    def __init__(self) -> None:
        """Draw the weights from torch's generator."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(48, WIDTH, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
            nn.Linear(WIDTH, WIDTH), nn.ReLU(),
        )  # fmt: skip

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, 32, 32) in [0, 1]."""
        return self.layers(pixels - 0.5)


class Reader(nn.Module):
    """A small recurrent net: (b, l) word ids to (b, WIDTH)."""

    def __init__(self) -> None:
        """Draw the weights from torch's generator."""
        super().__init__()
        self.embed = nn.Embedding(len(_WORDS), 32, padding_idx=0)
        self.cell = nn.GRU(32, WIDTH, batch_first=True)

    def forward(self, words: Tensor) -> Tensor:
        """Read left to right; what follows the last word is not read."""
        states, _ = self.cell(self.embed(words))
        last = (words > 0).sum(dim=1) - 1
        return states[torch.arange(len(words)), last]


def learn_colours(encoder: nn.Module, inputs: Tensor, colours: Tensor, *, steps: int, seed: int, lr: float) -> float:
    """Train an encoder alone, with one head for each shape that names its colour; returns the last accuracy."""
    heads = nn.Linear(WIDTH, len(SHAPES) * len(COLOURS))
    optimizer = torch.optim.Adam([*encoder.parameters(), *heads.parameters()], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    right = 0.0
    for _ in range(steps):
        rows = torch.randint(len(inputs), (BATCH,), generator=generator)
        logits = heads(encoder(inputs[rows])).view(-1, len(SHAPES), len(COLOURS))
        there = colours[rows] >= 0
        loss = F.cross_entropy(logits[there], colours[rows][there])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = float((logits[there].argmax(dim=1) == colours[rows][there]).float().mean())
    return right


@dataclass(frozen=True, slots=True)
class Bag:
    """The frozen model: two encoders, two heads and a logit scale."""

    seer: Seer
    reader: Reader
    image_head: nn.Linear
    text_head: nn.Linear
    logit_scale: float

    @torch.no_grad()
    def embed(self, scenes: Scenes) -> EmbeddedScenes:
        """Raw embeddings in the shared space."""
        image = torch.cat([self.seer(part) for part in scenes.pixels.split(512)])
        read = (torch.cat([self.reader(part) for part in rows.split(512)]) for rows in (scenes.words, scenes.swapped))
        text, text_neg = read
        return EmbeddedScenes(self.image_head(image), self.text_head(text), self.text_head(text_neg))


def train(scenes: Scenes, *, seed: int, seeing: int, reading: int, matching: int) -> Bag:
    """Build the premise from training scenes; weights come from torch's own generator.

    Args:
        scenes: of the training part.
        seed: of the batches.
        seeing: steps of the image encoder.
        reading: steps of the text encoder.
        matching: steps of the two heads.
    """
    seer, reader = Seer(), Reader()
    learn_colours(seer, scenes.pixels, scenes.colours, steps=seeing, seed=seed, lr=2e-3)
    learn_colours(reader, scenes.words, scenes.colours, steps=reading, seed=seed + 1, lr=3e-3)
    with torch.no_grad():
        seen = torch.cat([seer(part) for part in scenes.pixels.split(512)])
        read, other = reader(scenes.words), reader(scenes.swapped)
    image_head, text_head = nn.Linear(WIDTH, DIM, bias=False), nn.Linear(WIDTH, DIM, bias=False)
    log_scale = nn.Parameter(torch.tensor(SCALE).log())
    optimizer = torch.optim.Adam([*image_head.parameters(), *text_head.parameters(), log_scale], lr=HEAD_RATE)
    generator = torch.Generator().manual_seed(seed + 2)
    for _ in range(matching):
        rows = torch.randint(len(seen), (BATCH,), generator=generator)
        exchanged = torch.rand(BATCH, 1, generator=generator) < 0.5
        text = torch.where(exchanged, other[rows], read[rows])
        loss = clip_loss(F.normalize(image_head(seen[rows])), F.normalize(text_head(text)), log_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            log_scale.clamp_(0.0, float(np.log(100)))
    return Bag(seer, reader, image_head, text_head, float(log_scale.detach().exp()))
