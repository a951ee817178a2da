"""Made people whose clothes a text changes: a small style auto-encoder, nets that find parts, CLIPs, and judges."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from tether.core.hash_rng import hash_int
from tether.data.sets.people import (
    PARTS,
    PATTERNS,
    SHADES,
    SLEEVES,
    Person,
    described,
    draw_figure,
    draw_person,
)
from tether.models.latent.style import StyleCodec
from tether.models.towers.clip import Clip
from tether.training.codec_training import train_codec
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_clip, cached_model
from tether_lab.worlds import in_memory
from tether_lab.worlds.made_scenes import filled, train_net, write_net

Net = TypeVar("Net", bound=nn.Module)
SIDE = 32
PEOPLE, CLIP_STEPS, NET_STEPS, NET_BATCH = 3_000, 300, 250, 24
CODEC: dict[str, Any] = {"size": SIDE, "dim": 32, "width": 24, "spread": 0.02, "divergence": 3e-4}
CODEC_STEPS, CODEC_BATCH, CODEC_RATE = 2_000, 24, 2e-3
LOOKS: dict[str, tuple[str, ...]] = {"colour": SHADES, "pattern": PATTERNS, "sleeve": SLEEVES}


@dataclass(frozen=True, slots=True)
class DressedPeople:
    """People in memory.

    Attributes:
        persons: who they are.
        pixels: (n, 3, 32, 32).
        parts: number of each pixel's part.
    """

    persons: tuple[Person, ...]
    pixels: UInt8[Tensor, "n 3 h w"]
    parts: UInt8[Tensor, "n h w"]

    @property
    def images(self) -> Float[Tensor, "n 3 h w"]:
        """In 0 to 1."""
        return self.pixels.float() / 255

    @property
    def labels(self) -> Int[Tensor, "n k"]:
        """Numbers of colour, pattern and sleeves."""
        return torch.tensor([[values.index(getattr(one, look)) for look, values in LOOKS.items()]
                             for one in self.persons])  # fmt: skip


def of_persons(persons: tuple[Person, ...]) -> DressedPeople:
    """Draw them."""
    drawn = [draw_figure(one, size=SIDE) for one in persons]
    pixels, parts = (torch.from_numpy(np.stack(some)) for some in zip(*drawn, strict=True))
    return DressedPeople(persons, pixels.permute(0, 3, 1, 2).contiguous(), parts)


def people(lab: Lab, name: str, *, count: int) -> DressedPeople:
    """People by the lab's seed and a name."""
    rng = np.random.default_rng(hash_int(name, seed=lab.seed, salt="dressed people"))
    return of_persons(tuple(draw_person(rng) for _ in range(count)))


@dataclass(frozen=True, slots=True)
class WantedLooks:
    """People, and for each a text that changes one thing of its clothes.

    Attributes:
        shown: as they are.
        looks: what is changed: a key of ``LOOKS``.
        wanted: as they would be.
    """

    shown: DressedPeople
    looks: tuple[str, ...]
    wanted: tuple[Person, ...]

    @property
    def texts(self) -> list[str]:
        """The whole caption of each as it would be."""
        return [described(one) for one in self.wanted]


def with_look(person: Person, look: str, value: str) -> Person:
    """The same with another value of a key of ``LOOKS``."""
    change: dict[str, Any] = {look: value}
    return replace(person, **change)


def wanted_looks(lab: Lab, *, count: int) -> WantedLooks:
    """Colour, pattern and sleeves in turn, to another value by chance."""
    shown = people(lab, "edits", count=count)
    rng = np.random.default_rng(hash_int("wanted", seed=lab.seed, salt="dressed people"))
    looks, wanted = list[str](), list[Person]()
    for place, person in enumerate(shown.persons):
        look = list(LOOKS)[place % len(LOOKS)]
        others = [value for value in LOOKS[look] if value != getattr(person, look)]
        looks.append(look)
        wanted.append(with_look(person, look, others[int(rng.integers(len(others)))]))
    return WantedLooks(shown, tuple(looks), tuple(wanted))


def _fixed(lab: Lab, name: str) -> Lab:
    """A seed that is the same whatever the lab's: for the auto-encoder and the judges, which are trained once."""
    return Lab(hash_int(name, seed=0, salt="dressed people fixed") % 2**31, smoke=lab.smoke)


def people_clip(lab: Lab, *, judge: bool = False) -> Clip:
    """A tiny CLIP of captioned people; the judge, one for all seeds, has other weights and people; kept in a cache."""
    own = _fixed(lab, "clip") if judge else lab

    def teach() -> Clip:
        told = people(own, "clip", count=own.steps(PEOPLE, 64))
        texts = [described(one) for one in told.persons]
        return in_memory.taught(own, told.pixels, texts, steps=own.steps(CLIP_STEPS))

    return cached_clip("people-clip", teach, made_by=Path(__file__), facts=[own.seed, own.smoke])


