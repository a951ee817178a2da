"""Clipped logits beside plain arithmetic: awkward rows, half precision, and similarities that are never stored."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tether.losses.infonce as infonce
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import OBJECTIVES, ClipLoss, SigLipLoss
from tether.methods.logitclip import LogitClip, LogitClipLoss, clip_logits, clip_rows, cross_entropy_bounds
from tether.methods.logitclip.row_norms import row_norms

ORDERS = (1.0, 1.5, 2.0, 3.0, 7.0, math.inf)
orders = pytest.mark.parametrize("p", ORDERS)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def plainly(logits: Tensor, tau: float, p: float) -> Tensor:
    """The paper's rule, row by row; for rows that are not zero."""
    rows = []
    for row in logits:
        norm = row.abs().max() if p == math.inf else row.abs().pow(p).sum().pow(1 / p)
        rows.append(row if norm + 1e-7 <= tau else tau * row / (norm + 1e-7))
    return torch.stack(rows)


@orders
def test_equals_the_rule_and_its_gradient(p: float) -> None:
    logits = (normal(9, 5) * torch.linspace(0.1, 4, 9, dtype=torch.float64)[:, None]).requires_grad_()
    weight = normal(9, 5, seed=1)
    got, wanted = clip_logits(logits, 2.5, p=p), plainly(logits, 2.5, p)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    mine, theirs = (torch.autograd.grad((value * weight).sum(), logits)[0] for value in (got, wanted))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    norms = torch.linalg.vector_norm(got, ord=p, dim=1)
    assert norms.max() <= 2.5
    assert norms.min() < 2.4
    torch.testing.assert_close(got.argmax(dim=1), logits.argmax(dim=1))


@orders
@pytest.mark.parametrize("tau", [1e-9, 0.5, 50.0])
def test_zero_rows_and_zero_entries_have_plain_gradients(p: float, tau: float) -> None:
    logits = torch.zeros(3, 4, dtype=torch.float64)
    logits[1, 2], logits[2] = 6.0, torch.tensor([0.0, 3.0, 0.0, -3.0])
    logits.requires_grad_()
    loss = LogitClipLoss(tau=tau, p=p)(logits, torch.tensor([1, 0, 3]))
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all()
    if tau > 1e-7:  # a row of zeros has the norm eps, which only a smaller cap clips
        torch.testing.assert_close(grad[0] * 3, torch.tensor([0.25, -0.75, 0.25, 0.25], dtype=torch.float64))


def test_rows_below_the_cap_keep_every_bit() -> None:
    logits = normal(6, 4, dtype=torch.float32)
    assert torch.equal(clip_logits(logits, 100.0), logits)
    assert torch.equal(clip_logits(logits, math.inf), logits)


def test_clipped_rows_stop_growing() -> None:
    logits = (10 * normal(5, 7)).requires_grad_()
    loss = LogitClipLoss(tau=1.0)(logits, torch.arange(5))
    (grad,) = torch.autograd.grad(loss, logits)
    assert (grad * logits).sum(dim=1).abs().max() < 1e-6  # eps alone is left
    assert grad.norm() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    logits = (100 * normal(4, 6)).to(dtype).requires_grad_()
    got = clip_logits(logits, 0.25)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, clip_logits(logits.detach().float(), 0.25))
    got.square().sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype
    assert logits.grad.isfinite().all()


def test_high_orders_do_not_overflow() -> None:
    logits = torch.tensor([[1e30, -1e29, 3.0], [1e-30, 0.0, 1e-31]], requires_grad=True)
    got = clip_logits(logits, 1.0, p=8.0)
    torch.testing.assert_close(got[0], torch.tensor([1.0, -0.1, 0.0]), rtol=1e-6, atol=1e-6)
    assert torch.equal(got[1], logits[1])
    got.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_nan_is_handed_on_or_refused() -> None:
    logits = torch.tensor([[1.0, torch.nan], [3.0, 4.0]])
    got = clip_logits(logits, 1.0)
    assert got[0].isnan().any()
    torch.testing.assert_close(got[1], torch.tensor([0.6, 0.8]))
    for bad in (logits, torch.tensor([[1.0, torch.inf]])):
        with pytest.raises(InputError, match="NaN or infinity"):
            clip_logits(bad, 1.0, nan="refuse")
        with pytest.raises(ValueError, match="NaN or infinity"):
            LogitClipLoss(nan="refuse")(bad, torch.zeros(len(bad), dtype=torch.int64))


