"""A small causal character model made of the one transformer block: the test bench of block arrangements."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.errors import InputError
from tether.core.protocols import GradClipper
from tether.core.ranges import checked
from tether.core.runtime_protocol import ByAttributes
from tether.core.types import ClipReport
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.layers import NORMS, Linear
from tether.models.towers.blocks.presets import BlockPreset, block_stack
from tether.models.towers.tower import initialise_block_
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import NoClip
from tether_lab.worlds.definitions import definitions

WIDTH, LAYERS, HEADS, CONTEXT, BATCH = 64, 6, 4, 48, 32
LEARNING_RATE, BETAS, WEIGHT_DECAY, WARMUP = 3e-3, (0.9, 0.95), 0.01, 50
EMBEDDING_STD = 0.02
"""GPT-2's. Blocks whose branches are of unit size from the start (NormFormer) are meant for a stream of about that size
too (arXiv 2110.09456, section 2): give them 1.0 as well before judging them."""
VALIDATION_BATCHES = 20

Blocks = BlockConfig | BlockPreset | Sequence[BlockConfig] | Callable[[int], BlockConfig]
"""One for all layers, a preset, one for each, or a function of the layer's index."""


@runtime_checkable
class LayerGate(Protocol, metaclass=ByAttributes):
    """Decides how much of a layer each token takes."""

    def step(self, layer: int, hidden: Tensor) -> Tensor | None:
        """From the layer's index and the stream (b, l, w) entering it, (b, l) in [0, 1]; None = all of it."""
        ...


@dataclass(frozen=True, slots=True)
class ForwardReading:
    """One forward pass, looked at from inside.

    Attributes:
        logits: (b, l, c) of the next character at every position.
        states: the stream (b, l, w) entering each layer, and last the one that leaves the last layer.
        gates: (b, l) for each layer that has one, with gradient; empty without a gate.
    """

    logits: Float[Tensor, "b l c"]
    states: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]


class CharModel(nn.Module):
    """A causal transformer over characters, with learned positions and a final norm.

    Args:
        alphabet: number of characters.
        width: channels of the stream.
        layers: number of blocks.
        heads: of every block; must divide the width.
        hidden: width of the feed-forward nets; 4 times the width if None.
        context: longest text.
        blocks: how the blocks are built.
        gate: a module that gates the layers (``LayerGate``); its own weights are left as it made them.
        embedding_std: of the characters' and, if there are any, the places' vectors at the start.
        weight_std: of the blocks' matrices at the start, before those that end in the stream are divided by the root of
            twice the layers; CLIP's scales (arXiv 2103.00020, released code) if None.
        places: whether a place has a ``learned`` vector, or ``none`` because the blocks turn by position (``rope``).
        seed: of the weights.
    """

    gate: LayerGate | None

    @checked
    def __init__(
        self,
        alphabet: int,
        *,
        width: int = WIDTH,
        layers: int = LAYERS,
        heads: int = HEADS,
        hidden: int | None = None,
        context: int = CONTEXT,
        blocks: Blocks = BlockConfig(),  # noqa: B008 - frozen
        gate: LayerGate | None = None,
        embedding_std: float = EMBEDDING_STD,
        weight_std: float | None = None,
        places: Literal["learned", "none"] = "learned",
        seed: int = 0,
    ) -> None:
        """Draw the weights; see the class for the arguments."""
        super().__init__()
        if not (gate is None or (isinstance(gate, nn.Module) and isinstance(gate, LayerGate))):
            raise InputError(f"gate: expected a module with step(layer, hidden), got {type(gate).__name__}")
        configs = _each(blocks, layers)
        self.context = context
        self.characters = nn.Embedding(alphabet, width)
        self.places = nn.Embedding(context, width) if places == "learned" else None
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads=heads, hidden=hidden or 4 * width, config=config) for config in configs
        )
        self.gate = gate
        self.final_norm = NORMS[configs[-1].norm](width, eps=configs[-1].norm_eps)
        self.head = Linear(width, alphabet)
        self._initialise_(torch.Generator().manual_seed(seed), embedding_std, weight_std)

    def _initialise_(self, generator: torch.Generator, embedding_std: float, weight_std: float | None) -> None:
        nn.init.normal_(self.characters.weight, std=embedding_std, generator=generator)
        if self.places is not None:
            nn.init.normal_(self.places.weight, std=embedding_std, generator=generator)
        for block in self.blocks:
            initialise_block_(block, layers=len(self.blocks), generator=generator, std=weight_std)
        nn.init.normal_(self.head.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)

    @property
    def stack(self) -> tuple[TransformerBlock, ...]:
        """The blocks, first to last."""
        return tuple(block for block in self.blocks if isinstance(block, TransformerBlock))

    def read(self, ids: Int[Tensor, "b l"]) -> ForwardReading:
        """One pass with everything inside kept."""
        x = self.characters(ids)
        if self.places is not None:
            x = x + self.places.weight[: ids.shape[1]]
        states, gates = [x], []
        for layer, block in enumerate(self.blocks):
            gate = None if self.gate is None else self.gate.step(layer, x)
            if gate is not None:
                gates.append(gate)
            x = block(x, causal=True, gate=gate)
            states.append(x)
        return ForwardReading(self.head(self.final_norm(x)), tuple(states), tuple(gates))

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l c"]:
        """Logits of the next character at every position."""
        return self.read(ids).logits


