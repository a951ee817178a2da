"""Handwritten digits with wrong labels and a net large enough to learn them by heart: the bench of robust losses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

CLASSES, WIDTH, BATCH, MOMENTUM = 10, 256, 64, 0.9
TRAINED_SHARE = 0.6
LAST_EPOCHS = 10
"""Accuracy is averaged over these."""

NoisyLoss = Callable[[Tensor, Tensor, int], Tensor]
"""Logits (b, 10), labels (b,) and the epoch from 0 to a scalar loss."""


@dataclass(frozen=True, slots=True)
class NoisyDigits:
    """One split with its noise.

    Attributes:
        train: (n, 64) images in [0, 1].
        labels: (n,) what they are trained with.
        truth: (n,) what they show.
        test: (m, 64) images in [0, 1].
        test_truth: (m,) what those show.
    """

    train: Float[Tensor, "n 64"]
    labels: Int[Tensor, " n"]
    truth: Int[Tensor, " n"]
    test: Float[Tensor, "m 64"]
    test_truth: Int[Tensor, " m"]


@dataclass(frozen=True, slots=True)
class DigitsRun:
    """One training run.

    Attributes:
        accuracy: on clean held-out digits, mean of the last ten epochs.
        best: on the same, in the best epoch.
        memorised: share of the wrong training labels that the net gives back in the end; 0 without noise.
    """

    accuracy: float
    best: float
    memorised: float


@functools.cache
def _images() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels).long()


def noisy_digits(*, seed: int, noise: float) -> NoisyDigits:
    """Split the 1,797 digits 60 to 40 and give a share of the training images another label, each equally likely.

    Args:
        seed: of split and noise.
        noise: share of the training labels that are replaced, rounded to a whole number of images.
    """
    pixels, truth = _images()
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=draw)
    train, test = order.split([round(TRAINED_SHARE * len(order)), len(order) - round(TRAINED_SHARE * len(order))])
    labels = truth[train].clone()
    wrong = torch.randperm(len(train), generator=draw)[: round(noise * len(train))]
    labels[wrong] = (labels[wrong] + torch.randint(1, CLASSES, (len(wrong),), generator=draw)) % CLASSES
    return NoisyDigits(pixels[train], labels, truth[train], pixels[test], truth[test])


def train(
    loss: NoisyLoss,
    *,
    seed: int,
    noise: float,
    epochs: int,
    learning_rate: float,
) -> DigitsRun:
    """Train one net 64-256-256-10 by plain SGD with momentum; equal seeds see the same noise, weights and batches.

    Args:
        loss: what is minimised.
        seed: of everything random.
        noise: share of wrong training labels.
        epochs: passes over the training images.
        learning_rate: constant.
    """
    digits = noisy_digits(seed=seed, noise=noise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES)
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=MOMENTUM)
    draw = torch.Generator().manual_seed(seed)
    scores: list[float] = []
    for epoch in range(epochs):
        for rows in torch.randperm(len(digits.labels), generator=draw).split(BATCH):
            optimizer.zero_grad()
            loss(model(digits.train[rows]), digits.labels[rows], epoch).backward()
            optimizer.step()
        with torch.no_grad():
            right = model(digits.test).argmax(dim=1) == digits.test_truth
            scores.append(float(right.float().mean()))
    wrong = digits.labels != digits.truth
    with torch.no_grad():
        given = model(digits.train[wrong]).argmax(dim=1)
    last = scores[-LAST_EPOCHS:]
    return DigitsRun(
        accuracy=sum(last) / len(last),
        best=max(scores),
        memorised=float((given == digits.labels[wrong]).float().sum() / max(1, int(wrong.sum()))),
    )