def test_logits_that_are_none() -> None:
    with pytest.raises(InputError, match="at least one class"):
        clip_logits(torch.ones(3, 0), 1.0)
    with pytest.raises(InputError, match="expected floats"):
        clip_logits(torch.ones(3, 2, dtype=torch.int64), 1.0)
    with pytest.raises(InputError, match="dim: expected"):
        clip_logits(torch.ones(3, 2), 1.0, dim=2)
    with pytest.raises(InputError, match="dim: expected"):
        clip_logits(torch.tensor(1.0), 1.0)


def test_bounds_hold_and_survive_large_caps() -> None:
    logits = 30 * normal(200, 6)
    losses = F.cross_entropy(clip_logits(logits, 1.5), torch.arange(200) % 6, reduction="none")
    bounds = cross_entropy_bounds(6, tau=1.5)
    assert bounds.least <= losses.min()
    assert losses.max() <= bounds.most
    assert math.isclose(cross_entropy_bounds(6, tau=1e4).most, 2e4 + math.log(5))
    assert cross_entropy_bounds(1, tau=3.0) == (0.0, 0.0)


def test_any_base_loss_and_any_class_dimension() -> None:
    def focal(logits: Tensor, targets: Tensor) -> Tensor:
        nll = F.cross_entropy(logits, targets, reduction="none")
        return ((1 - (-nll).exp()).square() * nll).mean()

    pixels, classes = 4 * normal(2, 5, 3, 3), torch.arange(18).reshape(2, 3, 3) % 5
    flat = pixels.movedim(1, -1).reshape(-1, 5)
    for base in (focal, nn.CrossEntropyLoss(label_smoothing=0.1)):
        wide = LogitClipLoss(base_loss=base, tau=2.0, dim=1)(pixels, classes)
        torch.testing.assert_close(wide, LogitClipLoss(base_loss=base, tau=2.0)(flat, classes.flatten()))
        assert not torch.isclose(wide, base(pixels, classes))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infonce, "LEAST_TILE_ROWS", 3)
    monkeypatch.setitem(infonce.TILE_BYTES, "cpu", 1)


@orders
@pytest.mark.parametrize("width", [3, 12])
@pytest.mark.usefixtures("small_tiles")
def test_rows_equal_the_stored_matrix(p: float, width: int) -> None:
    queries, keys = normal(8, width).requires_grad_(), normal(10, width, seed=1).requires_grad_()
    weight = normal(8, 10, seed=2)
    got = clip_rows(queries, keys=keys, tau=4.0, p=p) @ keys.T
    wanted = clip_logits(queries @ keys.T, 4.0, p=p)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    mine = torch.autograd.grad((got * weight).sum(), (queries, keys))
    theirs = torch.autograd.grad((wanted * weight).sum(), (queries, keys))
    for first, second in zip(mine, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-8, atol=1e-10)


def test_a_query_that_meets_no_key() -> None:
    queries, keys = torch.zeros(2, 3, requires_grad=True), normal(5, 3, dtype=torch.float32)
    for p in ORDERS:
        got = clip_rows(queries, keys=keys, tau=0.5, p=p)
        assert torch.equal(got, queries)
        (grad,) = torch.autograd.grad(got.sum(), queries)
        assert torch.equal(grad, torch.ones_like(queries))


def test_a_shared_direction_costs_no_digits() -> None:
    # Texts that point almost the same way, and an image almost at right angles to them all.
    keys = F.normalize(torch.eye(8)[0] + 1e-3 * normal(4000, 8, dtype=torch.float32), dim=1)
    queries = F.normalize(torch.eye(8)[1] + 1e-3 * torch.eye(8)[0], dim=0)[None]
    got = row_norms(queries, keys=keys).double()
    wanted = torch.linalg.vector_norm(queries.double() @ keys.double().T, dim=1, keepdim=True)
    torch.testing.assert_close(got, wanted, rtol=2e-6, atol=0)


def pair_loss(image: Tensor, text: Tensor, scale: Tensor, tau: float, p: float) -> Tensor:
    """Cross-entropy both ways with the whole matrix, each direction with its own clipped rows."""
    logits, target = scale * image @ text.T, torch.arange(len(image))
    sides = (F.cross_entropy(clip_logits(side, tau, p=p), target) for side in (logits, logits.T))
    return torch.stack(list(sides)).mean()


def encoded(count: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    image, text = (F.normalize(normal(count, width, seed=s), dim=1).requires_grad_() for s in (0, 1))
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (20.0, -3.0))
    return image, text, scale, bias


