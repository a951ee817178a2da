"""Who suffers the faults: one small causal transformer and one small CLIP, each with its data in memory."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.papers.stability.faults import Contents

BATCH = {"language": 16, "clip": 32}
HELD_OUT_BATCHES = {"language": 8, "clip": 8}
_BLOCKS, _WIDTH, _HEADS, _LETTERS = 2, 64, 4, 48
"""Of the causal transformer; the last is the characters of one row."""


class BenchModel(Protocol):
    """A model with its data; equal seeds give equal weights and batches.

    Attributes:
        says: what it is, in words for the page.
        chance: loss of a model that knows nothing, in nats.
        rate: learning rate of the unguarded run with AdamW.
        betas: of AdamW.
        weight_decay: on matrices.
        spoiled: name of the weight matrix whose gradient a fault multiplies.
        rise: nats above the level before from which a loss is a spike; no step of three fault-free runs of other
            seeds (100 to 102) rose as much.
    """

    says: str
    chance: float
    rate: float
    betas: tuple[float, float]
    weight_decay: float
    spoiled: str
    rise: float

    def model(self, seed: int) -> nn.Module:
        """A new model in float32."""
        ...

    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """The next training batch; drawing bad contents moves the generator as far as good ones."""
        ...

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """0-d loss of a batch in nats."""
        ...

    def after_step(self, model: nn.Module) -> None:
        """What the usual loop does after each step."""
        ...

    def held_out(self, model: nn.Module) -> float:
        """Mean loss on held-out data that are the same for every run."""
        ...


class NextCharacters:
    """Next characters of Python's own reference, by a causal transformer."""

    rate, betas, weight_decay = 3e-3, (0.9, 0.95), 0.01
    spoiled, rise = "blocks.0.up.weight", 0.3

    def __init__(self) -> None:
        """Read the text."""
        from tether.papers.testbeds.char_lm_spikes import corpus

        ids, self.characters = corpus()
        cut = len(ids) * 9 // 10
        self._train, self._rest = ids[:cut], ids[cut:]
        self.chance = math.log(self.characters)
        self.says = (
            f"causal transformer over characters, {_BLOCKS} blocks of width {_WIDTH}, {_HEADS} heads, "
            f"batches of {BATCH['language']} rows of {_LETTERS} characters"
        )
        fixed = torch.Generator().manual_seed(0)
        self._held = [self._cut(self._rest, fixed) for _ in range(HELD_OUT_BATCHES["language"])]

    def model(self, seed: int) -> nn.Module:
        """See Subject."""
        from tether.papers.testbeds.char_lm import CharModel

        return CharModel(self.characters, width=_WIDTH, layers=_BLOCKS, heads=_HEADS, context=_LETTERS, seed=seed)

    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """See Subject."""
        inputs, targets = self._cut(self._train, draw)
        noise = torch.randint(0, self.characters, (2, *inputs.shape), generator=draw)
        order = torch.randperm(targets.numel(), generator=draw)
        if contents == "noise":
            return noise[0], noise[1]
        if contents == "swapped":
            return inputs, targets.flatten()[order].view_as(targets)
        return inputs, targets

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """See Subject."""
        return F.cross_entropy(model(batch[0]).flatten(0, 1).float(), batch[1].flatten())

    def after_step(self, model: nn.Module) -> None:
        """Nothing."""

    @torch.no_grad()
    def held_out(self, model: nn.Module) -> float:
        """See Subject."""
        return float(torch.stack([self.loss(model, batch) for batch in self._held]).mean())

    def _cut(self, ids: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        from tether.papers.testbeds.char_lm import draw_batch

        return draw_batch(ids, draw, batch=BATCH["language"], context=_LETTERS)


class SmallClip:
    """Drawings of emoji and their English names, by the ``tiny`` CLIP."""

    rate, betas, weight_decay = 1e-3, (0.9, 0.98), 0.2
    spoiled, rise = "visual.blocks.0.up.weight", 0.6

    def __init__(self) -> None:
        """Decode the pictures and encode the names, once."""
        from tether.models import create
        from tether.papers.reproduction.lab import Lab

        lab = Lab(0)
        train, rest = lab.emoji(split="train"), lab.emoji(split="test")
        model = create("tiny", seed=0)
        self._pixels, self._ids = train.pixels, model.tokenizer([texts[0] for texts in train.texts])
        held = BATCH["clip"] * HELD_OUT_BATCHES["clip"]
        order = torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[:held]
        other = model.tokenizer([texts[0] for texts in rest.texts])
        self._held = [(rest.pixels[rows], _trimmed(other[rows])) for rows in order.split(BATCH["clip"])]
        self.chance = math.log(BATCH["clip"])
        self._made: tuple[int, nn.Module] | None = None
        vision, text = model.config.vision, model.config.text
        self.says = (
            f"CLIP on emoji at {vision.image.size[0]} px, {vision.layers} and {text.layers} blocks of width "
            f"{vision.width}, batches of {BATCH['clip']} pairs"
        )

    def model(self, seed: int) -> nn.Module:
        """See Subject."""
        from tether.models import create

        if self._made is None or self._made[0] != seed:  # drawing the weights takes as long as fifteen steps
            model = create("tiny", seed=seed)
            model.prune_vocabulary_(self._ids)
            self._made = seed, model
        return copy.deepcopy(self._made[1])

    def batch(self, draw: torch.Generator, *, contents: Contents) -> tuple[Tensor, Tensor]:
        """See Subject."""
        rows = torch.randperm(len(self._ids), generator=draw)[: BATCH["clip"]]
        pixels, ids = self._pixels[rows], _trimmed(self._ids[rows])
        noise = torch.randint(0, 256, pixels.shape, generator=draw, dtype=torch.uint8)
        if contents == "noise":
            return noise, ids
        return pixels, ids.roll(1, dims=0) if contents == "swapped" else ids

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """See Subject."""
        from tether.losses import clip_loss
        from tether.models.dual import Clip

        assert isinstance(model, Clip)
        image = F.normalize(model.encode_image(batch[0]).pooled.float(), dim=-1)
        text = F.normalize(model.encode_text(batch[1]).pooled.float(), dim=-1)
        if not bool(image.isfinite().all() and text.isfinite().all()):
            return image.sum() * torch.nan  # the loss would refuse them; here the run must go on and be counted
        return clip_loss(image, text, model.logit_scale.float())

    def after_step(self, model: nn.Module) -> None:
        """Keep the logit scale in its bounds."""
        from tether.models.dual import Clip

        assert isinstance(model, Clip)
        model.clamp_logit_scale_()

    @torch.no_grad()
    def held_out(self, model: nn.Module) -> float:
        """See Subject."""
        return float(torch.stack([self.loss(model, batch) for batch in self._held]).mean())


_SUBJECTS: Mapping[str, type[BenchModel]] = {"language": NextCharacters, "clip": SmallClip}
MODELS = tuple(_SUBJECTS)
"""The name of every model; made once for each process by ``subject``."""


@functools.cache
def subject(name: str) -> BenchModel:
    """A model with its data, kept for the next run.

    Args:
        name: in ``MODELS``.
    """
    return _SUBJECTS[name]()


def _trimmed(ids: Tensor) -> Tensor:
    return ids[:, : int((ids != 0).sum(dim=1).max())]
