"""The bias of clipped stochastic descent: where it settles, by simulation, and which clipping is free of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import Tensor

    from tether_lab.lab.lab import Lab

SIGMA, LIMITS, RATES = 1.0, (0.5, 1.0, 2.0, 4.0), (0.01, 0.003)
CHAINS, TIME, BATCH = 200, 50.0, 16  # a run of TIME / rate steps: 50 times the time in which the start is forgotten
STEEPEST_SKEW = 0.9
CLASSES, NOISY_SHARE, DIGITS_LIMIT, DIGITS_RATE, DIGITS_BATCH, DIGITS_STEPS = 10, 0.2, 1.0, 0.05, 32, 3000

CARD = Card.of(
    "clipped-sgd-bias",
    claim=Claim(
        says="With labels that are wrong to one side, a logistic regression ends with a full gradient ten times "
        "smaller if the mini-batch's gradient is clipped and not each sample's; in one dimension per-sample "
        "clipping stops at the derived distance whatever the step size.",
        metric="log10 of the length of the full gradient at the mean iterate",
        better="lower",
        margin=1.0,
        baseline=f"clipping each sample's gradient at the same limit of {DIGITS_LIMIT:g}",
        scale=f"8 x 8 digits, a fifth of the labels turned into one, {DIGITS_STEPS} steps of {DIGITS_RATE:g}, batches "
        f"of {DIGITS_BATCH}; the conditions: noise of two values, {CHAINS} chains, worst skew for each limit",
        equal="starting weights, batches, steps, step size and limit; only what is clipped differs",
        conditions=(
            Condition(
                says="In one dimension per-sample clipping stops within 5 % of the derived distance, at limits "
                f"{', '.join(map(str, LIMITS))} and step sizes {' and '.join(map(str, RATES))}.",
                ours="largest_deviation_from_floor",
                than=0.05,
                better="lower",
            ),
            Condition(
                says=f"So it does for the mean of {BATCH} samples, each clipped.",
                ours=f"per_sample_of_{BATCH}_deviation_from_floor",
                than=0.05,
                better="lower",
            ),
            Condition(
                says="For limits from the noise's deviation on the distance falls as one over the limit: exponent "
                "within 0.05.",
                ours="slope_off_minus_one",
                than=0.05,
                better="lower",
            ),
            Condition(
                says=f"Clipping the mean of {BATCH} leaves at most a tenth of the derived distance.",
                ours="largest_over_floor_batch",
                than=0.1,
                better="lower",
            ),
        ),
    ),
    differences=(
        "The instance is our own: a parabola with skewed two-point noise, for which the floor is known exactly.",
        "The floor min(sigma, sigma^2 / c) is given as an order of magnitude; the paper's constants are not.",
        "The paper's experiments on LIBSVM data are not repeated; a logistic regression on digits stands in.",
    ),
    tried={
        (
            "the distance over the derived one, per-sample against mini-batch clipping, as the claim instead of as "
            "conditions: it follows from the definition"
        ): "0.980 or more against 0.006 or less, seeds 0 to 2",
        "the digits as notes; they became the claim, and its margin 1.0, when seeds 0 to 2 of them were known": (
            "a full gradient of 0.744 against 0.038, seeds 0 to 2; seeds 5 to 7 are fresh"
        ),
    },
    minutes=0.6,
)


def reproduce(lab: Lab) -> Trial:
    """Let many chains settle under each clipping, and look at a logistic regression with one-sided label noise."""
    import torch

    from tether.methods.clipped_sgd_bias.clipping_bias import two_point_floor

    floors = torch.tensor([two_point_floor(SIGMA, c=c, u=worst_skew(c)) for c in LIMITS], dtype=torch.float64)
    notes: dict[str, float] = {}
    sample = {rate: settled(lab, "sample", rate=rate) for rate in RATES}
    ratios = torch.stack(list(sample.values())) / floors
    notes["largest_deviation_from_floor"] = float((ratios - 1).abs().max())
    notes["slope_off_minus_one"] = max(abs(slope(distances) + 1) for distances in sample.values())
    notes["largest_without_clipping"] = max(float(settled(lab, "none", rate=rate).max()) for rate in RATES)
    batch = settled(lab, "batch", rate=RATES[0], batch=BATCH)
    per_sample = settled(lab, "sample", rate=RATES[0], batch=BATCH)
    notes[f"per_sample_of_{BATCH}_deviation_from_floor"] = float((per_sample / floors - 1).abs().max())
    for c, distance in zip(LIMITS, sample[RATES[0]].tolist(), strict=True):
        notes[f"distance_at_c_{c:g}"] = distance
    notes["largest_over_floor_batch"] = float((batch / floors).max())
    notes.update(logistic_regression(lab))
    lengths = (notes[f"digits_full_gradient_{mode}"] for mode in ("sample", "batch"))
    return Trial(*map(math.log10, lengths), notes=notes)


def worst_skew(c: float) -> float:
    """The skew that puts the floor highest."""
    return min(STEEPEST_SKEW, SIGMA / (2 * c))


def settled(lab: Lab, mode: str, *, rate: float, batch: int = 1) -> Tensor:
    """Distance of the mean iterate from zero at each limit, over all chains and the last half of the run."""
    import torch

    from tether.methods.clipped_sgd_bias.clipping_bias import clipped_sgd

    skews = torch.tensor([worst_skew(c) for c in LIMITS], dtype=torch.float64).view(-1, 1, 1)
    limits = torch.tensor(LIMITS, dtype=torch.float64).view(-1, 1, 1)
    points = clipped_sgd(
        lambda x: x,
        x0=torch.zeros(len(LIMITS), CHAINS, 1, dtype=torch.float64),
        noise=two_point_noise(
            skews,
            batch=batch,
            steps=lab.steps(round(TIME / rate), 4),
            generator=lab.generator(f"{mode} {rate} {batch}"),
        ),
        lr=rate,
        c=limits,
        mode=mode,  # pyrefly: ignore - a word of ClipMode
    )
    return points[len(points) // 2 :].mean(dim=(0, 2, 3)).abs()


def two_point_noise(skews: Tensor, *, batch: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Noise of mean 0 and deviation SIGMA for each step, sample, limit and chain."""
    import torch

    rare = (skews.square() / (1 + skews.square())).float()
    for _ in range(steps):
        draws = torch.rand(batch, len(skews), CHAINS, 1, generator=generator)
        yield torch.where(draws < rare, -SIGMA / skews, SIGMA * skews)


