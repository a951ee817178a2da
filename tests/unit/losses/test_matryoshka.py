"""Matryoshka beside sentence-transformers, around other objectives, and what it refuses."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features, Loss
from tether.losses import (
    OBJECTIVES,
    MatryoshkaLoss,
    PartialWidthWarning,
    clip_loss,
    matryoshka_loss,
    siglip_loss,
    truncate,
)
from tether.methods.m2_mix import M2MixLoss
from tether.methods.tripletclip import NegClipLoss

WIDTH = 16


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoded(*sides: Tensor) -> Encoded:
    image, text, *negative = (Features(rows) for rows in sides)
    scale, bias = torch.tensor(10.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)
    return Encoded(image, text, scale, bias, negative_text=negative[0] if negative else None)


def batch_of(count: int) -> Batch:
    return Batch(torch.zeros(count, 3, 1, 1), torch.arange(1, count + 1)[:, None])


class Passing(nn.Module):
    """A sentence encoder whose embeddings are what it is given."""

    def get_embedding_dimension(self) -> int:
        return WIDTH

    _get_untruncated_embedding_dimension = get_embedding_dimension

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(features)


class PeerRanking(nn.Module):
    """Multiple negatives ranking with K negatives a row, on a model's outputs: what the peer wraps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        anchor, *candidates = (self.model(each)["sentence_embedding"] for each in features)
        logits = 20.0 * anchor @ torch.cat(candidates).T
        return nn.functional.cross_entropy(logits, torch.arange(len(anchor)))


@pytest.mark.parametrize("negatives", [0, 2])
def test_equals_sentence_transformers(negatives: int) -> None:
    from sentence_transformers.sentence_transformer import losses

    dims, weights = (2, 4, 8, 16), (0.5, 1.0, 2.0, 1.0)
    model: Any = Passing()
    peer = losses.MatryoshkaLoss(model, PeerRanking(model), list(dims), list(weights))
    sides = [normal(6, WIDTH, seed=seed).requires_grad_() for seed in range(2 + negatives)]
    theirs = peer([{"sentence_embedding": side} for side in sides], torch.empty(0))
    loss = partial(clip_loss, logit_scale=20.0, directions="image_to_text")
    others = {"extra_txt": torch.cat(sides[2:])} if negatives else {}
    mine = matryoshka_loss(loss, *sides[:2], dims=dims, weights=weights, **others)
    torch.testing.assert_close(mine.total, theirs, rtol=1e-6, atol=1e-6)
    for first, second in zip(torch.autograd.grad(mine.total, sides), torch.autograd.grad(theirs, sides), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)


def test_siglip_inside_has_its_bias_at_every_width() -> None:
    x, y = normal(5, WIDTH), normal(5, WIDTH, seed=1)
    loss = MatryoshkaLoss(of="siglip", dims=(4, WIDTH), reduce="mean")(encoded(x, y), batch_of(5), gather=LOCAL)
    each = [siglip_loss(truncate(x, dim=dim), truncate(y, dim=dim), 10.0, -4.0) for dim in (4, WIDTH)]
    torch.testing.assert_close(loss.total, torch.stack(each).mean())
    assert float(loss.terms["logit_bias"]) == -4.0


def test_negatives_of_the_batch_are_cut_too() -> None:
    sides = [normal(5, WIDTH, seed=seed) for seed in range(3)]
    loss = MatryoshkaLoss(of="neg_clip", dims=(3, WIDTH))(encoded(*sides), batch_of(5), gather=LOCAL)
    parts = [NegClipLoss()(encoded(*(s[:, :dim] for s in sides)), batch_of(5), gather=LOCAL) for dim in (3, WIDTH)]
    torch.testing.assert_close(loss.total, parts[0].total + parts[1].total)