@dataclass(frozen=True, slots=True)
class CharStepReport:
    """What a callback sees: the gradients stand in the model, clipped, and the optimiser has not moved yet.

    Attributes:
        step: 0, 1, ...
        model: in training.
        reading: the step's forward pass.
        loss: its cross-entropy, without any penalty.
        clip: what the clipper did.
    """

    step: int
    model: CharModel
    reading: ForwardReading
    loss: float
    clip: ClipReport


@dataclass(frozen=True, slots=True)
class Training:
    """One training run.

    Attributes:
        validation: cross-entropy on held-out text, in nats per character.
        losses: of every step.
        clipped: fraction of the steps in which the gradients were scaled.
    """

    validation: float
    losses: tuple[float, ...]
    clipped: float


@functools.cache
def corpus() -> tuple[Tensor, int]:
    """Dictionary definitions, one a line, as character ids, and the size of their alphabet."""
    text = "\n".join(definitions())
    text = "".join(character for character in text if character == "\n" or " " <= character <= "~")
    alphabet = sorted(set(text))
    ids = {character: number for number, character in enumerate(alphabet)}
    return torch.tensor([ids[character] for character in text]), len(alphabet)


def adamw(groups: list[dict[str, Any]]) -> Optimizer:
    """The optimiser of every run that asks for no other."""
    return AdamW(groups, lr=LEARNING_RATE, betas=BETAS, eps=1e-8)


def train(
    model: Any,
    *,
    seed: int,
    steps: int,
    learning_rate: float | None = None,
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] = adamw,
    clipper: GradClipper | None = None,
    warmup: int = WARMUP,
    batch: int = BATCH,
    penalty: Callable[[ForwardReading], Tensor] | None = None,
    planted: Mapping[int, float] = MappingProxyType({}),
    loss_scale: float = 1.0,
    disturb: Callable[[int, nn.Module], None] | None = None,
    on_step: Callable[[CharStepReport], None] | None = None,
    validation: int = VALIDATION_BATCHES,
) -> Training:
    """Train in place on dictionary definitions; equal seeds see the same batches.

    Args:
        model: with an alphabet of ``alphabet_size()``, a ``context`` and a method ``read`` such as ``CharModel``'s.
        seed: of the batches.
        steps: optimiser steps.
        learning_rate: reached after the warm-up and kept; the optimiser's own if None.
        optimizer: makes one from parameter groups.
        clipper: bounds the gradients; none if None.
        warmup: steps over which the learning rate grows.
        batch: texts of a step.
        penalty: added to the cross-entropy.
        planted: steps whose targets are random, and what their loss is multiplied by.
        loss_scale: multiplies every loss, and with it every gradient.
        disturb: is given the step and the model between backward and the clipper, to spoil gradients.
        on_step: called between clipping and the optimiser's step.
        validation: held-out batches looked at in the end.
    """
    ids, alphabet = corpus()
    cut = len(ids) * 9 // 10
    draw = torch.Generator().manual_seed(seed)
    moved = optimizer(parameter_groups(model, weight_decay=WEIGHT_DECAY))
    rates = [group["lr"] if learning_rate is None else learning_rate for group in moved.param_groups]
    clipper = NoClip() if clipper is None else clipper
    model.train()
    losses: list[float] = []
    clipped = 0
    for step in range(steps):
        inputs, targets = draw_batch(ids[:cut], draw, batch=batch, context=model.context)
        if step in planted:
            targets = torch.randint(0, alphabet, targets.shape, generator=draw)
        for group, rate in zip(moved.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / warmup)
        reading = model.read(inputs)
        loss = F.cross_entropy(reading.logits.flatten(0, 1), targets.flatten())
        moved.zero_grad()
        total = loss if penalty is None else loss + penalty(reading)
        (total * (loss_scale * planted.get(step, 1.0))).backward()
        if disturb is not None:
            disturb(step, model)
        report = clipper.clip_(model.named_parameters(), step=step)
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(CharStepReport(step, model, reading, losses[-1], report))
        if not report.skip:
            moved.step()
        clipped += int(report.scale < 1)
    held_out = validation_loss(model, seed=seed + 1, batches=validation, batch=batch)
    return Training(held_out, tuple(losses), clipped / steps)


@torch.no_grad()
def validation_loss(model: Any, *, seed: int, batches: int = VALIDATION_BATCHES, batch: int = BATCH) -> float:
    """Mean cross-entropy on the last tenth of the text, in nats per character."""
    ids, _ = corpus()
    draw = torch.Generator().manual_seed(seed)
    scores = []
    for _ in range(batches):
        inputs, targets = draw_batch(ids[len(ids) * 9 // 10 :], draw, batch=batch, context=model.context)
        scores.append(F.cross_entropy(model.read(inputs).logits.flatten(0, 1), targets.flatten()))
    return float(torch.stack(scores).mean())


def alphabet_size() -> int:
    """How many characters the text has."""
    return corpus()[1]


def draw_batch(ids: Tensor, draw: torch.Generator, *, batch: int, context: int) -> tuple[Tensor, Tensor]:
    """Texts (b, l) from random positions, and what follows each of their characters."""
    starts = torch.randint(0, len(ids) - context - 1, (batch, 1), generator=draw)
    rows = ids[starts + torch.arange(context + 1)]
    return rows[:, :-1], rows[:, 1:]


def _each(blocks: Blocks, layers: int) -> tuple[BlockConfig, ...]:
    if isinstance(blocks, (BlockConfig, BlockPreset)):
        return block_stack(blocks, layers=layers)
    configs = tuple(blocks) if isinstance(blocks, Sequence) else tuple(blocks(layer) for layer in range(layers))
    if len(configs) != layers:
        raise InputError(f"blocks: expected one for each of {layers} layers, got {len(configs)}")
    return configs
