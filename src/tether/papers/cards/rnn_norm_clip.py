"""Gradient-norm clipping and the vanishing-gradient regulariser for recurrent networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tether.core.protocols import GradClipper
    from tether.papers.reproduction.lab import Lab

LENGTH, SYMBOLS, CLASSES, UNITS, BATCH = 30, 6, 4, 50, 20
LEARNING_RATE, UPDATES, LAST = 0.05, 2500, 100
INIT_STD, LINKS, RADIUS = 0.01, 15, 0.95

CARD = Card(
    slug="rnn-norm-clip",
    title="On the difficulty of training Recurrent Neural Networks",
    year=2013,
    arxiv="1211.5063",
    venue="ICML 2013",
    code="pascanur/trainingRNNs",
    package="optim",
    parts=(
        "tether.optim.clip.global_norm.GlobalNorm",
        "tether.losses.vanishing_gradient.omega_regulariser",
        "tether.losses.vanishing_gradient.VanishingGradientPenalty",
    ),
    needs=("gradients",),
    gives="One limit on the joint norm of all gradients: the ancestor of every clipper here.",
    claim=Claim(
        says="A recurrent network learns the temporal-order task with its gradient norm limited to 1, and fails "
        "without a limit.",
        metric=f"training error over the last {LAST} of {UPDATES} batches",
        better="lower",
        margin=0.45,
        baseline="the same network, batches and learning rate without a limit",
        scale=f"tanh network of {UNITS} units, sequences of {LENGTH}, batches of {BATCH}",
    ),
    differences=(
        "A step whose norm is not finite is skipped; the released code pulls the recurrent weight towards zero.",
        "Only clipping is checked here; the regulariser is held to the released formulas by tests.",
        "The music and language-model results are not tried.",
    ),
    minutes=1.0,
    guide="stability.md",
)


def reproduce(lab: Lab) -> Trial:
    """Train the same network twice, without and with a limit of 1."""
    from tether.optim.clip import GlobalNorm, NoClip

    updates = lab.steps(UPDATES, 3)
    without, free = train(lab, NoClip(), updates=updates)
    limited, bound = train(lab, GlobalNorm(1.0), updates=updates)
    return Trial(without, limited, {"largest_norm_without": free, "largest_norm_limited": bound})


def train(lab: Lab, clipper: GradClipper, *, updates: int) -> tuple[float, float]:
    """Error over the last batches, and the largest finite gradient norm met."""
    import math

    import torch
    import torch.nn.functional as F

    network, readout = make(lab.generator("weights"))
    named = [*network.named_parameters(prefix="network"), *readout.named_parameters(prefix="readout")]
    optimizer = torch.optim.SGD([parameter for _, parameter in named if parameter.requires_grad], lr=LEARNING_RATE)
    draw = lab.generator("sequences")
    errors: list[Tensor] = []
    largest = 0.0
    for update in range(updates):
        inputs, targets = sequences(draw)
        logits = readout(network(inputs)[0][-1])
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        report = clipper.clip_(named, step=update)
        if not report.skip:
            optimizer.step()
        wrong = (logits.argmax(dim=1) != targets) | ~logits.isfinite().all(dim=1)
        errors.append(wrong.float().mean())
        norm = float(report.norm)
        largest = max(largest, norm) if math.isfinite(norm) else largest
    return float(torch.stack(errors[-LAST:]).mean()), largest


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


def sequences(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """One-hot (length, batch, symbols) with one of two signals early and one midway, and which of the four it was."""
    import torch
    import torch.nn.functional as F

    tenth = LENGTH // 10
    symbols = torch.randint(2, SYMBOLS, (LENGTH, BATCH), generator=draw)
    first, second = torch.randint(0, 2, (2, BATCH), generator=draw)
    rows = torch.arange(BATCH)
    symbols[tenth + torch.randint(0, tenth, (BATCH,), generator=draw), rows] = first
    symbols[5 * tenth + torch.randint(0, tenth, (BATCH,), generator=draw), rows] = second
    return F.one_hot(symbols, SYMBOLS).float(), first + 2 * second
