"""Which tokens A-CLIP's released code keeps."""

from __future__ import annotations

import re

import pytest
import torch
from loading import load
from torch import Tensor

from tether.models.patch_attention import attentive_scores, map_scores
from tether.models.tokens import AttentiveTokens, best_tokens, removed_tokens, take_tokens

V = load("a-clip")
RATIOS = sorted(match[1] for name in V.arrays if (match := re.fullmatch(r"mask_removed_r(\d+)", name)))


def at(name: str) -> Tensor:
    return torch.from_numpy(V[name])


def close(found: Tensor, expected: Tensor) -> None:
    kind = str(expected.dtype).removeprefix("torch.")
    torch.testing.assert_close(found, expected, rtol=0, atol=V.meta["tolerance"][kind])


def side(scores: Tensor) -> int:
    return round(scores.shape[1] ** 0.5)


def test_scores() -> None:
    close(attentive_scores(at("attn_layers")[:, :, :, 0].movedim(0, 1)), at("attn_score"))


@pytest.mark.parametrize("ratio", RATIOS)
def test_kept_cells(ratio: str) -> None:
    scores = at("mask_scores")
    keep = AttentiveTokens(keep=int(ratio) / 100)(scores, grid=(side(scores), side(scores)))
    assert torch.equal(removed_tokens(keep, tokens=scores.shape[1]), at(f"mask_removed_r{ratio}"))


def test_scores_of_another_view() -> None:
    scores, (view, reference) = at("map_scores"), (at(f"map_{name}_tlhw") for name in ("view", "ref"))
    grid = (side(scores), side(scores))
    close(map_scores(scores, view=view, reference=reference, grid=grid), at("map_out"))


def test_kept_tokens() -> None:
    x, removed = at("select_x"), at("select_removed")
    prefix = x.shape[1] - removed.shape[1]
    keep = best_tokens(removed.double(), count=int((~removed[0]).sum()), end="smallest")
    expected = at("select_out")
    close(take_tokens(x, keep, prefix=prefix)[:, -expected.shape[1] :], expected)
