"""Attention-based selection against lines of the release: every case of the file, at its tolerance, boxes exactly."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.abs.attention_boxes import patch_boxes, top_patches
from tether.methods.abs.soft_match import soft_match
from tether.methods.abs.token_crops import feature_crops

V = load("abs")
HYPER = V.meta["hyper"]
LIMIT = float(re.search(r"rtol\s+([\d.e+-]+)", str(V.meta["tolerance"]))[1])  # pyrefly: ignore


def cases(last: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "prefix", sorted(name.removesuffix(last) for name in V.arrays if name.endswith(last))
    )


def hyper(prefix: str, name: str):
    own = HYPER.get(prefix.rstrip("_/."), HYPER)
    return own.get(name, HYPER.get(name)) if isinstance(own, dict) else HYPER[name]


def given(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def close(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.numpy(), V[name], rtol=LIMIT, atol=LIMIT)


@cases("soft_logits")
def test_soft_matching(prefix: str) -> None:
    views, texts = given(f"{prefix}crop_embeds"), given(f"{prefix}class_desc")
    tau = hyper(prefix, "temperature_soft")
    close(soft_match(views, descriptions=texts, tau=tau), f"{prefix}soft_logits")
    room = torch.cat([texts, texts.new_full((len(texts), 2, texts.shape[2]), torch.nan)], dim=1)
    there = torch.arange(room.shape[1]).expand(len(texts), -1) < texts.shape[1]
    close(soft_match(views, descriptions=room, mask=there, tau=tau), f"{prefix}soft_logits")


@cases("topk_indices")
def test_patches(prefix: str) -> None:
    top_k, tau = hyper(prefix, "top_k"), hyper(prefix, "temperature_sample")
    indices, chances = top_patches(given(f"{prefix}attention"), top_k=top_k, tau=tau)
    assert torch.equal(indices, given(f"{prefix}topk_indices"))
    close(chances, f"{prefix}topk_probs")


@cases("boxes")
def test_boxes(prefix: str) -> None:
    width, height = hyper(prefix, "image")
    side = hyper(prefix, "grid")
    sizes = given(f"{prefix}crop_w_h")
    ours = patch_boxes(given(f"{prefix}sampled"), sizes=sizes, grid=(side, side), size=(height, width))
    assert torch.equal(ours, given(f"{prefix}boxes"))


@cases("feat_crops")
def test_feature_crops(prefix: str) -> None:
    tokens = given(f"{prefix}feat_tokens")[0]
    crops = feature_crops(tokens, centres=given(f"{prefix}feat_centers"), sizes=given(f"{prefix}feat_sizes"))
    close(torch.cat([tokens[None], crops]), f"{prefix}feat_crops")


def test_there_are_cases() -> None:
    V.need("soft_logits", "topk_indices", "boxes", "feat_crops")