def slope(distances: Tensor) -> float:
    """Of the logarithm of the distance over that of the limit, for limits of at least the noise's deviation."""
    import numpy as np

    chosen = [
        (math.log(c), math.log(max(float(d), 1e-12))) for c, d in zip(LIMITS, distances, strict=True) if c >= SIGMA
    ]
    return float(np.polyfit(*zip(*chosen, strict=True), deg=1)[0])


def logistic_regression(lab: Lab) -> dict[str, float]:
    """Length of the full gradient at the mean iterate, where a fifth of all labels but one were turned into that one.

    Beside it the accuracy of the mean iterate on held-out digits with their true labels.

    The noise of the labels is one-sided, so single gradients are skewed. Limit, step size and batches are the same.
    """
    import torch
    import torch.nn.functional as F

    from tether_lab.worlds.digits import digits

    data = digits(lab)
    rows, held_out = (
        torch.cat([images.flatten(1), torch.ones(len(images), 1)], dim=1).double() for images in (data.train, data.test)
    )
    turned = torch.rand(len(rows), generator=lab.generator("labels")) < NOISY_SHARE
    targets = F.one_hot(torch.where(turned, 0, data.labels), CLASSES).double()

    def errors(weights: Tensor, of: Tensor) -> Tensor:
        return (rows[of] @ weights).softmax(dim=1) - targets[of]

    found, steps = {}, lab.steps(DIGITS_STEPS, 4)
    for mode in ("sample", "batch", "none"):
        weights, mean = torch.zeros(rows.shape[1], CLASSES, dtype=torch.float64), 0.0
        draw = lab.generator("batches")
        clipped = 0
        for step in range(steps):
            chosen = torch.randint(len(rows), (DIGITS_BATCH,), generator=draw)
            wrong = errors(weights, chosen)
            if mode == "sample":  # a sample's gradient is the outer product of its row and its error
                lengths = rows[chosen].norm(dim=1) * wrong.norm(dim=1)
                clipped += int((lengths > DIGITS_LIMIT).sum())
                wrong = wrong * (DIGITS_LIMIT / lengths).clamp(max=1)[:, None]
            gradient = rows[chosen].T @ wrong / DIGITS_BATCH
            if mode == "batch":
                clipped += int(gradient.norm() > DIGITS_LIMIT)
                gradient = gradient * (DIGITS_LIMIT / gradient.norm()).clamp(max=1)
            weights = weights - DIGITS_RATE * gradient
            if step >= steps // 2:
                mean = mean + weights / (steps - steps // 2)
        full = rows.T @ errors(torch.as_tensor(mean), torch.arange(len(rows))) / len(rows)
        found[f"digits_full_gradient_{mode}"] = float(full.norm())
        guesses = (held_out @ torch.as_tensor(mean)).argmax(dim=1)
        found[f"digits_accuracy_{mode}"] = float((guesses == data.test_labels).double().mean())
        if mode != "none":
            found[f"digits_clipped_{mode}"] = clipped / (steps * (DIGITS_BATCH if mode == "sample" else 1))
    return found
