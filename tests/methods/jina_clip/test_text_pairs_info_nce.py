"""InfoNCE with K hard negatives: against a loop, against its neighbours, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import EqualNegativesWarning, clip_loss
from tether.methods.jina_clip import InfoNceLoss, info_nce_loss
from tether.methods.tripletclip import neg_clip_loss


def rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, 5, generator=generator, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("duplicates", ["negatives", "left_out"])
def test_a_loop_gives_the_same(k: int, duplicates: str) -> None:
    query, positive, wrong = rows(4), rows(4, seed=1), rows(4, k, seed=2)
    labels, others = torch.tensor([0, 1, 2, 1]), torch.arange(4 * k) + (0 if duplicates == "left_out" else 90)
    found = info_nce_loss(
        query, positive, tau=0.1, negatives=wrong, labels=labels, negative_labels=others, duplicates=duplicates
    )
    keys, own = torch.cat([positive, wrong.reshape(-1, 5)]), torch.cat([labels, others]).tolist()
    for got, asked, among in ((found.forward, query, keys), (found.backward, positive, query)):
        total = 0.0
        for i in range(4):
            logits = [float(asked[i] @ key) / 0.1 for key in among]
            counted = [
                math.exp(value)
                for j, value in enumerate(logits)
                if j == i or duplicates == "negatives" or own[j] != own[i]
            ]
            total += math.log(sum(counted)) - logits[i]
        assert float(got) == pytest.approx(total / 4, rel=1e-12)


def test_it_is_clips_loss_and_negclips() -> None:
    query, positive, wrong = rows(4), rows(4, seed=1), rows(4, 1, seed=2)
    torch.testing.assert_close(
        info_nce_loss(query, positive, tau=0.05, symmetric="mean").total, clip_loss(query, positive, 20.0)
    )
    torch.testing.assert_close(
        info_nce_loss(query, positive, tau=0.05, symmetric="mean", negatives=wrong).total,
        neg_clip_loss(query, positive, wrong[:, 0], 20.0),
    )


def test_its_own_temperature_leaves_the_models_scale_alone() -> None:
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    out = Encoded(Features(rows(3).requires_grad_()), Features(rows(3, seed=1)), scale)
    batch = Batch(torch.zeros(3, 3, 1, 1), torch.arange(1, 4)[:, None])
    fixed, learned = (InfoNceLoss(tau=tau)(out, batch, gather=LOCAL) for tau in (0.1, None))
    torch.testing.assert_close(fixed.total, learned.total)
    assert (set(learned.terms) - set(fixed.terms)) == {"logit_scale"}
    fixed.total.backward()
    assert scale.grad is None


def test_negatives_that_are_the_positive_are_warned_of() -> None:
    positive = rows(3, seed=1)
    wrong = torch.stack([rows(3, seed=2), positive], dim=1).flatten(0, 1)
    out = Encoded(Features(rows(3)), Features(positive), torch.tensor(10.0), negative_text=Features(wrong))
    with pytest.warns(EqualNegativesWarning, match="3 of 6 positives"):
        InfoNceLoss()(out, Batch(torch.zeros(3, 3, 1, 1), torch.ones(3, 2).long()), gather=LOCAL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"query": rows(1), "positive": rows(1)}, "expected at least two pairs, got one"),
        ({"tau": 0.0}, r"tau: expected a finite number above 0, .* got 0.0"),
        ({"tau": torch.tensor(-0.1)}, "tau: expected a number above 0, got -0.1"),
        ({"negatives": rows(3, 2)[..., :4]}, r"negatives: expected rows of 5 numbers, got \(6, 4\)"),
        ({"negatives": 2 * rows(3, 2)}, "negatives row 0 has length 2, expected 1"),
        ({"duplicates": "left_out"}, "expected labels of queries"),
    ],
)
def test_refusals(settings, said) -> None:
    with pytest.raises(InputError, match=said):
        info_nce_loss(**{"query": rows(3), "positive": rows(3, seed=1), "tau": 0.05, **settings})
