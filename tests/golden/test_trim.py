"""Scores, counts, kept places and tokens of the official function."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from loading import load
from torch import Tensor

from tether.methods.trim import Trimmed, trim_tokens

V = load("trim")
CLOSE = V.meta["tolerance"]
H, TEXT = torch.from_numpy(V["tokens"]), torch.from_numpy(V["text"])


def trimmed(**settings) -> Trimmed:
    norm = partial(
        F.layer_norm,
        normalized_shape=(H.shape[-1],),
        weight=torch.from_numpy(V["ln_w"]),
        bias=torch.from_numpy(V["ln_b"]),
        eps=V.meta["ln_eps"],
    )
    project = partial(F.linear, weight=torch.from_numpy(V["proj"]))
    official = {"sign": -1, "normalize": False, "per_image": False}
    return trim_tokens(H, TEXT, proj=project, post_norm=norm, **{**official, **settings})


def test_scores_as_released_and_by_cosine() -> None:
    torch.testing.assert_close(trimmed().scores, torch.from_numpy(V["score"]), **CLOSE)
    torch.testing.assert_close(torch.from_numpy(-V["raw_dot"]).softmax(1), trimmed().scores, **CLOSE)
    cosine = torch.from_numpy(V["cosine"])
    torch.testing.assert_close(trimmed(sign=1, normalize=True).scores, cosine.softmax(1), **CLOSE)


@pytest.mark.parametrize("case", range(len(V.meta["cases"])))
def test_kept_places_and_tokens(case: int) -> None:
    said = V.meta["cases"][case]
    found = trimmed(ratio="auto" if said["k"] == -1 else said["k"])
    assert found.tokens.shape[1] == said["n_out"]
    assert torch.equal(found.index, torch.from_numpy(V[f"c{case}.kept"]))
    torch.testing.assert_close(found.tokens, torch.from_numpy(V[f"c{case}.out"]).to(H), **CLOSE)
    assert bool(found.mask.all())


def test_counts_of_each_image_by_the_same_rule() -> None:
    scores = trimmed().scores
    rows = [torch.quantile(row, torch.tensor([0.25, 0.75], dtype=row.dtype)) for row in scores]
    alone: list[Tensor] = [(row > q[1] + 1.5 * (q[1] - q[0])).sum() for row, q in zip(scores, rows, strict=True)]
    found = trimmed(per_image=True)
    assert found.mask.sum(1).tolist() == [int(count) + 1 for count in alone]
    assert found.mask.sum(1).tolist() == [int(count) + 1 for count in V["iqr_keep_per_row"]]
