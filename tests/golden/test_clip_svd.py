"""CLIP-SVD against its released code: singular values, their gradients and steps on a small transformer, and ranks."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import nn

from tether.methods.clip_svd import SingularRows, singular_rank
from tether.models.features.parametrization import LinearPlace, merge_, replace
from tether.models.features.weights import fused, held

V = load("clip-svd")
HYPER = V.meta["hyper"]
RTOL = float(re.search(r"rtol ([\d.e-]+)", V.meta["tolerance"])[1])
PARTS = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.proj", "up": "mlp.0", "down": "mlp.2"}
FIRST = "0.attn.in_proj_weight"
PREFIX = next(name for name in V.arrays if name.endswith(f".{FIRST}")).removeprefix("sd/").removesuffix(FIRST)


class Block(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x):
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


@pytest.fixture
def toy():
    width, count = HYPER["width"], HYPER["layers"]
    hidden = len(V[f"sd/{PREFIX}0.mlp.0.bias"])
    blocks = nn.ModuleList(Block(width, HYPER["heads"], hidden) for _ in range(count)).double()
    blocks.load_state_dict(
        {name.removeprefix(f"sd/{PREFIX}"): torch.from_numpy(V[name]) for name in V.arrays if name.startswith("sd/")}
    )
    return blocks


def places(blocks):
    """Each linear map by the released name of its singular values."""
    found = {}
    for index, block in enumerate(blocks):
        attention = block.attn
        weights = fused(
            attention,
            dict.fromkeys("qkv", HYPER["width"]),
            weight="in_proj_weight",
            bias=held(attention, "in_proj_bias"),
        )
        layers = {"o": attention.out_proj, "up": block.mlp[0], "down": block.mlp[2]}
        for part, layer in layers.items():
            weights |= {part: fused(layer, {part: layer.out_features}, bias=held(layer, "bias"))[part]}
        for part, name in PARTS.items():
            tensor = f"{index}.{name}"
            found[f"{PREFIX}{tensor}.vector_S"] = LinearPlace(
                f"image.blocks.{index}.{part}", index, part, tensor, weights[part], HYPER["heads"]
            )
    return found


def official(place):
    """The released code drops values where a width is no multiple of 4."""
    full = min(place.weight.shape)
    if singular_rank(full, ratio=1.0, match_official=True) == full:
        return SingularRows(place.weight)
    return SingularRows(place.weight, ratio=1 - 1e-9, rest="dropped")


def run(blocks):
    x = torch.from_numpy(V["x"])
    for block in blocks:
        x = block(x)
    return x.mean(dim=0)


def close(actual, name):
    expected = V[name]
    atol = RTOL * float(np.abs(expected).max())
    np.testing.assert_allclose(actual.detach().numpy().reshape(expected.shape), expected, rtol=RTOL, atol=atol)


def test_steps_of_the_singular_values(toy):
    close(run(toy), "y_before")
    known = places(toy)
    rows = dict(zip(known, replace(list(known.values()), official), strict=True))
    for parameter in toy.parameters():
        parameter.requires_grad_(False)
    rows = {name: rows[name] for name in V["trainable"].tolist()}
    learning = [one.s.requires_grad_(True) for one in rows.values()]
    assert sum(one.numel() for one in learning) == V["n_trainable"]
    close(run(toy), "y_svd")
    optimizer = torch.optim.AdamW(learning, lr=HYPER["lr"], betas=(0.9, 0.999), weight_decay=HYPER["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HYPER["steps"], eta_min=1e-6)
    target, losses = torch.from_numpy(V["target"]), []
    for name, one in rows.items():
        close(one.s, f"s0/{name}")
    for step in range(HYPER["steps"]):
        loss = F.mse_loss(run(toy), target)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            for name, one in rows.items():
                close(one.s.grad, f"g0/{name}")
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
    close(torch.stack(losses), "losses")
    for name, one in rows.items():
        close(one.s, f"s1/{name}")
    close(run(toy), "y_after")
    merge_(toy)
    close(run(toy), "y_after")
    close(known[f"{PREFIX}0.attn.v_proj.vector_S"].weight, "eff_v0")
    close(known[f"{PREFIX}0.mlp.0.vector_S"].weight, "eff_mlp0")


@pytest.mark.parametrize(("ratio", "name"), [(1.0, "round_out"), (0.5, "round_out_half")])
def test_ranks(ratio, name):
    for full, kept in zip(V["round_in"].tolist(), V[name].tolist(), strict=True):
        assert singular_rank(full, ratio=ratio, match_official=True) == kept
        assert singular_rank(full, ratio=ratio) == (full if ratio == 1 else kept)
