"""Who suffers the faults: one small causal transformer and one small CLIP, each with its data in memory."""

from __future__ import annotations

import copy
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether_lab.stability.faults import Contents

HELD_OUT_BATCHES = 8
_BLOCKS, _WIDTH, _HEADS, _CHARACTERS = 2, 64, 4, 48
"""Of the causal transformer; the last is the length of one row."""


class BenchModel(ABC):
    """A model with its data; equal seeds give equal weights and batches.

    Attributes:
        says: what it is, in words for the page.
        chance: loss of a model that knows nothing, in nats.
        size: of a batch.
        rate: learning rate of the unguarded run with AdamW.
        betas: of AdamW.
        weight_decay: on matrices.
        spoiled: name of the weight matrix whose gradient a fault multiplies.
        rise: nats above the level before from which a loss is a spike; no step of three fault-free runs of other
            seeds (100 to 102) rose as much.
    """

    says: str
    chance: float
    size: ClassVar[int]
    rate: ClassVar[float]
    betas: ClassVar[tuple[float, float]]
    weight_decay: ClassVar[float]
    spoiled: ClassVar[str]
    rise: ClassVar[float]
    _held: Sequence[tuple[Tensor, Tensor]]

    @abstractmethod
    def model(self, seed: int) -> nn.Module:
        """A new model in float32."""

    @abstractmethod
    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """The next training batch; drawing bad contents moves the generator as far as good ones."""

    @abstractmethod
    def loss(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """0-d loss of a batch in nats."""

    def after_step(self, model: Any) -> None:  # noqa: B027 - most models need nothing
        """What the usual loop does after each step."""

    @torch.no_grad()
    def held_out(self, model: nn.Module) -> float:
        """Mean loss on held-out data that are the same for every run."""
        return float(torch.stack([self.loss(model, batch) for batch in self._held]).mean())


class NextCharacters(BenchModel):
    """Next characters of WordNet's definitions, by a causal transformer."""

    size, rate, betas, weight_decay = 16, 3e-3, (0.9, 0.95), 0.01
    spoiled, rise = "blocks.0.up.weight", 0.3

    def __init__(self) -> None:
        """Read the text."""
        from tether_lab.worlds.char_lm import corpus

        ids, self.characters = corpus()
        cut = len(ids) * 9 // 10
        self._train = ids[:cut]
        self.chance = math.log(self.characters)
        self.says = (
            f"causal transformer over characters, {_BLOCKS} blocks of width {_WIDTH}, {_HEADS} heads, "
            f"batches of {self.size} rows of {_CHARACTERS} characters"
        )
        fixed = torch.Generator().manual_seed(0)
        self._held = [self._cut(ids[cut:], fixed) for _ in range(HELD_OUT_BATCHES)]

    def model(self, seed: int) -> nn.Module:
        """See BenchModel."""
        from tether_lab.worlds.char_lm import CharModel

        return CharModel(self.characters, width=_WIDTH, layers=_BLOCKS, heads=_HEADS, context=_CHARACTERS, seed=seed)

    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """See BenchModel."""
        inputs, targets = self._cut(self._train, draw)
        noise = torch.randint(0, self.characters, (2, *inputs.shape), generator=draw)
        order = torch.randperm(targets.numel(), generator=draw)
        if contents == "noise":
            return noise[0], noise[1]
        return inputs, targets.flatten()[order].view_as(targets) if contents == "swapped" else targets

    def loss(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """See BenchModel."""
        return F.cross_entropy(model(batch[0]).flatten(0, 1).float(), batch[1].flatten())

    def _cut(self, ids: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        from tether_lab.worlds.char_lm import draw_batch

        return draw_batch(ids, draw, batch=self.size, context=_CHARACTERS)


class SmallClip(BenchModel):
    """Drawings of emoji and their English names, by the ``tiny`` CLIP."""

    size, rate, betas, weight_decay = 32, 1e-3, (0.9, 0.98), 0.2
    spoiled, rise = "visual.blocks.0.up.weight", 0.6

    def __init__(self) -> None:
        """Decode the images and encode the names, once."""
        from tether.models import create
        from tether_lab.lab.lab import Lab
        from tether_lab.worlds.pairs import emoji

        lab, model = Lab(0), create("tiny", seed=0)
        train, rest = emoji(lab, split="train"), emoji(lab, split="test")
        self._pixels, self._ids = train.pixels, model.tokenizer([texts[0] for texts in train.texts])
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[: self.size * HELD_OUT_BATCHES]
        other = model.tokenizer([texts[0] for texts in rest.texts])
        self._held = [(rest.pixels[rows], _trimmed(other[rows])) for rows in order.split(self.size)]
        self.chance = math.log(self.size)
        self._made: tuple[int, nn.Module] | None = None
        vision, text = model.config.vision, model.config.text
        self.says = (
            f"CLIP on emoji at {vision.image.size[0]} px, {vision.layers} and {text.layers} blocks of width "
            f"{vision.width}, batches of {self.size} pairs"
        )

    def model(self, seed: int) -> nn.Module:
        """See BenchModel."""
        from tether.models import create

        if self._made is None or self._made[0] != seed:  # drawing the weights takes as long as fifteen steps
            model = create("tiny", seed=seed)
            model.prune_vocabulary_(self._ids)
            self._made = seed, model
        return copy.deepcopy(self._made[1])

    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """See BenchModel."""
        rows = torch.randperm(len(self._ids), generator=draw)[: self.size]
        pixels, ids = self._pixels[rows], _trimmed(self._ids[rows])
        noise = torch.randint(0, 256, pixels.shape, generator=draw, dtype=torch.uint8)
        return noise if contents == "noise" else pixels, ids.roll(1, dims=0) if contents == "swapped" else ids

    def loss(self, model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        """See BenchModel."""
        from tether.losses import clip_loss

        image = F.normalize(model.encode_image(batch[0]).pooled.float(), dim=-1)
        text = F.normalize(model.encode_text(batch[1]).pooled.float(), dim=-1)
        if not bool(image.isfinite().all() and text.isfinite().all()):
            return image.sum() * torch.nan  # the loss would refuse them; here the run must go on and be counted
        return clip_loss(image, text, model.logit_scale.float())

    def after_step(self, model: Any) -> None:
        """Keep the logit scale in its bounds."""
        model.clamp_logit_scale_()


_MODELS: Mapping[str, type[BenchModel]] = {"language": NextCharacters, "clip": SmallClip}
MODELS = tuple(_MODELS)
"""The name of every model; made once for each process by ``subject``."""


@functools.cache
def subject(name: str) -> BenchModel:
    """A model with its data, kept for the next run.

    Args:
        name: in ``MODELS``.
    """
    return _MODELS[name]()


def _trimmed(ids: Tensor) -> Tensor:
    return ids[:, : int((ids != 0).sum(dim=1).max())]