def test_tokens_in_the_joint_space_are_cut_and_others_are_not() -> None:
    seen: list[tuple[int, ...]] = []

    class Watcher:
        def __call__(self, out: Encoded, batch: Batch, *, gather: Any) -> Loss:
            assert out.image.tokens is not None
            assert out.text.tokens is not None
            seen.append((out.image.pooled.shape[1], out.image.tokens.shape[2], out.text.tokens.shape[2]))
            return Loss(out.image.pooled.sum())

    x = normal(5, WIDTH)
    out = Encoded(Features(x, normal(5, 3, WIDTH)), Features(x, normal(5, 3, 7)), torch.tensor(1.0))
    MatryoshkaLoss(of=Watcher(), dims=(4, WIDTH))(out, batch_of(5), gather=LOCAL)
    assert seen == [(WIDTH, WIDTH, 7), (4, 4, 7)]


def test_a_step_draws_widths_and_keeps_the_widest() -> None:
    objective = MatryoshkaLoss(dims=(2, 4, 8, 12, WIDTH), weights=(1, 2, 3, 4, 5), dims_per_step=2)
    drawn = [objective.drawn(draw).widths(WIDTH) for draw in range(40)]
    assert all(next(iter(widths)) == WIDTH and len(widths) == 2 for widths in drawn)
    assert {dim for widths in drawn for dim in widths} == {2, 4, 8, 12, WIDTH}
    assert all(widths.get(4, 2.0) == 2.0 and widths[WIDTH] == 5.0 for widths in drawn)
    assert objective.drawn(7).widths(WIDTH) == objective.drawn(7).widths(WIDTH)
    loss = objective.drawn(3)(encoded(normal(5, WIDTH), normal(5, WIDTH, seed=1)), batch_of(5), gather=LOCAL)
    assert sum(name.startswith("width_") for name in loss.terms) == 2


def test_what_the_objective_inside_draws_and_schedules_goes_on() -> None:
    inner = M2MixLoss(m2=1.0, tau1=None, epochs=4)
    outer = MatryoshkaLoss(of=inner, dims=(WIDTH,))
    out, batch = encoded(normal(5, WIDTH), normal(5, WIDTH, seed=1)), batch_of(5)
    mine = outer.at(0.6).drawn(11)(out, batch, gather=LOCAL).total
    assert mine == inner.at(0.6).drawn(11)(out, batch, gather=LOCAL).total
    assert mine != outer(out, batch, gather=LOCAL).total


def test_without_widths_it_halves() -> None:
    assert list(MatryoshkaLoss().widths(128)) == [128, 64, 32, 16]
    assert list(MatryoshkaLoss().widths(3)) == [3, 1]


def test_warns_where_the_widest_is_not_the_whole() -> None:
    with pytest.warns(PartialWidthWarning, match="has 8 of 16 numbers"):
        assert list(MatryoshkaLoss(dims=(4, 8)).widths(WIDTH)) == [8, 4]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dims": [8, 4]}, "expected widths that rise, got \\[8, 4\\]"),
        ({"dims": [4, 4]}, "expected widths that rise"),
        ({"dims": []}, "dims"),
        ({"dims": [0, 4]}, "dims"),
        ({"dims": [2, 4], "weights": [1.0]}, "expected one for each of 2 widths, got 1"),
        ({"dims": [2, 4], "weights": [1.0, -1.0]}, "weights"),
        ({"weights": [1.0]}, "expected dims beside them"),
        ({"dims": [2, 4], "dims_per_step": 3}, "expected at most 2, got 3"),
        ({"of": "matryoshka"}, "expected another objective, got matryoshka itself"),
        ({"of": {"name": "clip", "smoothing": 1}}, "unknown key 'smoothing'"),
        ({"reduce": "max"}, "reduce"),
    ],
)
def test_refuses(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build({"name": "matryoshka", **settings}, OBJECTIVES, where="recipe")


def test_refuses_widths_that_the_embeddings_do_not_have() -> None:
    x = normal(5, WIDTH)
    with pytest.raises(InputError, match="at most the 16 numbers of an embedding, got 32"):
        MatryoshkaLoss(dims=(8, 32))(encoded(x, x), batch_of(5), gather=LOCAL)
    with pytest.raises(InputError, match="at most the 16 numbers of an embedding, got 32"):
        truncate(x, dim=32)
    with pytest.raises(InputError, match="another objective"):
        MatryoshkaLoss(of=MatryoshkaLoss())
