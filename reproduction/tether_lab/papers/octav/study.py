"""OCTAV and MAD: the clip value of least squared rounding error, and gradients of what is clipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from torch import Tensor

    from tether_lab.lab.lab import Lab

SAMPLES, WIDTHS = 50_000, (2, 3, 4, 6, 8)
GRID = 150
"""Clip values that the search tries, evenly spaced up to the largest magnitude."""
SHARES = (0.99, 0.999)
"""Of magnitudes below the clip, of the simple rules that cost one pass."""
SHARES_BY_BITS = {2: 0.98, 3: 0.99, 4: 0.995, 6: 0.9995, 8: 1.0}
"""The same, the best of nine for each number of bits on seeds 10 and 11."""
TRAINED_BITS, STEPS, BATCH, RATE = 3, 300, 64, 3e-3

CARD = Card.of(
    "octav",
    claim=Claim(
        says="Over Normal, Laplace and Student-t(3) samples and 2, 3, 4, 6 and 8 bits the squared error of rounding "
        "with OCTAV's clip is nearer to that of a grid search than with any simple rule, also one that was chosen for "
        "each number of bits.",
        metric="squared error over the grid search's, mean of 15 pairs of distribution and bits",
        better="lower",
        margin=0.02,
        baseline="the best on each seed of four rules: largest magnitude, 99th and 99.9th percentile, and the best "
        "of nine percentiles for each number of bits on seeds 10 and 11",
        scale=f"{SAMPLES:,} samples a distribution, signed levels, {GRID} clip values in the search",
        equal="samples and levels; the last rule is told the number of bits, as OCTAV's is, and its percentiles were "
        "chosen on samples of these distributions",
        conditions=(
            Condition(
                says="At 4 bits the error is at most 0.6 of that with the largest magnitude, for each distribution.",
                ours="worst_over_max_4_bits",
                than=0.6,
                better="lower",
            ),
            Condition(
                says="At 4 bits and more it is at most 1.03 of the grid search's, for each distribution.",
                ours="worst_over_grid_4_bits_up",
                than=1.03,
                better="lower",
            ),
            Condition(
                says="With the level +s kept, which fits the model of errors, it is at most 1.01 at any width.",
                ours="worst_over_grid_with_top",
                than=1.01,
                better="lower",
            ),
            Condition(
                says=f"A net trained at {TRAINED_BITS} bits with OCTAV and MAD names drawn digits no worse than with "
                "the largest magnitude and straight-through gradients, but for half a point.",
                ours="trained_octav_mad",
                than="trained_max_ste",
                least=-0.005,
            ),
        ),
    ),
    differences=(
        "The sheet's FakeQuant is a module of that name; the edit of whole models is Octav.",
        "The recursion begins at the mean magnitude; of values of one magnitude that magnitude is the clip.",
        "Zeros are not counted, as they are exact at any scale.",
        "Which gradient the paper advises for weights and which for activations is from memory: both take any.",
        "Nothing is claimed of models rounded after training: least squared error is not least loss.",
    ),
    tried={
        "the first claim on seeds 0 to 4: margin 0.2 over three rules, none of them told the number of bits": (
            "better by 1.10 of the grid search's error; the fourth rule, which is told, was then added and the "
            "margin set to 0.02"
        ),
        "this bed on pilot seeds 10 and 11: nine percentiles at each number of bits": (
            "the best were 98 at 2 bits, 99 at 3, 99.5 at 4, 99.95 at 6 and the largest magnitude at 8, with "
            "1.017, 1.012, 1.023, 1.074 and 1.160 of the grid search's error"
        ),
        "a net on scikit-learn's digits trained at 3 bits, beside the claim": (
            "96.5 % with OCTAV and MAD, 96.8 % with OCTAV and straight-through gradients, 96.4 % with the "
            "largest magnitude, seeds 0 to 4: no difference"
        ),
        "1,500 normal samples of which 1 % are twenty times larger, 4 bits, where its model of errors is weak": (
            "0.66 to 1.65 of the largest magnitude's squared error, seeds 0 to 4, and worse on one of them"
        ),
    },
    minutes=2.0,
)


def reproduce(lab: Lab) -> Trial:
    """Clip drawn samples by every rule at every width, and train two small nets at few bits."""
    import statistics

    ratios: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    over_max, high, with_top = [], [], []
    for name, x in samples(lab).items():
        for bits in WIDTHS:
            best = searched(x, bits)
            errors = {rule: error(x, s, bits) for rule, s in clips(x, bits).items()}
            for rule, value in errors.items():
                ratios.setdefault(rule, []).append(value / best)
            notes[f"{name}_{bits}_bits_over_grid"] = errors["octav"] / best
            notes[f"{name}_{bits}_bits_over_max"] = errors["octav"] / errors["max"]
            with_top.append(error(x, clips(x, bits)["octav"], bits, top=True) / searched(x, bits, top=True))
            if bits >= 4:
                high.append(errors["octav"] / best)
            if bits == 4:
                over_max.append(errors["octav"] / errors["max"])
    notes |= {f"mean_{rule}": statistics.fmean(values) for rule, values in ratios.items()}
    notes |= {"worst_over_max_4_bits": max(over_max), "worst_over_grid_4_bits_up": max(high)}
    notes["worst_over_grid_with_top"] = max(with_top)
    notes["spiky_over_max"] = spiky(lab)
    for observer, grad in (("octav", "mad"), ("octav", "ste"), ("max", "ste")):
        notes[f"trained_{observer}_{grad}"] = trained(lab, observer=observer, grad=grad)
    simple = min(value for rule, value in notes.items() if rule.startswith("mean_") and rule != "mean_octav")
    return Trial(simple, notes["mean_octav"], notes)


def samples(lab: Lab) -> dict[str, Tensor]:
    """Of each distribution, in float64."""
    import numpy as np
    import torch

    draw = np.random.default_rng([2206, 6501, lab.seed])
    size = lab.steps(SAMPLES, 2000)
    drawn = {"normal": draw.normal(size=size), "laplace": draw.laplace(size=size), "t3": draw.standard_t(3, size=size)}
    return {name: torch.from_numpy(values) for name, values in drawn.items()}


def clips(x: Tensor, bits: int) -> dict[str, Tensor]:
    """The clip value of every rule."""
    from tether.compression.quantise import octav_clip

    a = x.abs()
    found = {f"share_{share:g}": a.quantile(share) for share in SHARES}
    return found | {"octav": octav_clip(x, bits), "max": a.max(), "by_bits": a.quantile(SHARES_BY_BITS[bits])}


def error(x: Tensor, s: Tensor, bits: int, *, top: bool = False) -> float:
    """Mean squared error of rounding."""
    from tether.compression.quantise import round_to_levels

    return float((round_to_levels(x, s, bits, top=top) - x).square().mean())


def searched(x: Tensor, bits: int, *, top: bool = False) -> float:
    """The least error among evenly spaced clip values."""
    most = x.abs().max()
    return min(error(x, most * (place + 1) / GRID, bits, top=top) for place in range(GRID))


def spiky(lab: Lab) -> float:
    """The error over the largest magnitude's where 1 % of values are twenty times larger: above 1, a known failure."""
    import torch

    x = torch.randn(1500, generator=lab.generator("spiky"), dtype=torch.float64)
    x[:15] *= 20
    found = clips(x, 4)
    return error(x, found["octav"], 4) / error(x, found["max"], 4)


def trained(lab: Lab, *, observer: Literal["octav", "max"], grad: Literal["mad", "ste"]) -> float:
    """Held-out accuracy on scikit-learn's digits of a net whose weights have few bits, row by row, in training too."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn.utils import parametrize

    from tether.compression.quantise import FakeQuant

    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels)
    draw = lab.generator("digits")
    order = torch.randperm(len(x), generator=draw)
    train, test = order[:1200], order[1200:]
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=draw)
            nn.init.zeros_(layer.bias)
            quant = FakeQuant(TRAINED_BITS, dim=1, observer=observer, grad=grad)
            parametrize.register_parametrization(layer, "weight", quant)
    optimizer = torch.optim.Adam(net.parameters(), lr=RATE)
    for _ in range(lab.steps(STEPS, 3)):
        rows = train[torch.randint(0, len(train), (BATCH,), generator=draw)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((net.eval()(x[test]).argmax(1) == y[test]).float().mean())
