"""Norms that mend what rounding did: layer by layer, until the float layer's means and variances are back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.ranges import Count, NonNegative, PositiveRate, checked
from tether.models.convert.saved_files import write_weights
from tether.models.convert.weights import read_metadata, read_weights

Asked = tuple[str, list[str]]
FORMAT = "tether-norm-tweak-1"
Call = Callable[[nn.Module, Tensor, int], Tensor]
"""A block's module, states (n, w) of one sequence and its number, to the states after the block."""
Passed = Literal["clean", "recorded"]


def distribution_loss(
    expected: Float[Tensor, "*b t c"], found: Float[Tensor, "*b t c"], *, seen: Bool[Tensor, " t"] | None = None
) -> Float[Tensor, ""]:
    """How far apart two layers' outputs lie: absolute differences of each channel's mean and variance over tokens.

    Args:
        expected: outputs of the float layer, of one sequence (t, c) or of several, whose losses are added up.
        found: those of the rounded one.
        seen: True for tokens that are no padding.

    Returns:
        The mean over channels, added over sequences; variances are unbiased.

    Raises:
        InputError: other shapes, or fewer than two tokens, of which there is no variance.

    Source: arXiv 2309.02784, equation 2; means over channels and sums over sequences as in smpanaro/norm-tweaking.
    """
    if expected.shape != found.shape or expected.ndim < 2:
        raise InputError(f"found: expected states like {tuple(expected.shape)}, got {tuple(found.shape)}")
    if seen is not None:
        expected, found = expected[..., seen, :], found[..., seen, :]
    if expected.shape[-2] < 2:
        raise InputError(f"expected at least two tokens that are no padding, got {expected.shape[-2]}")
    means = (expected.mean(-2) - found.mean(-2)).abs()
    return ((means + (expected.var(-2) - found.var(-2)).abs()).mean(-1)).sum()


@dataclass(frozen=True, slots=True)
class TweakedLayer:
    """One layer.

    Attributes:
        layer: its index.
        before: mean loss over the sequences, rounded and untouched.
        after: with its norms tweaked.
        learning_rate: of the steps.
    """

    layer: int
    before: float
    after: float
    learning_rate: float


