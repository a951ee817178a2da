import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Drawing, Scheduled
from tether.core.types import Batch, Encoded, Features
from tether.losses import ClipLoss, clip_loss
from tether.methods.m2_mix import M2MixLoss, m2_mix_loss
from tether.methods.m2_mix.hard_contrastive import HardContrastiveLoss, hard_contrastive_loss
from tether.methods.m2_mix.loss import geodesic_mix
from tether.space.slerp import slerp
from tether.training.steps.presets import ContrastiveStep

GENERATOR = torch.Generator().manual_seed(0)
HALF = (0.5, 0.5, 0.5, 0.5)


def rows(count, width=8, dtype=torch.float64):
    return F.normalize(torch.randn(count, width, generator=GENERATOR, dtype=torch.float64)).to(dtype)


def encoded(image, text, scale=20.0):
    return Encoded(Features(image), Features(text), torch.tensor(scale, dtype=image.dtype))


def batch(count, **extra):
    return Batch(torch.zeros(count, 3, 1, 1), torch.arange(1, count + 1)[:, None], extra)


@pytest.mark.parametrize("lam", [0.0, 0.2, 0.5, 1.0])
def test_it_walks_the_arc_at_constant_speed_from_b_to_a(lam):
    a, b = rows(6), rows(6)
    mixed = geodesic_mix(a, b, lam=lam)
    torch.testing.assert_close(torch.linalg.vector_norm(mixed, dim=1), torch.ones(6, dtype=torch.float64))
    angle = torch.arccos((a * b).sum(dim=1))
    torch.testing.assert_close(torch.arccos((mixed * b).sum(dim=1).clamp(-1, 1)), lam * angle, atol=1e-7, rtol=0)
    for row in range(6):  # lam is the share of the first end: the opposite of slerp's t
        expected = slerp(b[row].numpy(), end=a[row].numpy(), t=np.array([lam]))[0]
        np.testing.assert_allclose(mixed[row].numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lam", [0.0, 0.3, 0.5, 1.0])
def test_equal_near_equal_and_opposite_rows_stay_on_the_sphere_with_finite_gradients(lam, dtype):
    a = rows(4, dtype=dtype).requires_grad_()
    near = F.normalize(a.detach() + 1e-9 * rows(4, dtype=dtype))
    for b in (a.detach().clone(), near, -a.detach()):
        mixed = geodesic_mix(a, b, lam=lam)
        length = torch.linalg.vector_norm(mixed, dim=1)
        torch.testing.assert_close(length, torch.ones_like(length), atol=1e-5, rtol=0)
        assert torch.autograd.grad(mixed.square().sum() + mixed.sum(), a)[0].isfinite().all()


def test_gradients_reach_both_ends():
    a, b = rows(5).requires_grad_(), rows(5).requires_grad_()
    torch.autograd.gradcheck(lambda a, b: geodesic_mix(a, b, lam=0.3), (a, b))


def test_rows_of_unequal_shape_are_refused():
    with pytest.raises(InputError, match=r"\(2, 8\) and \(3, 8\)"):
        geodesic_mix(rows(2), rows(3), lam=0.5)


def test_without_weights_it_is_clips_loss():
    image, text = rows(6), rows(6)
    found = m2_mix_loss(image, text, lam=HALF, m2=0.0)
    assert torch.equal(found.total, clip_loss(image, text, 100.0))
    assert found.mix == 0


def test_at_the_ends_of_the_arc_the_mixes_are_what_they_mix():
    """With lam = 0 the m2 negatives are the texts themselves; with lam = 1 the unimodal mixes change nothing."""
    image, text = rows(6), rows(6)
    zero = m2_mix_loss(image, text, lam=(0.5, 0.5, 0.5, 0.0), m2=1.0, scale_m2=15.0).mix
    table = text @ text.T
    table[range(6), range(6)] = (image * text).sum(dim=1)
    to_texts = F.cross_entropy(15.0 * table, torch.arange(6))
    torch.testing.assert_close(zero, clip_loss(image, text, 15.0, directions="image_to_text") + to_texts)
    for name in ("v", "l"):
        one = m2_mix_loss(image, text, lam=(1.0, 1.0, 1.0, 1.0), m2=0.0, **{name: 1.0}, scale=15.0).mix
        torch.testing.assert_close(one, clip_loss(image, text, 15.0))


@pytest.mark.parametrize("name", ["v", "l", "vl"])
@pytest.mark.parametrize("negatives", ["mixed", "original"])
def test_the_middle_row_of_an_odd_batch_is_left_as_it_is(name, negatives):
    image, text = rows(5).requires_grad_(), rows(5).requires_grad_()
    weights = {"m2": 0.0, name: 1.0, "negatives": negatives}
    mix = m2_mix_loss(image, text, lam=(0.3, 0.3, 0.3, 0.3), **weights).mix
    assert mix.isfinite()
    for grad in torch.autograd.grad(mix, (image, text)):
        assert grad.isfinite().all()


def test_mixed_negatives_are_harder_where_there_is_a_gap():
    shift = torch.zeros(16, dtype=torch.float64)
    shift[0] = 2.0
    image, text = F.normalize(rows(40, 16) + shift), F.normalize(rows(40, 16) - shift)
    assert m2_mix_loss(image, text, lam=HALF, m2=1.0).margin > 0.05
    flat = rows(40, 16)
    assert abs(m2_mix_loss(flat, flat, lam=HALF, m2=1.0).margin) < 1e-12


def test_the_margin_is_the_mean_over_all_others():
    image, text = rows(9), rows(9)
    mixed = geodesic_mix(image, text, lam=0.5)
    nearer = (image @ (mixed - text).T)[~torch.eye(9, dtype=torch.bool)].mean()
    torch.testing.assert_close(m2_mix_loss(image, text, lam=HALF, m2=1.0).margin, nearer)
    assert m2_mix_loss(image[:1], text[:1], lam=HALF, m2=1.0).margin == pytest.approx(0, abs=1e-12)


def test_equal_captions_are_no_negatives_where_they_are_positives():
    image = rows(3)
    text = image[[0, 0, 2]].clone()
    labels = torch.tensor([1, 1, 2])
    kept = m2_mix_loss(image, text, lam=HALF, m2=1.0).mix
    assert m2_mix_loss(image, text, lam=HALF, m2=1.0, labels=labels).mix < kept


def test_it_draws_shares_by_the_step_and_fades_by_the_epoch():
    part = M2MixLoss(alpha_u=0.2, epochs=4)
    assert isinstance(part, Drawing)
    assert isinstance(part, Scheduled)
    assert part.drawn(5).lam == part.drawn(5).lam != part.drawn(6).lam
    draws = np.array([part.drawn(number).lam for number in range(4000)])
    assert draws.shape == (4000, 4)
    for column, alpha in zip(draws.T, (0.2, 0.2, 0.2, 0.5), strict=True):
        assert column.mean() == pytest.approx(0.5, abs=0.03)
        assert column.var() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.06)
    out = encoded(rows(6), rows(6))
    totals = {}
    for share in (0.0, 0.3, 0.6, 1.0):
        loss = part.drawn(1).at(share)(out, batch(6), gather=LOCAL)
        totals[share] = float((loss.total - loss.terms["clip"]) / loss.terms["mix"])
    assert totals == pytest.approx({0.0: 1.0, 0.3: 1 / 2, 0.6: 1 / 3, 1.0: 1 / 4})
    assert part.at(0.9).lam == part.lam


