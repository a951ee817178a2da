"""Scenes of one thing with pairs of colour and shape held out, to make images of texts; a CLIP, and judges."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.hash_rng import hash_int
from tether.core.state_file import read_state, wide_array, write_state
from tether.data.sets.scenes.captions import PLACES
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip, cached_model
from tether_lab.worlds import in_memory

SIDE = 32
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "orange", "turquoise", "blue", "purple", "pink")
GROUNDS = ("paper", "snow", "stone", "grass")
SCENES, CLIP_STEPS, CLASSIFIER_STEPS = 3_000, 250, 300
FORMAT = "made-scenes"


@dataclass(frozen=True, slots=True)
class ToldThings:
    """Scenes of one thing.

    Attributes:
        pixels: (n, 3, 32, 32).
        texts: colour, shape and ground of each.
        labels: (n, 2) numbers of colour and shape.
    """

    pixels: UInt8[Tensor, "n 3 h w"]
    texts: list[str]
    labels: Int[Tensor, "n 2"]


def held_out(colour: str, shape: str) -> bool:
    """Whether a pair is never shown in training: a third of them, each word in two."""
    return (COLOURS.index(colour) + SHAPES.index(shape)) % 3 == 0


def prompts() -> tuple[list[str], Int[Tensor, "n 2"]]:
    """The 48 texts of held-out pairs, one for each ground, and their labels."""
    pairs = [(c, s) for c in COLOURS for s in SHAPES if held_out(c, s)]
    texts = [f"a {c} {s} {PLACES[ground]}" for c, s in pairs for ground in GROUNDS]
    labels = [(COLOURS.index(c), SHAPES.index(s)) for c, s in pairs for _ in GROUNDS]
    return texts, torch.tensor(labels)


def things(lab: Lab, name: str, *, count: int, every: bool = False) -> ToldThings:
    """Draw scenes by the lab's seed and a name; ``every`` pair, or none that is held out."""
    world = in_memory.plain_world(things=(1, 1), shapes=SHAPES, colours=COLOURS, sizes=("huge",), backgrounds=GROUNDS)
    dice, scenes = in_memory.dice_of(lab, name, salt="made scenes"), []
    while len(scenes) < count:
        scene = world.draw(dice)
        if every or not held_out(scene.things[0].colour, scene.things[0].shape):
            scenes.append(scene)
    pixels = in_memory.small_drawn(scenes, size=SIDE)
    told = [(scene.things[0].colour, scene.things[0].shape, PLACES[scene.background]) for scene in scenes]
    labels = torch.tensor([(COLOURS.index(c), SHAPES.index(s)) for c, s, _ in told])
    return ToldThings(pixels, [" ".join(("a", *one)) for one in told], labels)


def scene_clip(lab: Lab, *, judge: bool = False) -> Clip:
    """A tiny CLIP of a seed; the judge is another, which knows all pairs. Kept in the user's cache.

    Args:
        lab: seed and budget.
        judge: one of other weights, other scenes and all pairs.
    """
    own = Lab(hash_int("judge", seed=lab.seed, salt="made scenes") % 2**31, smoke=lab.smoke) if judge else lab

    def teach() -> Clip:
        told = things(own, "clip", count=lab.steps(SCENES, 64), every=judge)
        steps = lab.steps(CLIP_STEPS)
        return in_memory.taught(own, told.pixels, told.texts, steps=steps, further=prompts()[0])

    return cached_clip("made-scenes-clip", teach, made_by=Path(__file__), facts=[own.seed, judge, lab.smoke])


class Classifier(nn.Module):
    """Colour and shape of the one thing of a scene."""

    def __init__(self) -> None:
        """Three convolutions that halve, and a layer."""
        super().__init__()
        sizes, parts = (3, 16, 32, 64), list[nn.Module]()
        for before, after in itertools.pairwise(sizes):
            parts += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()]
        self.net = nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, len(COLOURS) + len(SHAPES)))

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Logits of colours and of shapes, of images in -1 to 1."""
        colour, shape = self.net(x).split([len(COLOURS), len(SHAPES)], dim=1)
        return colour, shape

    @torch.no_grad()
    def right(self, x: Float[Tensor, "b 3 h w"], labels: Int[Tensor, "b 2"]) -> tuple[float, float]:
        """Colours and shapes that are as labelled, in percent."""
        found = torch.stack([logits.argmax(dim=1) for logits in self(x)], dim=1)
        colour, shape = (100 * (found == labels).float().mean(dim=0)).tolist()
        return colour, shape


def train_net(
    net: nn.Module, loss: Callable[[Tensor], Tensor], *, rows: int, size: int, steps: int, generator: torch.Generator
) -> None:
    """Train in place by a loss of the rows of a batch.

    Args:
        net: its weights are AdamW's.
        loss: of indices (b,).
        rows: how many there are to choose from.
        size: of a batch.
        steps: optimiser steps.
        generator: of the batches.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=max(2, steps))
    batches = in_memory.draws(rows, size=size, generator=generator, repeats=True)
    for _, some in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        loss(some).backward()
        optimizer.step()
        schedule.step()


def classifier(lab: Lab) -> Classifier:
    """Trained on scenes of all pairs that nothing else sees; kept in the user's cache."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lab.seed)
        net = Classifier()

    def make(folder: Path) -> None:
        folder.mkdir()
        told = things(lab, "classifier", count=lab.steps(SCENES, 64), every=True)
        x, steps = told.pixels.float().div(127.5).sub(1), lab.steps(CLASSIFIER_STEPS)

        def loss(some: Tensor) -> Tensor:
            losses = [F.cross_entropy(logits, told.labels[some, k]) for k, logits in enumerate(net(x[some]))]
            return torch.stack(losses).sum()

        train_net(net, loss, rows=len(x), size=64, steps=steps, generator=lab.generator("classifier"))
        write_net(net, folder / "net")

    folder = cached_model("made-scenes-classifier", made_by=Path(__file__), facts=[lab.seed, lab.smoke], make=make)
    return cast(Classifier, filled(net, folder / "net"))


def write_net(net: nn.Module, path: Path) -> None:
    """Its weights as a file."""
    arrays = {name: wide_array(value) for name, value in net.state_dict().items()}
    write_state(path, format=FORMAT, settings={}, arrays=arrays)


def filled(net: nn.Module, path: Path) -> nn.Module:
    """A net with the weights of a file, in evaluation mode."""
    _, arrays = read_state(path, what="net", format=FORMAT)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    return net.eval()