class NormTweaker:
    """Rounds the matrices of blocks, and moves the weights and biases of their norms until outputs fit again.

    Block after block, on the outputs of the rounded blocks before it: the float block's outputs are kept, its matrices
    are rounded and rest, and Adam moves its norms, one sequence a step, toward the float outputs' means and variances.
    Nothing but weights is left behind; what learns and the mode are as before.

    Source: arXiv 2309.02784, algorithm 1. No code of the authors was found; where the text is silent it does as
    smpanaro/norm-tweaking, but for ``passed``.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from tether.compression.quantise import FakeQuant
        >>> from tether.methods.norm_tweaking import NormTweaker
        >>> _ = torch.manual_seed(0)
        >>> blocks = [nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)]
        >>> def to_two_bits(block):
        ...     block[1].weight.copy_(FakeQuant(2, observer="max")(block[1].weight))
        >>> found = NormTweaker(to_two_bits, lr=1e-2).fit(blocks, [torch.randn(20, 8) for _ in range(16)])
        >>> [layer.after < layer.before for layer in found]
        [True, True]
    """

    @checked
    def __init__(
        self,
        quantize_fn: Callable[[nn.Module], Any],
        lr: PositiveRate = 1e-5,
        lr_scale: NonNegative = 1.0,
        iters: Count = 1,
        *,
        passed: Passed = "clean",
    ) -> None:
        """Take the settings.

        Args:
            quantize_fn: rounds the matrices of a block in place, under ``no_grad``.
            lr: of the first layer; a net of a few million weights needs some hundred times the default, which is for
                language models of billions.
            lr_scale: layer l of L learns at ``lr * (1 + lr_scale * l / L)``.
            iters: passes over the sequences; more than one soon fits these alone.
            passed: what the next block is given: outputs computed after the pass (``clean``), or those ``recorded`` in
                the last pass before each sequence's own step, as in smpanaro/norm-tweaking.
        """
        self.quantize_fn, self.lr, self.lr_scale, self.iters, self.passed = quantize_fn, lr, lr_scale, iters, passed

    def fit(
        self,
        blocks: Sequence[nn.Module],
        calibration: Iterable[Tensor],
        *,
        call: Call | None = None,
        masks: Sequence[Tensor | None] | None = None,
        resume: Path | None = None,
        norms: Callable[[nn.Module], Sequence[nn.Parameter]] | None = None,
    ) -> list[TweakedLayer]:
        """Round and tweak in place.

        Args:
            blocks: in order.
            calibration: the states (t, w), or (1, t, w), that enter the first block, a sequence each.
            call: how a block is run; called with the states alone if None.
            masks: (t,) True for tokens that are no padding, for each sequence; None for none.
            resume: a file that is written after every block and from which an interrupted call goes on, with the same
                float blocks, sequences, masks and rounding; it is removed at the end.
            norms: the parameters of a block's norms; those of modules named like a norm if None.

        Returns:
            The loss of every block before and after.

        Raises:
            InputError: no sequence, one of fewer than two tokens, a block without a norm, states that are not finite,
                or a file of another call.
        """
        states = [x.detach() for x in calibration]
        hidden = [None] * len(states) if masks is None else list(masks)
        _check(states, hidden)
        run: Call = (lambda block, x, _: block(x)) if call is None else call
        learn = [(_norms_of if norms is None else norms)(block) for block in blocks]
        for layer, found in enumerate(learn):
            if not found:
                raise InputError(f"block {layer}: {type(blocks[layer]).__name__} has no norm with a weight to tweak")
        asked = self._asked(blocks, states, hidden) if resume is not None else ("", [])
        done, states = _read(resume, asked, blocks, states)
        for layer in range(len(done), len(blocks)):
            rate = self.lr * (1 + self.lr_scale * layer / len(blocks))
            told, states = self._tweak(blocks[layer], states, hidden, run=run, norms=learn[layer], rate=rate)
            done.append(TweakedLayer(layer, *told, rate))
            if resume is not None:
                _write(resume, asked, done, blocks, states)
        if resume is not None:
            resume.unlink(missing_ok=True)
        return done

    def _tweak(
        self,
        block: nn.Module,
        states: list[Tensor],
        masks: Sequence[Tensor | None],
        *,
        run: Call,
        norms: Sequence[nn.Parameter],
        rate: float,
    ) -> tuple[tuple[float, float], list[Tensor]]:
        """Losses before and after, and what the next block is given."""
        learning = {parameter: parameter.requires_grad for parameter in block.parameters()}
        training = {module: module.training for module in block.modules()}
        block.eval()
        recorded: list[Tensor] = []
        try:
            with torch.inference_mode(False), torch.enable_grad():
                with torch.no_grad():
                    expected = [run(block, x, place) for place, x in enumerate(states)]
                    self.quantize_fn(block)
                for parameter in block.parameters():
                    parameter.requires_grad_(False)
                for parameter in norms:
                    parameter.requires_grad_(True)
                before = self._loss(block, states, masks, expected=expected, run=run)[0]
                optimizer = torch.optim.Adam(norms, lr=rate)
                for _ in range(self.iters):
                    recorded.clear()
                    for place, (x, y) in enumerate(zip(states, expected, strict=True)):
                        optimizer.zero_grad()
                        found = run(block, x, place)
                        distribution_loss(y, found, seen=masks[place]).backward()
                        optimizer.step()
                        recorded.append(found.detach())
                optimizer.zero_grad()
                after, clean = self._loss(block, states, masks, expected=expected, run=run)
        finally:
            for parameter, learnt in learning.items():
                parameter.requires_grad_(learnt)
            for module, mode in training.items():
                module.training = mode
        return (before, after), clean if self.passed == "clean" else recorded

    @torch.no_grad()
    def _loss(
        self,
        block: nn.Module,
        states: list[Tensor],
        masks: Sequence[Tensor | None],
        *,
        expected: list[Tensor],
        run: Call,
    ) -> tuple[float, list[Tensor]]:
        found = [run(block, x, place) for place, x in enumerate(states)]
        losses = [distribution_loss(y, q, seen=m) for y, q, m in zip(expected, found, masks, strict=True)]
        loss = float(torch.stack(losses).mean())
        if loss != loss:
            raise InputError("the outputs of a block are not finite; expected finite weights and states")
        return loss, found

    def _asked(self, blocks: Sequence[nn.Module], states: list[Tensor], masks: Sequence[Tensor | None]) -> Asked:
        """What tells this call from others: shapes, settings, sequences and masks; and every block as it was."""
        shapes = [[list(value.shape) for value in block.parameters()] for block in blocks]
        held = nn.Module()
        for place, x in enumerate(states):
            held.register_buffer(f"x{place}", x)
            held.register_buffer(f"mask{place}", masks[place])
        settings = [self.lr, self.lr_scale, self.iters, self.passed]
        return json.dumps([settings, shapes, model_digest(held)]), [model_digest(block) for block in blocks]