def test_the_contrastive_step_gives_an_objective_chance_by_seed_and_step():
    part = M2MixLoss()
    lams = {
        (seed, step): ContrastiveStep(part, steps=9, seed=seed).terms["objective"][0].objective_at(step).lam
        for seed in (1, 2)
        for step in (0, 1)
    }
    assert len(set(lams.values())) == 4
    assert ContrastiveStep(part, steps=9, seed=1).terms["objective"][0].objective_at(1).lam == lams[1, 1]
    plain = ClipLoss()
    assert ContrastiveStep(plain, steps=9, seed=1).terms["objective"][0].objective_at(1) is plain


def test_given_shares_and_temperatures_win():
    out = encoded(rows(6), rows(6))
    part = M2MixLoss(m2=1.0, tau1=None, tau2=None)
    loss = part(out, batch(6, lam=(0.1, 0.2, 0.3, 0.4)), gather=LOCAL)
    given = m2_mix_loss(out.image.unit, out.text.unit, lam=(0.1, 0.2, 0.3, 0.4), m2=1.0, scale=20.0, scale_m2=20.0)
    torch.testing.assert_close(loss.total, given.total)
    fixed = M2MixLoss()(out, batch(6, lam=HALF), gather=LOCAL)
    torch.testing.assert_close(fixed.terms["clip"], clip_loss(out.image.unit, out.text.unit, 100.0))


def test_one_pair_is_refused_and_one_pair_of_m2_is_not():
    image, text = rows(1), rows(1)
    for name in ("v", "l", "vl"):
        with pytest.raises(InputError, match="at least 2, got a batch of 1"):
            m2_mix_loss(image, text, lam=HALF, **{name: 1.0})
    assert m2_mix_loss(image, text, lam=HALF, m2=1.0).total == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="lam: expected four numbers"):
        M2MixLoss()(encoded(rows(3), rows(3)), batch(3, lam=0.5), gather=LOCAL)


def test_hard_contrastive_without_weights_is_clips_loss():
    image, text = rows(9), rows(9)
    plain = HardContrastiveLoss(tau=None, beta=0.0, prior=0.0)(encoded(image, text), batch(9), gather=LOCAL).total
    torch.testing.assert_close(plain, clip_loss(image, text, 20.0))


def test_hard_contrastive_with_nothing_left_of_the_negatives_is_at_its_floor():
    image = rows(6).requires_grad_()
    losses = hard_contrastive_loss(image, image.detach(), scale=2.0, prior=0.9)
    torch.testing.assert_close(losses, torch.full_like(losses, np.log1p(6 * np.exp(-4.0))))
    losses.sum().backward()
    assert image.grad.isfinite().all()


def test_hard_contrastive_refuses_one_pair():
    with pytest.raises(InputError, match="at least two keys"):
        hard_contrastive_loss(rows(1), rows(1))


def test_hard_contrastive_of_some_queries_finds_their_keys():
    image, text = rows(9), rows(9)
    torch.testing.assert_close(hard_contrastive_loss(image[4:], text, offset=4), hard_contrastive_loss(image, text)[4:])
