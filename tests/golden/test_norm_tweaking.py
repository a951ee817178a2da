"""Two layers rounded and tweaked by a third party's code, and its loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor, nn

from tether.methods.norm_tweaking import NormTweaker, distribution_loss

V = load("norm-tweaking")
HYPER, CLOSE = V.meta["hyper"], V.meta["tolerance"]


class GivenBlock(nn.Module):
    """The block of the figures."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.lin1, self.fc, self.pj = nn.Linear(dim, dim), nn.Linear(dim, ffn), nn.Linear(ffn, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.lin1(self.ln_1(x))
        return x + self.pj(F.gelu(self.fc(self.ln_2(x))))


def by_rows(block: nn.Module) -> None:
    for layer in block.modules():
        if isinstance(layer, nn.Linear):
            weight = layer.weight
            step = (weight.amax(1, keepdim=True) - weight.amin(1, keepdim=True)) / (2 ** HYPER["bits"] - 1)
            weight.copy_((weight / step).round() * step)


def start() -> nn.ModuleList:
    blocks = nn.ModuleList(GivenBlock(HYPER["dim"], HYPER["ffn"]) for _ in range(HYPER["layers"])).double()
    blocks.load_state_dict(
        {name[4:]: torch.from_numpy(value) for name, value in V.arrays.items() if name.startswith("w.h.")}
    )
    return blocks


def test_the_loss() -> None:
    f, q = torch.from_numpy(V["loss.f"]), torch.from_numpy(V["loss.q"])
    for name, pair in (("b2", (f, q)), ("b1", (f[:1], q[:1])), ("2d", (f[0], q[0]))):
        torch.testing.assert_close(distribution_loss(*pair), torch.tensor(V[f"loss.value_{name}"]), **CLOSE)


def test_every_weight_after_tweaking_and_what_goes_to_the_next_layer() -> None:
    blocks = start()
    seen: dict = {}
    tweaker = NormTweaker(by_rows, lr=HYPER["lr0"], lr_scale=HYPER["lr_scale"], iters=HYPER["iters"], passed="recorded")

    def call(block: nn.Module, x: Tensor, place: int) -> Tensor:
        layer = list(blocks).index(block)
        seen.setdefault(layer, {}).setdefault(place, x)
        out = block(x)
        seen.setdefault((layer, place), []).append(out.detach())
        return out

    found = tweaker.fit(list(blocks), list(torch.from_numpy(V["samples"])), call=call)
    assert [layer.after < layer.before for layer in found] == [True] * HYPER["layers"]
    for name, value in blocks.state_dict().items():
        torch.testing.assert_close(value, torch.from_numpy(V[f"final.h.{name}"]), **CLOSE)
    for layer in range(1, HYPER["layers"]):
        given = torch.stack([seen[layer][place] for place in range(HYPER["samples"])])
        torch.testing.assert_close(given, torch.from_numpy(V[f"layer{layer - 1}.next_inputs"]), **CLOSE)
    last = HYPER["layers"] - 1  # float, rounded, in the last pass, at the end
    given = torch.stack([seen[last, place][-2] for place in range(HYPER["samples"])])
    torch.testing.assert_close(given, torch.from_numpy(V[f"layer{last}.next_inputs"]), **CLOSE)