def _check(states: list[Tensor], masks: Sequence[Tensor | None]) -> None:
    if not states:
        raise InputError("calibration: expected at least one sequence, got none")
    if len(masks) != len(states):
        raise InputError(f"masks: expected one for each of {len(states)} sequences, got {len(masks)}")
    for place, (x, mask) in enumerate(zip(states, masks, strict=True)):
        if not (x.ndim == 2 or (x.ndim == 3 and len(x) == 1)):
            raise InputError(f"calibration, sequence {place}: expected (t, w) or (1, t, w), got {tuple(x.shape)}")
        count = x.shape[-2] if mask is None else int(mask.sum())
        if count < 2:
            raise InputError(
                f"calibration, sequence {place}: expected at least two tokens that are no padding, got {count}; one "
                "has no variance"
            )
        if not bool(x.isfinite().all()):
            raise InputError(f"calibration, sequence {place}: holds states that are not finite")


def _norms_of(block: nn.Module) -> list[nn.Parameter]:
    found = [module for module in block.modules() if "Norm" in type(module).__name__]
    return [value for module in found for value in module.parameters(recurse=False)]


def _write(
    path: Path, asked: Asked, done: list[TweakedLayer], blocks: Sequence[nn.Module], states: list[Tensor]
) -> None:
    held = {f"state/{place}": x.contiguous() for place, x in enumerate(states)}
    for layer in range(len(done)):
        held |= {f"block/{layer}/{name}": value for name, value in blocks[layer].state_dict().items()}
    told = json.dumps([[one.layer, one.before, one.after, one.learning_rate] for one in done])
    write_weights(path, held, metadata={"format": FORMAT, "asked": json.dumps(asked), "done": told})


def _read(
    path: Path | None, asked: Asked, blocks: Sequence[nn.Module], states: list[Tensor]
) -> tuple[list[TweakedLayer], list[Tensor]]:
    if path is None or not path.exists():
        return [], states
    said, held = read_metadata(path), read_weights(path)
    if said.get("format") != FORMAT:
        raise InputError(f"{path}: expected what an interrupted call left ({FORMAT}), got {said.get('format')!r}")
    done = [TweakedLayer(int(layer), *numbers) for layer, *numbers in json.loads(said["done"])]
    settings, as_they_were = json.loads(said["asked"])
    if settings != asked[0] or as_they_were[len(done) :] != asked[1][len(done) :]:
        raise InputError(f"{path}: belongs to other blocks, sequences, masks or settings; remove it to begin anew")
    for layer in range(len(done)):
        prefix = f"block/{layer}/"
        state: Mapping[str, Tensor] = {name[len(prefix) :]: x for name, x in held.items() if name.startswith(prefix)}
        blocks[layer].load_state_dict(dict(state))
    return done, [held[f"state/{place}"] for place in range(len(states))]
