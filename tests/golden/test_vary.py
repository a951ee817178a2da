"""The vocabulary, the merge and the loss against official figures: every case of the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.tasks.read import ChannelMerge, splice
from tether.tasks.read.vision_lm import shifted_cross_entropy

V = load("vary")
RTOL = float(str(V.meta["tolerance"]).split()[-1])
CASES = sorted(name.removesuffix("input_ids") for name in V.arrays if name.endswith("input_ids"))
START, END = 3, 4


def array(name: str) -> Tensor:
    found = torch.from_numpy(V[name].copy())
    return found.double() if found.is_floating_point() else found


def sizes(prefix: str) -> dict[str, Any]:
    hyper = V.meta["hyper"]
    return hyper.get(prefix.strip("/"), hyper) if prefix else hyper


def close(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), V[name], rtol=RTOL, atol=RTOL * 1e-2)


def vocabulary(prefix: str) -> VisionVocabulary:
    hyper = sizes(prefix)
    net = VisionVocabulary(
        image_size=hyper["image"],
        patch=hyper["patch"],
        width=hyper["embed"],
        depth=hyper["depth"],
        heads=hyper["heads"],
        mlp_ratio=float(hyper["mlp_ratio"]),
        window=hyper["window"],
        global_blocks=hyper["global_blocks"],
        channels=hyper["channels"],
    ).double()
    start = f"{prefix}net/"
    net.load_state_dict({name.removeprefix(start): array(name) for name in V.arrays if name.startswith(start)})
    return net


def merged(prefix: str, tokens: Tensor) -> Tensor:
    maps = {
        side: (array(f"{prefix}proj_{side}/weight"), array(f"{prefix}proj_{side}/bias")) for side in ("clip", "vocab")
    }
    merge = ChannelMerge(maps["clip"][0].shape[1], maps["vocab"][0].shape[1], lm_dim=sizes(prefix)["lm_dim"]).double()
    merge.load_state_dict(
        {
            "clip.weight": maps["clip"][0],
            "clip.bias": maps["clip"][1],
            "vocabulary.weight": maps["vocab"][0],
            "vocabulary.bias": maps["vocab"][1],
        }
    )
    image = merge(array(f"{prefix}clip_hidden")[:, 1:], tokens)
    return splice(array(f"{prefix}token_embeds"), array(f"{prefix}input_ids"), image, start=START, end=END)


@pytest.mark.parametrize("prefix", CASES)
def test_case(prefix: str) -> None:
    net = vocabulary(prefix)
    features = net.features(array(f"{prefix}image"))
    close(features, f"{prefix}features")
    tokens = net(array(f"{prefix}image"))
    close(tokens, f"{prefix}tokens")
    rows = merged(prefix, tokens)
    close(rows, f"{prefix}merged")
    logits = rows @ array(f"{prefix}head").T
    close(logits, f"{prefix}logits")
    loss = shifted_cross_entropy(logits, array(f"{prefix}labels"))
    close(loss, f"{prefix}loss")
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("prefix", CASES)
def test_text_alone(prefix: str) -> None:
    """A text without an image stays as it is, and what it is not shown has a gradient of 0, not none."""
    ids, words = array(f"{prefix}input_ids"), array(f"{prefix}token_embeds")
    ids = torch.where((ids == START) | (ids == END), 5, ids)
    shown = torch.randn(len(ids), 4, words.shape[2], dtype=torch.float64, requires_grad=True)
    rows = splice(words, ids, shown, start=START, end=END)
    assert torch.equal(rows, words)
    rows.sum().backward()
    assert shown.grad is not None
    assert not shown.grad.any()
