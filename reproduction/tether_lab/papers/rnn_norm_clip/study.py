"""Gradient-norm clipping and the vanishing-gradient regulariser for recurrent networks."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tether.core.protocols import GradClipper
    from tether.methods.rnn_norm_clip.loss import VanishingGradientPenalty
    from tether_lab.lab.lab import Lab

SYMBOLS, CLASSES, UNITS, BATCH = 6, 4, 50, 20
LENGTH, UPDATES = 30, 2500
LONG, LONG_UPDATES, ALPHA = 60, 3000, 2.0
"""Length and updates with which the regulariser is tried, and its weight."""
LEARNING_RATE, SMALL_RATE, LAST = 0.05, 0.01, 100
"""The smaller one, the released default, is tried without a limit too."""
INIT_STD, LINKS, RADIUS = 0.01, 15, 0.95

CARD = Card.of(
    "rnn-norm-clip",
    claim=Claim(
        says="On the temporal-order task a recurrent network has a lower error with its gradient norm limited to 1 "
        "than without a limit.",
        metric=f"training error over the last {LAST} of {UPDATES} batches",
        better="lower",
        margin=0.45,
        baseline=f"the same network without a limit, the better of two rates: {LEARNING_RATE:g} and {SMALL_RATE:g}",
        scale=f"tanh network of {UNITS} units, sequences of {LENGTH} ({LONG} and {LONG_UPDATES} updates for Omega), "
        f"batches of {BATCH}",
        equal=f"starting weights, batches and updates; with the limit there is one trial, at {LEARNING_RATE:g}; with "
        "Omega an update takes longer",
        conditions=(
            Condition(
                says="With the limit the error is 0.05 or less.",
                than=0.05,
                better="lower",
            ),
            Condition(
                says=f"Without a limit, at the same rate of {LEARNING_RATE:g}, it is 0.5 or more.",
                ours=f"error_without_at_{LEARNING_RATE:g}",
                than=0.5,
            ),
            Condition(
                says=f"At length {LONG} the error with Omega is lower by 0.03 or more than with the limit alone.",
                ours="long_error_omega",
                than="long_error_limited",
                better="lower",
                least=0.03,
            ),
            Condition(
                says="Omega falls while it is trained: its last batches' mean is 0.001 or more below its first ones'.",
                ours="omega_last",
                than="omega_first",
                better="lower",
                least=0.001,
            ),
            Condition(
                says="With it more of the last step's error signal is left at a tenth of the sequence, by a "
                "hundredth of its length at least.",
                ours="signal_omega",
                than="signal_limited",
                least=0.01,
            ),
        ),
    ),
    differences=(
        "A step whose norm is not finite is skipped; the released code pulls the recurrent weight towards zero.",
        "The condition on the error signal, which asks for a longer one, counts one that explodes as success; "
        "the mean |ln ratio| of its length to the last step's is 3.40 with the limit alone and 1.26 with Omega, five "
        "seeds.",
        "The music and language-model results are not tried.",
    ),
    tried={
        "6,000 updates instead of 2,500": (
            "error of 8, 0 and 5 % with the limit and of 74 to 75 % without, seeds 0 to 2"
        ),
    },
    minutes=4.0,
)


def reproduce(lab: Lab) -> Trial:
    """Train the same network without and with a limit of 1; on longer sequences with the limit, and with Omega too."""
    from tether.methods.rnn_norm_clip.loss import VanishingGradientPenalty
    from tether.optim.clip import GlobalNorm, NoClip

    updates, more = lab.steps(UPDATES, 3), lab.steps(LONG_UPDATES, 3)
    without = {rate: train(lab, NoClip(), updates=updates, rate=rate) for rate in (LEARNING_RATE, SMALL_RATE)}
    limited = train(lab, GlobalNorm(1.0), updates=updates)
    long = train(lab, GlobalNorm(1.0), updates=more, length=LONG)
    omega = train(lab, GlobalNorm(1.0), updates=more, length=LONG, penalty=VanishingGradientPenalty(alpha=ALPHA))
    notes = {
        **{f"error_without_at_{rate:g}": run.error for rate, run in without.items()},
        "largest_norm_without": without[LEARNING_RATE].largest,
        "largest_norm_limited": limited.largest,
        "long_error_limited": long.error,
        "long_error_omega": omega.error,
        "signal_limited": long.signal,
        "signal_omega": omega.signal,
        "omega_first": statistics.fmean(omega.penalties[:LAST]),
        "omega_last": statistics.fmean(omega.penalties[-LAST:]),
    }
    return Trial(min(run.error for run in without.values()), limited.error, notes)


@dataclass(frozen=True, slots=True)
class RecurrentRun:
    """One run.

    Attributes:
        error: over the last batches.
        largest: finite gradient norm met.
        signal: length of the error signal at a tenth of the sequence over that at its end, on a fresh batch.
        penalties: the regulariser in each update; empty without it.
    """

    error: float
    largest: float
    signal: float
    penalties: list[float]


def train(
    lab: Lab,
    clipper: GradClipper,
    *,
    updates: int,
    length: int = LENGTH,
    rate: float = LEARNING_RATE,
    penalty: VanishingGradientPenalty | None = None,
) -> RecurrentRun:
    """Train one network; equal lengths see the same weights and batches."""
    import torch
    import torch.nn.functional as F

    network, readout = make(lab.generator("weights"))
    named = [*network.named_parameters(prefix="network"), *readout.named_parameters(prefix="readout")]
    optimizer = torch.optim.SGD([parameter for _, parameter in named if parameter.requires_grad], lr=rate)
    draw = lab.generator("sequences")
    errors: list[Tensor] = []
    penalties: list[float] = []
    largest = 0.0
    for update in range(updates):
        inputs, targets = sequences(draw, length=length)
        states = None if penalty is None else unrolled(network, inputs)
        logits = readout(network(inputs)[0][-1] if states is None else states[-1])
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        if penalty is not None and states is not None:
            recurrent = network.get_parameter("weight_hh_l0")
            penalties.append(float(penalty.add_(recurrent, loss=loss, hidden=states)))
        loss.backward()
        report = clipper.clip_(named, step=update)
        if not report.skip:
            optimizer.step()
        wrong = (logits.argmax(dim=1) != targets) | ~logits.isfinite().all(dim=1)
        errors.append(wrong.float().mean())
        norm = float(report.norm)
        largest = max(largest, norm) if math.isfinite(norm) else largest
    inputs, targets = sequences(draw, length=length)
    states = unrolled(network, inputs)
    loss = F.cross_entropy(readout(states[-1]), targets)
    early, last = torch.autograd.grad(loss, [states[length // 10 - 1], states[-1]])
    signal = float(early.norm() / last.norm())
    return RecurrentRun(float(torch.stack(errors[-LAST:]).mean()), largest, signal, penalties)


def unrolled(network: nn.RNN, inputs: Tensor) -> list[Tensor]:
    """The network's states (batch, units) after each step, each made from the one before."""
    import torch.nn.functional as F

    weight_in, recurrent, bias = (network.get_parameter(f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_hh"))
    state = inputs.new_zeros(inputs.shape[1], UNITS)
    states = []
    for driven in F.linear(inputs, weight_in, bias):
        state = (driven + state @ recurrent.T).tanh()
        states.append(state)
    return states


def make(draw: torch.Generator) -> tuple[nn.RNN, nn.Linear]:
    """A network with sparse recurrent weights of spectral radius 0.95, and its readout (RNN.py, ``smart_tanh``)."""
    import torch
    from torch import nn

    network, readout = nn.RNN(SYMBOLS, UNITS), nn.Linear(UNITS, CLASSES)
    with torch.no_grad():
        for parameter in (*network.parameters(), *readout.parameters()):
            if parameter.ndim == 2:
                parameter.normal_(std=INIT_STD, generator=draw)
            else:
                parameter.zero_()
        recurrent = network.get_parameter("weight_hh_l0")
        order = torch.rand(UNITS, UNITS, generator=draw).argsort(dim=1)
        recurrent[order >= LINKS] = 0
        recurrent *= RADIUS / torch.linalg.eigvals(recurrent).abs().max()
    network.get_parameter("bias_ih_l0").requires_grad_(False)  # torch has two biases where the paper has one
    return network, readout


def sequences(draw: torch.Generator, *, length: int) -> tuple[Tensor, Tensor]:
    """One-hot (length, batch, symbols) with one of two signals early and one midway, and which of the four it was."""
    import torch
    import torch.nn.functional as F

    tenth = length // 10
    symbols = torch.randint(2, SYMBOLS, (length, BATCH), generator=draw)
    first, second = torch.randint(0, 2, (2, BATCH), generator=draw)
    rows = torch.arange(BATCH)
    symbols[tenth + torch.randint(0, tenth, (BATCH,), generator=draw), rows] = first
    symbols[5 * tenth + torch.randint(0, tenth, (BATCH,), generator=draw), rows] = second
    return F.one_hot(symbols, SYMBOLS).float(), first + 2 * second
