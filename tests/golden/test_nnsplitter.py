"""Masks, collapsed weights and the weights after the descent, by official code."""

from __future__ import annotations

import torch
from loading import load
from torch import Tensor, nn

from tether.compression.protect import Obfuscator, layer_weights, near_masks

V = load("nnsplitter")
HYPER, CLOSE = V.meta["hyper"], V.meta["tolerance"]


class Net(nn.Module):
    """As the vectors name it: two convolutions, a batch norm and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        first, second, last = (V[f"w.{name}.weight"] for name in ("c1", "c2", "f"))
        self.c1 = nn.Conv2d(first.shape[1], len(first), first.shape[2], padding=first.shape[2] // 2)
        self.b = nn.BatchNorm2d(len(first))
        self.c2 = nn.Conv2d(second.shape[1], len(second), second.shape[2], padding=second.shape[2] // 2)
        self.f = nn.Linear(last.shape[1], len(last))
        self.load_state_dict(state("w"))

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.c2(self.b(self.c1(x)).relu()).relu().mean((2, 3)))


def state(kind: str) -> dict[str, Tensor]:
    found = {name.removeprefix(f"{kind}."): value for name, value in V.arrays.items() if name.startswith(f"{kind}.")}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def test_masks_and_collapsed_weights() -> None:
    model = Net()
    weights = layer_weights(model)
    masks = near_masks(weights, HYPER["filters"], c=HYPER["c"], eps=HYPER["eps"])
    assert [int(mask.sum()) for mask in masks.values()] == V["layer_modi"].tolist()
    for name, expected in state("mask").items():
        mask = masks.get(name)
        assert torch.equal(torch.zeros_like(expected) if mask is None else mask.to(expected), expected), name
    for name, mask in masks.items():
        found = weights[name].detach().masked_fill(mask, HYPER["c"])
        assert torch.equal(found, state("collapsed")[name]), name


def test_weights_after_the_descent() -> None:
    x, y = torch.from_numpy(V["x"]), torch.from_numpy(V["y"])
    batches = list(zip(x.chunk(2), y.chunk(2), strict=True))
    model = Net()
    obfuscator = Obfuscator(
        model,
        c=HYPER["c"],
        eps=HYPER["eps"],
        lam=float(HYPER["lambda_l1"]),
        clamp=tuple(HYPER["clamp"]),
        penalty="weights",
        lr=HYPER["adam_lr"],
        epochs=HYPER["epochs"],
        patience=HYPER["epochs"] + 1,  # the figures are those after all epochs
        filters=HYPER["filters"],
        keep="last",
    )
    broken, secret = obfuscator.fit(batches)
    for name, expected in state("final").items():
        torch.testing.assert_close(broken.state_dict()[name], expected, **CLOSE)
    assert obfuscator.found is not None
    assert min(obfuscator.found.accuracies) == V["best_acc"]
    for name, value in secret.restore(broken).state_dict().items():
        assert torch.equal(value, state("w")[name]), name
