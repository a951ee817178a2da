"""The exact KL projection, sparse distributions, and the loss on top of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.troll.kl_projection import kl_divergence, project_kl
from tether.methods.troll.loss import TROLLLoss
from tether.methods.troll.sparse_policy import SparseDist

EPS = 0.05


def logits(*shape: int, seed: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)


def policies(*shape: int, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    old = logits(*shape, seed=1, scale=2.0, dtype=dtype)
    return (old + logits(*shape, seed=2, scale=scale, dtype=dtype)).log_softmax(-1), old.log_softmax(-1)


def exact_kl(p: Tensor, q: Tensor) -> Tensor:
    return kl_divergence(p.double(), q.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 16, 500])
@pytest.mark.parametrize("spread", [0.1, 3.0, 100.0, 3000.0])
def test_every_row_ends_in_the_ball_and_those_from_outside_on_its_edge(
    dtype: torch.dtype, size: int, spread: float
) -> None:
    for scale in (0.1, 3.0, 100.0, 3000.0):
        old = logits(100, size, seed=1, scale=spread, dtype=dtype).log_softmax(-1)
        new = logits(100, size, seed=2, scale=scale, dtype=dtype).log_softmax(-1)
        for eps in (1e-3, EPS, 1.0):
            projected, t = project_kl(new, old, eps)
            after = exact_kl(projected, old)
            assert after.max() <= eps + 1e-6
            outside = t < 1
            assert torch.equal(outside, exact_kl(new, old) > eps)
            assert (after[outside] - eps).abs().max() < 1e-5 if outside.any() else True
            assert torch.equal(projected[~outside], new[~outside])
            torch.testing.assert_close(projected.exp().sum(-1), torch.ones_like(t), rtol=0, atol=1e-5)


def test_where_asking_is_dear_the_answer_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import tether.methods.troll.kl_projection as module

    for spread, scale in ((1.0, 1.0), (100.0, 3.0), (3.0, 3000.0)):
        old = logits(200, 16, seed=1, scale=spread).log_softmax(-1)
        new = logits(200, 16, seed=2, scale=scale).log_softmax(-1).requires_grad_()
        results = []
        for cheap in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr(module, "_cheap_to_ask", lambda tensor, cheap=cheap: cheap)
                projected, t = project_kl(new, old, EPS)
                (gradient,) = torch.autograd.grad(projected[:, 0].sum(), new)
                results.append((projected, t, gradient))
        for first, second in zip(*results, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-8)
        assert (exact_kl(results[1][0], old) <= EPS + 1e-6).all()


def test_rows_are_worked_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    import tether.methods.troll.kl_projection as module

    new, old = policies(50, 6, scale=2.0)
    new.requires_grad_()
    whole = project_kl(new, old, EPS)
    expected = torch.autograd.grad(whole.logp[:, 0].sum(), new)[0]
    monkeypatch.setattr(module, "BLOCK_BYTES", 8 * 6 * 7)
    parts = project_kl(new, old, EPS)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts.logp[:, 0].sum(), new)[0], expected)


def test_no_point_of_the_ball_is_nearer() -> None:
    new, old = policies(1, 6, scale=1.5)
    projected, t = project_kl(new, old, EPS)
    assert t < 1
    best = kl_divergence(projected, new)
    steps = logits(4000, 6, seed=5, scale=0.3)
    others = (projected + steps * torch.rand(4000, 1, generator=torch.Generator().manual_seed(6))).log_softmax(-1)
    inside = others[kl_divergence(others, old.expand_as(others)) <= EPS]
    assert len(inside) > 100
    assert (kl_divergence(inside, new.expand_as(inside)) >= best).all()


def test_gradient_is_that_of_the_exact_projection() -> None:
    start = logits(6, 5, seed=3, scale=1.0)
    old = logits(6, 5, seed=4).log_softmax(-1)
    t = project_kl(start.log_softmax(-1), old, 0.2).t
    assert (t < 1).any()
    assert (t == 1).any()
    torch.autograd.gradcheck(
        lambda x: project_kl(x.log_softmax(-1), old, 0.2).logp, start.requires_grad_(), rtol=1e-6, atol=1e-8
    )


def test_shapes_dtypes_and_what_counts_as_constant() -> None:
    new, old = policies(2, 3, 7, scale=2.0)
    old.requires_grad_()
    projected, t = project_kl(new.requires_grad_(), old, EPS)
    assert projected.shape == (2, 3, 7)
    assert t.shape == (2, 3)
    assert not t.requires_grad
    projected[..., 0].sum().backward()
    assert old.grad is None
    one = project_kl(new[0, 0], old[0, 0], EPS)
    assert one.t.shape == ()
    torch.testing.assert_close(one.logp, projected[0, 0])
    half = project_kl(new.bfloat16(), old.detach().float(), EPS)
    assert half.logp.dtype == half.t.dtype == torch.float32
    assert project_kl(new[:0], old[:0], EPS).logp.shape == (0, 3, 7)


def test_impossible_entries_stay_impossible() -> None:
    new, old = policies(4, 6, scale=2.0)
    hidden = torch.tensor([False, True, False, False, True, False])
    new, old = (x.masked_fill(hidden, -math.inf).log_softmax(-1) for x in (new, old))
    leaf = new.clone().requires_grad_()
    projected, t = project_kl(leaf, old, EPS)
    short = project_kl(new[:, ~hidden], old[:, ~hidden], EPS)
    torch.testing.assert_close(t, short.t)
    torch.testing.assert_close(projected[:, ~hidden], short.logp)
    assert (projected[:, hidden].exp() == 0).all()
    projected[:, 0].sum().backward()
    assert leaf.grad.isfinite().all()


def test_nan_is_handed_on() -> None:
    new, old = policies(3, 5, scale=2.0)
    new[1, 2] = torch.nan
    projected, _ = project_kl(new, old, EPS)
    assert projected.isnan().any(dim=1).tolist() == [False, True, False]


def test_second_derivatives_are_refused() -> None:
    new, old = policies(3, 5, scale=2.0)
    with pytest.raises(InputError, match="first-order"):
        torch.autograd.grad(project_kl(new.requires_grad_(), old, EPS).logp.sum(), new, create_graph=True)


def test_projection_refuses_bad_input() -> None:
    new, old = policies(3, 5)
    with pytest.raises(InputError, match=r"new \(3, 5\) and old \(3, 4\)"):
        project_kl(new, old[:, :4], EPS)
    with pytest.raises(ValueError, match="logp_old: expected log-probabilities whose exponentials add up to 1"):
        project_kl(new, old + 0.1, EPS)


SETTINGS = {"k": 4, "delta": 0.05, "q_min": 1e-6}


def sparse_pair(rows: int = 40, vocabulary: int = 12) -> tuple[SparseDist, SparseDist, Tensor, Tensor]:
    tokens = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(9))
    raw_new, raw_old = logits(rows, vocabulary, seed=1, scale=2.0), logits(rows, vocabulary, seed=2, scale=2.0)
    raw_new = raw_old + 0.5 * raw_new
    new, old = (SparseDist.from_logits(raw, tokens, **SETTINGS) for raw in (raw_new, raw_old))
    return new, old, tokens, raw_new


def test_kept_tokens_are_the_likeliest_with_the_mass_asked_for() -> None:
    raw, tokens = logits(50, 20, seed=3, scale=3.0), torch.arange(50) % 20
    sparse = SparseDist.from_logits(raw, tokens, k=6, delta=0.05, q_min=1e-9)
    p = raw.softmax(-1)
    for row, ids, token in zip(p, sparse.ids, tokens, strict=True):
        kept = {int(i) for i in ids if i < 20}
        order = row.argsort(descending=True).tolist()
        count = next((n for n in range(1, 7) if row[order[:n]].sum() >= 0.95), 6)
        assert kept == {*order[:count], int(token)}
        assert ids[0] == token
    torch.testing.assert_close(sparse.kept, torch.tensor([len({*i.tolist()} - {20}) for i in sparse.ids]))
    kept_masses = [row[ids[ids < 20]].sum() for row, ids in zip(p, sparse.ids, strict=True)]
    torch.testing.assert_close(sparse.mass, torch.stack(kept_masses))
    dense = sparse.dense()
    torch.testing.assert_close(dense.exp().sum(-1), torch.ones(50, dtype=torch.float64))
    for row, ids, whole in zip(p, sparse.ids, dense, strict=True):
        others = sorted({*range(20)} - {*ids.tolist()})
        assert len(whole[others].unique()) <= 1
        known = [i for i in ids.tolist() if i < 20]
        torch.testing.assert_close(whole[known] - whole[known[0]], row[known].log() - row[known[0]].log())


def test_the_union_says_what_the_whole_vocabulary_says() -> None:
    new, old, tokens, _ = sparse_pair()
    left, right = new.beside(old)
    torch.testing.assert_close(left.exp().sum(-1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(right.exp().sum(-1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(kl_divergence(left, right), kl_divergence(new.dense(), old.dense()))
    torch.testing.assert_close(kl_divergence(right, left), kl_divergence(old.dense(), new.dense()))
    short, whole = project_kl(left, right, EPS), project_kl(new.dense(), old.dense(), EPS)
    torch.testing.assert_close(short.t, whole.t)
    torch.testing.assert_close(short.logp[:, 0], whole.logp.gather(1, tokens[:, None])[:, 0])
    assert left.shape[1] <= 2 * 5 + 1


def test_sparse_gradient_is_that_of_the_whole_vocabulary_with_its_tail() -> None:
    _, old, tokens, raw = sparse_pair()
    gradients = []
    for form in ("union", "dense"):
        leaf = raw.clone().requires_grad_()
        new = SparseDist.from_logits(leaf, tokens, **SETTINGS)
        if form == "union":
            new_logp, old_logp = new.beside(old)
            place = torch.zeros_like(tokens)
        else:
            new_logp, old_logp, place = new.dense(), old.dense(), tokens
        projected = project_kl(new_logp, old_logp, EPS).logp
        ratio = (projected - old_logp).gather(1, place[:, None]).exp()
        (ratio.sum() + kl_divergence(new_logp, projected.detach()).sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    # The tail is not a constant: raising a kept token takes mass from the tokens that are not kept.
    leaf = raw.clone().requires_grad_()
    SparseDist.from_logits(leaf, tokens, **SETTINGS).tail.sum().backward()
    assert (leaf.grad.gather(1, tokens[:, None]) < 0).all()


def test_keeping_everything_is_the_dense_loss() -> None:
    raw, old = logits(2, 5, 9, seed=1, scale=2.0).requires_grad_(), logits(2, 5, 9, seed=2)
    tokens = torch.randint(0, 9, (2, 5), generator=torch.Generator().manual_seed(0))
    mask, advantages = torch.ones(2, 5), torch.tensor([1.0, -1.0])
    stored = SparseDist.from_logits(old, tokens, k=9, delta=0.0)
    objective = TROLLLoss()
    dense = objective(raw, old.log_softmax(-1), tokens, advantages, mask)
    sparse = objective(raw, stored, tokens, advantages, mask)
    torch.testing.assert_close(sparse.total, dense.total)
    assert dict(sparse.terms).keys() - dense.terms.keys() == {"kept_mass"}
    torch.testing.assert_close({name: sparse.terms[name] for name in dense.terms}, dict(dense.terms))
    torch.testing.assert_close(sparse.terms["kept_mass"].item(), 1.0)
    torch.testing.assert_close(*(torch.autograd.grad(x.total, raw)[0] for x in (sparse, dense)))


def test_few_slots_when_rows_are_sure() -> None:
    raw = torch.zeros(3, 1000)
    raw[:, 5], raw[0, 7] = 40.0, 39.0
    sparse = SparseDist.from_logits(raw, torch.tensor([5, 5, 8]))
    assert sparse.kept.tolist() == [2, 1, 2]
    assert sparse.ids.tolist() == [[5, 1000, 7], [5, 1000, 1000], [8, 5, 1000]]
    assert SparseDist.from_logits(raw.bfloat16(), torch.tensor([5, 5, 8])).logp.dtype == torch.float32


def test_sparse_refuses_bad_input() -> None:
    raw, tokens = logits(3, 8, seed=0), torch.tensor([0, 1, 7])
    with pytest.raises(InputError, match=r"got \(3, 8\) and \(2,\)"):
        SparseDist.from_logits(raw, tokens[:2])
    with pytest.raises(InputError, match=r"expected tokens in \[0, 8\), got 0 to 8"):
        SparseDist.from_logits(raw, torch.tensor([0, 1, 8]))
    with pytest.raises(InputError, match="expected token ids"):
        SparseDist.from_logits(raw, torch.zeros(3))
    with pytest.raises(InputError, match="same rows and vocabulary"):
        SparseDist.from_logits(raw, tokens).beside(SparseDist.from_logits(raw[:, :7], tokens.clamp(max=6)))


def clipped_surrogate(new: Tensor, old: Tensor, tokens: Tensor, advantages: Tensor) -> Tensor:
    ratio = (new - old).gather(-1, tokens[..., None]).squeeze(-1).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()


def test_a_token_outside_the_region_keeps_a_gradient_where_clipping_has_none() -> None:
    old = torch.zeros(1, 2, 4, dtype=torch.float64).log_softmax(-1)
    raw = torch.zeros(1, 2, 4, dtype=torch.float64)
    raw[0, 0, 1], raw[0, 1, 2] = 2.0, -3.0  # far up with a gain, far down with a loss: both beyond the clip
    tokens, advantages = torch.tensor([[1, 2]]), torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    leaf = raw.clone().requires_grad_()
    clipped_surrogate(leaf.log_softmax(-1), old, tokens, advantages).backward()
    assert leaf.grad.count_nonzero() == 0
    for alpha in (0.0, 1.0):
        leaf = raw.clone().requires_grad_()
        loss = TROLLLoss(alpha=alpha)(leaf, old, tokens, advantages, torch.ones(1, 2))
        loss.total.backward()
        assert loss.terms["projected"] == 1
        # Two kinds of tokens only, so that at the edge the ratio cannot change: then the regression alone pulls back.
        moved = leaf.grad.abs().amax(dim=-1)
        assert (moved < 1e-12).all() if alpha == 0 else (moved > 1e-3).all()
    assert leaf.grad[0, 0, 1] > 0  # downhill is back
    assert leaf.grad[0, 1, 2] < 0
    raw[0, 0, 3], raw[0, 1, 0] = 1.0, 1.0  # with a third kind the ratio still moves along the edge
    leaf = raw.clone().requires_grad_()
    TROLLLoss(alpha=0.0)(leaf, old, tokens, advantages, torch.ones(1, 2)).total.backward()
    assert (leaf.grad.abs().amax(dim=-1) > 1e-3).all()


def test_inside_the_region_it_is_the_plain_policy_gradient() -> None:
    old = logits(2, 3, 6, seed=1).log_softmax(-1)
    raw = (old + 0.01 * logits(2, 3, 6, seed=2)).requires_grad_()
    tokens = torch.randint(0, 6, (2, 3), generator=torch.Generator().manual_seed(0))
    advantages = torch.tensor([1.5, -0.5], dtype=torch.float64)
    loss = TROLLLoss()(raw, old, tokens, advantages, torch.ones(2, 3))
    ratio = (raw.log_softmax(-1) - old).gather(-1, tokens[..., None]).squeeze(-1).exp()
    plain = -(ratio * advantages[:, None]).mean()
    torch.testing.assert_close(loss.total, plain)
    torch.testing.assert_close(*(torch.autograd.grad(x, raw)[0] for x in (loss.total, plain)))
    assert loss.terms["projected"] == 0
    assert loss.terms["regression"] == 0


def test_a_sequence_is_the_mean_of_its_tokens_and_masked_ones_do_not_exist() -> None:
    raw, old = logits(3, 4, 6, seed=1, scale=2.0), logits(3, 4, 6, seed=2).log_softmax(-1)
    tokens = torch.randint(0, 6, (3, 4), generator=torch.Generator().manual_seed(0))
    advantages = logits(3, seed=4)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    objective = TROLLLoss()
    whole = objective(raw, old, tokens, advantages, mask)
    alone = [
        objective(
            raw[i : i + 1, :n], old[i : i + 1, :n], tokens[i : i + 1, :n], advantages[i : i + 1], torch.ones(1, n)
        )
        for i, n in ((0, 4), (1, 2))
    ]
    torch.testing.assert_close(whole.total, (alone[0].total + alone[1].total) / 3)
    broken = raw.clone()
    broken[mask == 0] = torch.nan
    leaf = broken.requires_grad_()
    loss = objective(leaf, old, tokens, advantages[:, None].expand(3, 4), mask.bool())
    torch.testing.assert_close(loss.total, whole.total)
    loss.total.backward()
    assert leaf.grad.isfinite().all()
    assert not any(term.requires_grad for term in loss.terms.values())
    terms = objective.per_token(raw, old, tokens, mask=mask.bool())
    assert (terms.t[mask == 0] == 1).all()
    assert (terms.ratio[mask == 0] == 0).all()


def test_half_precision_logits_are_widened() -> None:
    raw, old = logits(1, 4, 6, seed=1, dtype=torch.bfloat16), logits(1, 4, 6, seed=2, dtype=torch.float32)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for before in (old.log_softmax(-1), SparseDist.from_logits(old, tokens)):
            loss = TROLLLoss()(raw, before, tokens, torch.ones(1), torch.ones(1, 4))
            assert loss.total.dtype == torch.float32
            assert loss.terms["kl_after"] <= EPS + 1e-6


def test_loss_refuses_bad_input() -> None:
    raw, old = logits(2, 3, 6, seed=1), logits(2, 3, 6, seed=2).log_softmax(-1)
    tokens, advantages, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2), torch.ones(2, 3)
    objective = TROLLLoss()
    with pytest.raises(InputError, match=r"got \(2, 2\) and \(2,\)"):
        objective(raw, old, tokens, advantages, mask[:, :2])
    with pytest.raises(InputError, match=r"got \(2, 3\) and \(3,\)"):
        objective(raw, old, tokens, torch.ones(3), mask)
    with pytest.raises(InputError, match=r"expected logits \(b, l, v\)"):
        objective(raw[:, :2], old, tokens, advantages, mask)
    with pytest.raises(InputError, match=r"expected old log-probabilities \(2, 3, 6\)"):
        objective(raw, old[..., :5], tokens, advantages, mask)
    with pytest.raises(ValueError, match="old: expected log-probabilities"):
        objective(raw, old.exp(), tokens, advantages, mask)
    stored = SparseDist.from_logits(raw, tokens + 1)
    with pytest.raises(InputError, match="its sampled tokens are not the tokens given"):
        objective(raw, stored, tokens, advantages, mask)
    with pytest.raises(InputError, match="over 6 words"):
        objective(raw, SparseDist.from_logits(raw[..., :5], tokens), tokens, advantages, mask)


def test_sparse_gradients_over_several_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    import tether.methods.troll.sparse_policy as module

    monkeypatch.setattr(module, "TILE_BYTES", 1)
    raw, tokens = logits(3, 4, 6, seed=1, scale=2.0), torch.arange(12).view(3, 4) % 6
    weight = logits(3, 4, 7, seed=2)

    def numbers(x: Tensor) -> Tensor:
        sparse = SparseDist.from_logits(x, tokens, k=3, delta=0.0, q_min=1e-2)
        values = torch.cat([sparse.logp, sparse.tail[..., None]], dim=-1)
        return (values.masked_fill(values.isinf(), 0) * weight[..., : values.shape[-1]]).sum()

    torch.autograd.gradcheck(numbers, raw.requires_grad_())
    plain = raw.detach().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    whole = SparseDist.from_logits(raw, tokens, k=6, delta=0.0)
    torch.testing.assert_close(whole.logp[..., 0], plain)
    with pytest.raises(InputError, match="first-order"):
        torch.autograd.grad(numbers(raw), raw, create_graph=True)
