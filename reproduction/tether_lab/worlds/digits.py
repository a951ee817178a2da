"""Handwritten digits of 8 x 8 for checks that take seconds: the images, and a short run of a residual network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.protocols import GradClipper
from tether.methods.nfnet_agc.nf_resnet import NFBlock, NFResNet
from tether.methods.nfnet_agc.scaled_std_conv import ScaledStdConv2d
from tether.optim import SGD
from tether_lab.lab.lab import Lab
from tether_lab.worlds.pairs import load_pairs

WIDTHS, DEPTHS = (24, 24, 24), (2, 2, 2)
BATCH, EPOCHS, MOMENTUM = 256, 12, 0.9


@dataclass(frozen=True, slots=True)
class Digits:
    """Standardised grey images with labels 0 to 9.

    Attributes:
        train: (n, 1, 8, 8) images to learn from, of mean 0 and deviation 1.
        labels: (n,) of them.
        test: (m, 1, 8, 8) held out.
        test_labels: (m,) of them.
    """

    train: Float[Tensor, "n 1 8 8"]
    labels: Int[Tensor, " n"]
    test: Float[Tensor, "m 1 8 8"]
    test_labels: Int[Tensor, " m"]


def digits(lab: Lab) -> Digits:
    """The digits of ``digits:split=train`` and ``validation`` to learn from, those of ``test`` held out."""
    images, labels = [], []
    for split in ("train", "validation", "test"):
        pairs = load_pairs(f"digits:split={split},size=8", size=8)
        images.append(255.0 - pairs.pixels[:, :1].float())
        labels.append(torch.tensor([int(str(meta["label"])) for meta in pairs.meta]))
    train = torch.cat(images[:2])
    mean, deviation = train.mean(), train.std()
    return Digits((train - mean) / deviation, torch.cat(labels[:2]), (images[2] - mean) / deviation, labels[2])


def network(*, seed: int, gain: float = 0.0) -> NFResNet:
    """Six blocks of width 24 without normalisation, whose branches' gains start at ``gain``."""
    model = NFResNet(1, classes=10, widths=WIDTHS, depths=DEPTHS, stem="pixel", seed=seed)
    for block in model.blocks:
        nn.init.constant_(block.get_parameter("skip_gain"), gain)
    return model


def with_batch_norm(model: nn.Module) -> nn.Module:
    """The same network with plain filters, batch normalisation and branches at full strength."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ScaledStdConv2d):
                outputs, inputs, height, _ = child.weight.shape
                plain = nn.Conv2d(inputs, outputs, height, stride=child.stride, padding=height // 2, bias=False)
                setattr(module, name, nn.Sequential(plain, nn.BatchNorm2d(outputs)))
        if isinstance(module, NFBlock):
            module.alpha = module.beta = 1.0
            nn.init.ones_(module.skip_gain)
    return model


def train(
    model: nn.Module, clipper: GradClipper, *, data: Digits, lr: float, generator: torch.Generator, epochs: int = EPOCHS
) -> float:
    """Descend with Nesterov momentum at a constant rate from the first step on, and give the test accuracy.

    Args:
        model: (b, 1, 8, 8) images to (b, 10) logits; trained in place.
        clipper: bounds the gradients.
        data: the digits.
        lr: learning rate.
        generator: of the order of the images.
        epochs: passes over the images; a last incomplete batch is left out of each.

    Returns:
        Share of held-out digits that are told rightly; a network whose numbers are not finite is left guessing.
    """
    optimizer = SGD(list(model.parameters()), lr=lr, momentum=MOMENTUM)
    step = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(data.train), generator=generator).split(BATCH):
            if len(rows) < BATCH:
                continue
            loss = F.cross_entropy(model(data.train[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            report = clipper.clip_(model.named_parameters(), step=step)
            if not report.skip:
                optimizer.step()
            step += 1
    model.eval()
    with torch.no_grad():
        logits = model(data.test)
    return float((logits.argmax(dim=1) == data.test_labels).float().mean())
