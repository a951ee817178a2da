import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.evaluate.geometry import (
    alignment,
    cross_uniformity,
    joint_uniformity,
    linear_separability,
    relative_alignment,
    uniformity,
)
from tether.losses import ClipLoss
from tether.methods.contrastive_gap import ContrastiveGapLoss
from tether.space.conformity import conformity

GENERATOR = torch.Generator().manual_seed(0)


def rows(count, width=8):
    return torch.randn(count, width, generator=GENERATOR, dtype=torch.float64)


def encoded(image, text):
    return Encoded(Features(image), Features(text), torch.tensor(20.0, dtype=torch.float64))


def batch(count, *, words=None):
    text = torch.arange(1, count + 1)[:, None] if words is None else torch.tensor(words)[:, None]
    return Batch(torch.zeros(count, 3, 1, 1), text)


def test_the_terms_are_those_that_the_measures_take():
    image, text = F.normalize(rows(12)), F.normalize(rows(12))
    loss = ContrastiveGapLoss(cross_uniform=0.3, uniform=2.0, align=0.5)(encoded(image, text), batch(12), gather=LOCAL)
    clip = ClipLoss()(encoded(image, text), batch(12), gather=LOCAL).total
    expected = {
        "clip": clip,
        "uniform": (uniformity(image) + uniformity(text)) / 2,
        "align": alignment(image, text),
        "cross_uniform": cross_uniformity(image, text),
    }
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value)
    weights = {"clip": 1.0, "uniform": 2.0, "align": 0.5, "cross_uniform": 0.3}
    torch.testing.assert_close(loss.total, sum(weights[name] * value for name, value in expected.items()))


def test_without_added_terms_it_is_clips_loss():
    out = encoded(rows(9), rows(9))
    plain = ContrastiveGapLoss(uniform=0.0, align=0.0)(out, batch(9), gather=LOCAL)
    assert torch.equal(plain.total, ClipLoss()(out, batch(9), gather=LOCAL).total)
    assert set(plain.terms) == {"clip", "logit_scale"}


def test_equal_captions_are_not_pushed_apart_where_duplicates_are_positives():
    """Two texts that nearly agree, alone on the sphere: only their own potential could move them."""
    text = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [1.0, -0.1, 0.0]], dtype=torch.float64)).requires_grad_()
    out = encoded(torch.eye(3, dtype=torch.float64)[[2, 2]], text)
    alone = {"align": 0.0, "contrastive": 0.0}
    for duplicates, pushed in (("negatives", True), ("positives", False)):
        for settings in ({}, {"uniform": 0.0, "cross_uniform": 1.0}):
            part = ContrastiveGapLoss(**{**alone, **settings}, duplicates=duplicates)
            for words, extra in (([5, 5], {}), ([5, 6], {"labels": torch.tensor([7, 7])})):
                given = Batch(batch(2).image, torch.tensor(words)[:, None], extra)
                grad = torch.autograd.grad(part(out, given, gather=LOCAL).total, text)[0]
                same = words[0] == words[1] or duplicates == "positives"
                assert (grad.abs().max() > 1e-3) == (pushed or not same)


def test_some_term_has_a_weight():
    with pytest.raises(InputError, match=r"expected a weight above 0 among .*, got none"):
        ContrastiveGapLoss(uniform=0.0, align=0.0, contrastive=0.0)


def test_one_pair_has_no_uniformity_but_an_alignment():
    out = encoded(rows(1), rows(1))
    for settings in ({}, {"uniform": 0.0, "cross_uniform": 1.0}):
        with pytest.raises(InputError, match="at least 2 pairs, got a batch of 1"):
            ContrastiveGapLoss(**settings)(out, batch(1), gather=LOCAL)
    loss = ContrastiveGapLoss(uniform=0.0)(out, batch(1), gather=LOCAL)
    torch.testing.assert_close(loss.total, alignment(out.image.unit, out.text.unit))


def test_separability_is_one_with_a_gap_a_half_without_and_partners_stay_together():
    image = F.normalize(rows(200))
    assert linear_separability(image + 3, F.normalize(rows(200)) - 3) == 1.0
    assert 0.3 < linear_separability(image, F.normalize(rows(200))) < 0.7
    same = torch.ones(10, 4)
    assert linear_separability(same, same) == 0.5
    assert linear_separability(image, image, seed=3) == 0.5  # a partner in the fitted part cannot help
    with pytest.raises(InputError, match="train_share"):
        linear_separability(image, image, train_share=1.0)
    with pytest.raises(InputError, match="at least 2"):
        linear_separability(image[:1], image[:1])
    with pytest.raises(InputError, match="needs pairs"):
        linear_separability(image, image[:5])
    with pytest.raises(InputError, match="NaN"):
        linear_separability(image, image / 0)


def test_relative_alignment_equals_the_plain_form(monkeypatch):
    from tether.evaluate import geometry

    image, text = rows(11), rows(11)
    distance = (text[:, None] - image[None]).square().sum(dim=2)
    nearest = (distance + torch.diag(torch.full((11,), torch.inf, dtype=torch.float64))).amin(dim=1)
    for block in (1, 4, 11):
        monkeypatch.setattr(geometry, "BLOCK_ROWS", block)
        torch.testing.assert_close(relative_alignment(image, text), (distance.diagonal() - nearest).mean())
    with pytest.raises(InputError, match="at least 2"):
        relative_alignment(image[:1], text[:1])


def test_joint_uniformity_takes_both_sides_as_one_set():
    image, text = rows(6), rows(7)
    torch.testing.assert_close(joint_uniformity(image, text), uniformity(torch.cat([image, text])))


def test_the_geometries_of_space_are_at_hand():
    assert conformity(rows(5).numpy()).shape == (5,)