@orders
@pytest.mark.usefixtures("small_tiles")
def test_clip_inside_equals_the_stored_matrix(p: float) -> None:
    image, text, scale, bias = encoded(11, 4)
    batch = Batch(torch.zeros(11, 3, 1, 1), torch.arange(1, 12)[:, None])
    tau = 20.0 if p == 1 else 12.0
    loss = LogitClip(tau=tau, p=p)(Encoded(Features(image), Features(text), scale, bias), batch, gather=LOCAL)
    wanted = pair_loss(image, text, scale, tau, p)
    torch.testing.assert_close(loss.total, wanted, rtol=1e-10, atol=0)
    assert 0 < loss.terms["clipped"] <= 1
    assert {"image_to_text", "text_to_image", "logit_scale"} <= loss.terms.keys()
    mine = torch.autograd.grad(loss.total, (image, text, scale))
    theirs = torch.autograd.grad(wanted, (image, text, scale))
    # The embeddings are normalised inside, so only what is at right angles to them is seen.
    for leaf, first, second in zip((image, text), mine, theirs, strict=False):
        across = second - (second * leaf).sum(dim=1, keepdim=True) * leaf
        torch.testing.assert_close(first, across, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(mine[2], theirs[2], rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_siglip_inside_clips_the_rows_of_images(p: float) -> None:
    image, text, scale, bias = encoded(9, 4)
    batch = Batch(torch.zeros(9, 3, 1, 1), torch.arange(1, 10)[:, None])
    out = Encoded(Features(image), Features(text), scale, bias)
    loss = LogitClip(inner=SigLipLoss(), tau=6.0, p=p)(out, batch, gather=LOCAL)
    logits = clip_logits(scale * image @ text.T + bias, 6.0, p=p)
    signs = 2 * torch.eye(9, dtype=torch.float64) - 1
    wanted = -F.logsigmoid(signs * logits).sum() / 9
    torch.testing.assert_close(loss.total, wanted, rtol=1e-10, atol=0)
    for leaf in (scale, bias):
        torch.testing.assert_close(
            torch.autograd.grad(loss.total, leaf, retain_graph=True)[0],
            torch.autograd.grad(wanted, leaf, retain_graph=True)[0],
            rtol=1e-8,
            atol=1e-10,
        )


def test_a_large_cap_gives_the_inner_loss() -> None:
    image, text, scale, bias = encoded(11, 4)
    out = Encoded(Features(image), Features(text), scale, bias)
    batch = Batch(torch.zeros(11, 3, 1, 1), torch.tensor([1, 2, 1, 3, 4, 5, 6, 7, 8, 9, 1])[:, None])
    for inner in (
        ClipLoss(label_smoothing=0.2, duplicates="positives"),
        ClipLoss(directions="text_to_image"),
        ClipLoss(directions="sum"),
        SigLipLoss(duplicates="positives"),
    ):
        loss = LogitClip(inner=inner, tau=1e6)(out, batch, gather=LOCAL)
        torch.testing.assert_close(loss.total, inner(out, batch, gather=LOCAL).total, rtol=1e-10, atol=0)
        assert loss.terms["clipped"] == 0


def test_a_recipe_names_the_inner_objective() -> None:
    spec = {"name": "logit_clip", "tau": 9, "p": "inf", "inner": {"name": "clip", "label_smoothing": 0.1}}
    part = build(spec, OBJECTIVES, where="run.yaml: objective")
    assert isinstance(part, LogitClip)
    assert isinstance(part.inner, ClipLoss)
    assert (part.tau, part.p, part.inner.label_smoothing) == (9.0, math.inf, 0.1)
    assert isinstance(build("logit_clip", OBJECTIVES, where="x").inner, ClipLoss)
    for inner, message in (
        ("clap", "unknown part 'clap'"),
        ({"name": "clip", "smoothing": 0.1}, "unknown key 'smoothing'"),
        (3, "inner"),
    ):
        with pytest.raises(InputError, match=message):
            build({"name": "logit_clip", "inner": inner}, OBJECTIVES, where="x")


def test_an_objective_whose_logits_are_hidden_is_refused() -> None:
    with pytest.raises(InputError, match="cannot reach the logits of LogitClip; known: clip, siglip"):
        LogitClip(inner=LogitClip())
    out = Encoded(Features(torch.eye(2)), Features(torch.eye(2)), torch.tensor(10.0))
    with pytest.raises(InputError, match="logit bias"):
        LogitClip(inner="siglip")(out, Batch(torch.zeros(2, 3, 1, 1), torch.ones(2, 1)), gather=LOCAL)
