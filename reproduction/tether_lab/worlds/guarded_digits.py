"""A small convolutional net of digits, made useless by a few weights, and what a thief makes of the copy."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.compression.protect import Obfuscator, Secret, accuracy, layer_weights
from tether.compression.protect.weights import ranges
from tether.methods.nnsplitter import fine_tune_attack, random_change
from tether_lab.lab.lab import Lab
from tether_lab.worlds.digits import digits

Batches = list[tuple[Tensor, Tensor]]
WIDTHS, VALIDATION = (16, 32, 80), 300
EPOCHS, BATCH, RATE = 12, 64, 3e-3
EPS, ROUNDS, EPOCHS_AT_MOST = 0.006, 20, 100
"""Distance from the mean weight; rounds of five choices, and epochs of each choice at most."""
SHARES, ATTACK_RATES, ATTACK_EPOCHS = (0.01, 0.05, 0.1), (3e-4, 1e-3, 3e-3), 30
DESCENT = 15
"""Epochs of the descent that may change weights anywhere."""
DRAWS = 10
"""Random changes of the same number."""


def net(seed: int) -> nn.Sequential:
    """Three convolutions with batch norm, pooled, and a linear map: some 28,600 weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, before = list[nn.Module](), 1
        for place, width in enumerate(WIDTHS):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if place < 2 else []
            before = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))


class GuardedBed:
    """One seed's net, its data in three parts, and the arms."""

    def __init__(self, lab: Lab) -> None:
        """Train the net on what is neither for deciding nor for testing."""
        data = digits(lab)
        order = torch.randperm(len(data.train), generator=lab.generator("validation"))
        self._lab = lab
        self._x, self._y = data.train[order[VALIDATION:]], data.labels[order[VALIDATION:]]
        self._train = batches(self._x, self._y, 128)
        self._val = batches(data.train[order[:VALIDATION]], data.labels[order[:VALIDATION]], 300)
        self._test = batches(data.test, data.test_labels, 400)
        self.model = net(lab.seed)
        self._learn(self.model, self._x, self._y, epochs=lab.steps(EPOCHS, 1))
        self.total = sum(value.numel() for value in layer_weights(self.model).values())

    def told(self, model: nn.Module) -> float:
        """Share of test digits that are told rightly."""
        return accuracy(model.eval(), self._test)

    def split(self, **settings: Any) -> tuple[nn.Module, Secret]:
        """The useless copy and its secret; settings of ``Obfuscator``."""
        steps = self._lab.steps
        given: dict[str, Any] = {"eps": EPS, "rounds": steps(ROUNDS, 1), "epochs": steps(EPOCHS_AT_MOST, 1)}
        given["seed"] = self._lab.seed
        return Obfuscator(self.model, **{**given, **settings}).fit(self._train, self._val)

    def at_random(self, count: int) -> list[float]:
        """Test accuracies after random changes of as many weights, within the same ranges."""
        draws = range(self._lab.steps(DRAWS, 1))
        return [self.told(random_change(self.model, count=count, seed=self._lab.seed * 100 + draw)) for draw in draws]

    def anywhere(self, count: int) -> float:
        """The same descent of as many weights wherever the gradient is largest: what being hard to find costs."""
        model = copy.deepcopy(self.model).eval()
        weights = layer_weights(model)
        bounds = ranges({name: value.detach().clone() for name, value in weights.items()}, "range")
        loss = torch.stack([F.cross_entropy(model(x), y) for x, y in self._train]).mean()
        grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        least = torch.cat([grad.abs().flatten() for grad in grads.values()]).topk(count).values[-1]
        masks = {name: grad.abs() >= least for name, grad in grads.items()}
        optimizer = torch.optim.Adam(list(weights.values()), lr=0.05)
        for _ in range(self._lab.steps(DESCENT, 1)):
            for x, y in self._train:
                found = torch.autograd.grad(-F.cross_entropy(model(x), y), list(weights.values()))
                for (name, value), grad in zip(weights.items(), found, strict=True):
                    value.grad = grad * masks[name]
                optimizer.step()
                with torch.no_grad():
                    for name, value in weights.items():
                        value.copy_(torch.where(masks[name], value.clamp(*bounds[name]), value))
        return self.told(model)

    def attacked(self, copy_: nn.Module, share: float) -> float:
        """Test accuracy of a thief with this share of the data, at the rate that is best for the thief."""
        x, y = self._some(share)
        epochs = self._lab.steps(ATTACK_EPOCHS, 1)
        return max(
            self.told(fine_tune_attack(copy_, batches(x, y, BATCH), lr=rate, epochs=epochs)) for rate in ATTACK_RATES
        )

    def from_nothing(self, share: float) -> float:
        """The same of a net that the thief draws, without the copy."""
        x, y = self._some(share)
        best = 0.0
        for rate in (RATE, 3 * RATE):
            model = net(self._lab.seed + 1000)
            self._learn(model, x, y, epochs=self._lab.steps(2 * ATTACK_EPOCHS, 1), rate=rate)
            best = max(best, self.told(model))
        return best

    def _some(self, share: float) -> tuple[Tensor, Tensor]:
        count = max(10, round(share * len(self._x)))
        rows = torch.randperm(len(self._x), generator=self._lab.generator("thief"))[:count]
        return self._x[rows], self._y[rows]

    def _learn(self, model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, rate: float = RATE) -> None:
        generator = self._lab.generator("order")
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):
                if len(rows) < 2:
                    continue
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.eval()


def batches(x: Tensor, y: Tensor, size: int) -> Batches:
    """In order."""
    return list(zip(x.split(size), y.split(size), strict=True))