def people_codec(lab: Lab) -> StyleCodec:
    """The auto-encoder, which plays the generator's part, the same for all seeds; kept in the user's cache."""
    own = _fixed(lab, "codec")
    codec = StyleCodec(**CODEC, seed=own.seed)

    def make(folder: Path) -> None:
        folder.mkdir()
        told = people(own, "codec", count=own.steps(PEOPLE, 64))
        train_codec(codec, told.pixels, steps=own.steps(CODEC_STEPS), batch_size=CODEC_BATCH,
                    learning_rate=CODEC_RATE, seed=own.seed)  # fmt: skip
        write_net(codec, folder / "net")

    facts = [own.seed, own.smoke, CODEC, CODEC_STEPS, CODEC_BATCH, CODEC_RATE]
    folder = cached_model("people-codec", made_by=Path(__file__), facts=facts, make=make)
    return cast(StyleCodec, filled(codec, folder / "net").requires_grad_(False))


class PartNet(nn.Module):
    """The part of every pixel: convolutions on three sizes, the coarser put beside the finer again."""

    def __init__(self) -> None:
        """Draw the weights."""
        super().__init__()
        self.fine, self.middle, self.coarse = _conv(3, 16), _conv(16, 32, stride=2), _conv(32, 48, stride=2)
        self.deep, self.back, self.out = _conv(48, 48), _conv(48 + 32, 32), _conv(32 + 16, 16)
        self.last = nn.Conv2d(16, len(PARTS), 1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k h w"]:
        """Logits of each part, of images in 0 to 1."""
        fine = self.fine(image * 2 - 1)
        middle = self.middle(fine)
        coarse = self.deep(self.coarse(middle))
        back = self.back(torch.cat([F.interpolate(coarse, scale_factor=2.0), middle], dim=1))
        return self.last(self.out(torch.cat([F.interpolate(back, scale_factor=2.0), fine], dim=1)))


class LookNet(nn.Module):
    """Colour, pattern and sleeves of a person's clothes."""

    def __init__(self) -> None:
        """Four convolutions, three that halve, and a layer."""
        super().__init__()
        sizes = (3, 24, 48, 64)
        parts = [_conv(before, after, stride=2) for before, after in itertools.pairwise(sizes)]
        known = sum(map(len, LOOKS.values()))
        self.net = nn.Sequential(*parts, _conv(64, 64), nn.Flatten(), nn.Linear(64 * (SIDE // 8) ** 2, known))

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """Logits of each look, of images in 0 to 1."""
        return self.net(image * 2 - 1).split([len(values) for values in LOOKS.values()], dim=1)


def _conv(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(8, after), nn.SiLU())


def part_net(lab: Lab, *, judge: bool = False) -> PartNet:
    """Finds parts; the judge, one for all seeds, has other weights and people. Kept in the user's cache."""
    own = _fixed(lab, "parts") if judge else lab

    def loss(net: PartNet, shown: DressedPeople) -> Tensor:
        return F.cross_entropy(net(shown.images), shown.parts.long())

    return _taught(own, "parts", PartNet, loss)


def look_net(lab: Lab) -> LookNet:
    """A classifier, one for all seeds, that sees people whom nothing else sees; kept in the user's cache."""

    def loss(net: LookNet, shown: DressedPeople) -> Tensor:
        losses = [
            F.cross_entropy(logits, label) for logits, label in zip(net(shown.images), shown.labels.T, strict=True)
        ]
        return torch.stack(losses).sum()

    return _taught(_fixed(lab, "looks"), "looks", LookNet, loss)


def _taught(own: Lab, name: str, kind: type[Net], loss: Callable[[Net, DressedPeople], Tensor]) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own.seed)
        net = kind()

    def make(folder: Path) -> None:
        folder.mkdir()
        told, steps = people(own, name, count=own.steps(PEOPLE, 64)), own.steps(NET_STEPS)

        def of_batch(some: Tensor) -> Tensor:
            persons = tuple(told.persons[int(row)] for row in some)
            return loss(net, DressedPeople(persons, told.pixels[some], told.parts[some]))

        rows, chance = len(told.persons), own.generator(name)
        train_net(net, of_batch, rows=rows, size=NET_BATCH, steps=steps, generator=chance)
        write_net(net, folder / "net")

    folder = cached_model(f"people-{name}", made_by=Path(__file__), facts=[own.seed, own.smoke], make=make)
    return cast(Net, filled(net, folder / "net").requires_grad_(False))
