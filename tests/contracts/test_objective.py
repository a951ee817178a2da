"""What every objective of ``OBJECTIVES`` promises, and the tiled cores against the plain forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tether.losses.infonce as infonce
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import Objective
from tether.core.types import Batch, Encoded, Features
from tether.losses import (
    OBJECTIVES,
    ClipLoss,
    SigLipLoss,
    caption_labels,
    clip_loss,
    info_nce,
    info_nce_pairs,
    siglip_loss,
)
from tether.losses.infonce import label_classes
from tether.losses.reference import plain_info_nce, plain_sigmoid

pytestmark = pytest.mark.filterwarnings("ignore::tether.losses.long_clip.WholeBatchWarning")
objectives = pytest.mark.parametrize("name", OBJECTIVES)
WIDTH = 6

# Settings that reach each objective's branches; one that is not listed is tried with its defaults.
DUPLICATES = ({"duplicates": "negatives"}, {"duplicates": "positives"})
HARD = (*DUPLICATES, {"duplicates": "left_out"})
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "neg_clip": HARD,
    "info_nce": (*HARD, {"symmetric": "mean"}),
    "triplet_clip": HARD,
    "symmetric_negatives": tuple({"scope": scope, **one} for scope in ("own", "batch", "pair") for one in HARD),
    "clip": DUPLICATES,
    "geometry": DUPLICATES,
    "siglip": DUPLICATES,
    "logit_clip": (
        {"tau": 4.0},
        {"inner": {"name": "clip", "duplicates": "positives", "label_smoothing": 0.1}, "tau": 3.0, "p": 3.0},
        {"inner": {"name": "clip", "directions": "text_to_image"}, "tau": 3.0, "p": 1.0},
        {"inner": {"name": "siglip", "duplicates": "positives"}, "tau": 5.0},
    ),
    "contrastive_gap": (
        {},
        {"cross_uniform": 0.5, "duplicates": "positives", "t": 1.0},
        {"contrastive": 0.0, "cross_uniform": 1.0},
    ),
    "align_clip": (
        *DUPLICATES,
        {"sides": "image", "weighting": "none", "duplicates": "positives"},
        {"sides": "text", "alpha": 0.0},
    ),
    "m2_mix": (
        {"m2": 1.0, "v": 0.5, "l": 0.5, "vl": 0.3, "tau1": None, "duplicates": "positives"},
        {"m2": 0.0, "v": 0.5, "l": 0.0, "vl": 0.3, "tau1": None, "tau2": None, "negatives": "original"},
    ),
    "local_alignment": ({}, {"attention": "dot", "temp3": 2.0, "weight": 0.3, "inner": "siglip", "block": 2}),
    "fix_clip": ({}, {"omega": 0.0, "first_group": 1}),
    "long_clip": ({}, {"k": 2, "label_smoothing": 0.0, "short_weight": 0.3}),
    "multi_positive": ({}, {"credit": "any", "same_patient": "negatives"}),
    "matryoshka": (
        {"dims": [2, 3, 6]},
        {"of": "siglip", "dims": [3, 6], "weights": [0.5, 2.0], "reduce": "mean"},
        {"of": {"name": "neg_clip", "duplicates": "positives"}, "dims": [2, 4, 6], "dims_per_step": 2},
    ),
    "soft_targets": ({}, {"tau": None, "form": "shares"}, {"temperature": 0.2}),
}
WITHOUT_BIAS = {
    "geometry",
    "neg_clip",
    "info_nce",
    "triplet_clip",
    "symmetric_negatives",
    "clip",
    "contrastive_gap",
    "align_clip",
    "fix_clip",
    "long_clip",
    "m2_mix",
    "multi_positive",
    "soft_targets",
}
"""Objectives that never look at the logit bias."""


def rows(count: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, WIDTH, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def parts_of(rows: Tensor) -> Tensor:
    """Tokens that follow from the embeddings."""
    return torch.stack([rows, rows.roll(1, 1), rows.flip(1)], dim=1)


def words_of(rows: Tensor) -> Tensor:
    """Which of three tokens are real: two, or all, by turns."""
    real = torch.ones(len(rows), 3, dtype=torch.bool)
    real[::2, 2] = False
    return real


def encoded(image: Tensor, text: Tensor, *, scale: float = 10.0, bias: float = -5.0) -> Encoded:
    return Encoded(
        Features(image, parts_of(image)),
        Features(text, parts_of(text), words_of(text)),
        torch.tensor(scale, dtype=image.dtype, requires_grad=True),
        torch.tensor(bias, dtype=image.dtype, requires_grad=True),
        negative_image=Features(image.flip(1)),
        negative_text=Features(text.flip(1)),
    )


def batch_of(count: int, *, words: Tensor | None = None) -> Batch:
    text = torch.arange(1, count + 1)[:, None] if words is None else words
    findings = (torch.arange(count)[:, None] >> torch.arange(3)) & 1
    patient = torch.arange(count) // 2
    extra = {
        "negative_text": text.roll(1, 0),
        "semantic": rows(count, seed=9),
        "short_text": rows(count, seed=8),
        "masked_image": rows(count, seed=7),
        "findings": findings,
        "patient": patient,
    }
    return Batch(torch.zeros(count, 3, 1, 1), text, extra)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of three rows, so that a small batch has several and a rest."""
    monkeypatch.setattr(infonce, "LEAST_TILE_ROWS", 3)
    monkeypatch.setitem(infonce.TILE_BYTES, "cpu", 1)


@objectives
def test_is_scalar_with_detached_terms(name: str) -> None:
    objective = OBJECTIVES[name]()
    assert isinstance(objective, Objective)
    out = encoded(3 * rows(5).requires_grad_(), rows(5, seed=1))
    loss = objective(out, batch_of(5), gather=LOCAL)
    assert loss.total.ndim == 0
    assert loss.total.requires_grad
    assert loss.total.dtype == torch.float64
    assert loss.terms
    for term in loss.terms.values():
        assert term.ndim == 0
        assert not term.requires_grad


@objectives
def test_ignores_the_length_of_embeddings(name: str) -> None:
    first = OBJECTIVES[name]()(encoded(rows(5), rows(5, seed=1)), batch_of(5), gather=LOCAL)
    second = OBJECTIVES[name]()(encoded(rows(5) * 7, rows(5, seed=1) / 9), batch_of(5), gather=LOCAL)
    torch.testing.assert_close(first.total, second.total, rtol=1e-12, atol=0)


@objectives
def test_finite_and_wide_in_bf16(name: str) -> None:
    image, text = (rows(64, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encoded(image.to(torch.bfloat16), text.to(torch.bfloat16), scale=100.0)
        loss = OBJECTIVES[name]()(out, batch_of(64), gather=LOCAL)
        assert loss.total.dtype == torch.float32
        loss.total.backward()
    wide = OBJECTIVES[name]()(
        encoded(image.detach().to(torch.bfloat16).float(), text.detach().to(torch.bfloat16).float(), scale=100.0),
        batch_of(64),
        gather=LOCAL,
    )
    torch.testing.assert_close(loss.total, wide.total, rtol=1e-6, atol=0)
    assert image.grad.isfinite().all()
    assert text.grad.isfinite().all()


@objectives
@pytest.mark.usefixtures("small_tiles")
def test_gradcheck(name: str) -> None:
    batch = batch_of(7, words=torch.tensor([1, 2, 1, 3, 4, 3, 3])[:, None])
    for variant in VARIANTS.get(name, ({},)):
        objective = OBJECTIVES[name](**variant)

        def total(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, part: Objective = objective) -> Tensor:
            negative = {"negative_image": Features(image.flip(1)), "negative_text": Features(text.flip(1))}
            sides = Features(image, parts_of(image)), Features(text, parts_of(text), words_of(text))
            return part(Encoded(*sides, scale, bias, **negative), batch, gather=LOCAL).total

        leaves = [rows(7).requires_grad_(), rows(7, seed=1).requires_grad_()]
        scalars = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (5.0, -1.0)]
        if name in WITHOUT_BIAS or (
            name in ("logit_clip", "local_alignment", "matryoshka") and "siglip" not in str(variant)
        ):
            scalars[1].requires_grad_(False)
        torch.autograd.gradcheck(total, (*leaves, *scalars), fast_mode=True)


@objectives
def test_nan_is_handed_on(name: str) -> None:
    image = rows(4).clone()
    image[2, 0] = torch.nan
    assert OBJECTIVES[name]()(encoded(image, rows(4, seed=1)), batch_of(4), gather=LOCAL).total.isnan()


@objectives
def test_refuses_bad_batches(name: str) -> None:
    objective = OBJECTIVES[name]()
    with pytest.raises(InputError, match=r"image \(3, 6\) and text \(4, 6\)"):
        objective(encoded(rows(3), rows(4)), batch_of(3), gather=LOCAL)
    with pytest.raises(InputError, match="empty batch"):
        objective(encoded(rows(0), rows(0)), batch_of(0), gather=LOCAL)
    with pytest.raises(InputError, match="image row 1 has length 0, expected 1"):
        objective(encoded(rows(2) * torch.tensor([[1.0], [0.0]]), rows(2)), batch_of(2), gather=LOCAL)


def test_siglip_needs_a_bias() -> None:
    with pytest.raises(InputError, match="logit bias"):
        SigLipLoss()(Encoded(Features(rows(2)), Features(rows(2)), torch.tensor(10.0)), batch_of(2), gather=LOCAL)


@pytest.mark.parametrize("loss", [lambda a, b: clip_loss(a, b, 10.0), lambda a, b: siglip_loss(a, b, 10.0, -10.0)])
def test_functions_check_the_door(loss) -> None:
    with pytest.raises(InputError, match=r"expected embeddings \(b, d\)"):
        loss(rows(2)[0], rows(2)[0])
    with pytest.raises(InputError, match="as many images as texts"):
        loss(rows(2), rows(3))
    with pytest.raises(InputError, match="as many images as texts, of one width"):
        loss(rows(2), rows(2)[:, :3])
    with pytest.raises(InputError, match="empty"):
        loss(rows(0), rows(0))
    with pytest.raises(InputError, match="text row 2 has length 3, expected 1: normalise first"):
        loss(rows(3), rows(3) * torch.tensor([[1.0], [1.0], [3.0]]))


@pytest.mark.parametrize("directions", ["mean", "sum", "image_to_text", "text_to_image"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pair_costs_exactly_nothing(directions: str, dtype: torch.dtype) -> None:
    image, text = rows(1, dtype=dtype).requires_grad_(), rows(1, seed=1, dtype=dtype)
    loss = clip_loss(image, text, 100.0, directions=directions, label_smoothing=0.1, labels=torch.tensor([3]))
    loss.backward()
    assert loss == 0
    assert torch.equal(image.grad, torch.zeros_like(image))


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0, 2000.0])
@pytest.mark.parametrize("count", [1, 2, 3, 10])
@pytest.mark.parametrize("tiles", ["one", "many"])
def test_pairs_equal_the_plain_form(scale: float, count: int, tiles: str, request: pytest.FixtureRequest) -> None:
    if tiles == "many":
        request.getfixturevalue("small_tiles")
    left, right = rows(count).requires_grad_(), rows(count, seed=1).requires_grad_()
    multiplier = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, count, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    leaves = (left, right, multiplier)
    got = info_nce_pairs(left, right, scale=multiplier)
    expected = plain_info_nce(left, right, scale=multiplier), plain_info_nce(right, left, scale=multiplier)
    close = {"rtol": 1e-10, "atol": 1e-10}
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **close)
    mine = torch.autograd.grad((got.left * weight[0]).sum() + (got.right * weight[1]).sum(), leaves)
    theirs = torch.autograd.grad((expected[0] * weight[0]).sum() + (expected[1] * weight[1]).sum(), leaves)
    for first, second in zip(mine, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9 * scale)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("scale", [5.0, 100.0])
def test_options_equal_the_plain_form(labelled: bool, smoothing: float, scale: float) -> None:
    left, right, extra_left, extra_right = (rows(n, seed=s).requires_grad_() for s, n in enumerate((8, 8, 3, 5)))
    labels = torch.tensor([5, 1, 5, 2, -7, 2, 2, 0]) if labelled else None
    got = info_nce_pairs(
        left,
        right,
        scale=scale,
        extra_left=extra_left,
        extra_right=extra_right,
        labels=labels,
        label_smoothing=smoothing,
    )
    common = {"scale": scale, "query_labels": labels, "key_labels": labels, "label_smoothing": smoothing}
    expected = (
        plain_info_nce(left, torch.cat([right, extra_right]), **common),
        plain_info_nce(right, torch.cat([left, extra_left]), **common),
    )
    leaves = (left, right, extra_left, extra_right)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
    mine = torch.autograd.grad(got.left.sum() + 2 * got.right.sum(), leaves)
    theirs = torch.autograd.grad(expected[0].sum() + 2 * expected[1].sum(), leaves)
    for first, second in zip(mine, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small_tiles")
def test_one_way_with_offset_equals_the_plain_form() -> None:
    queries, keys = rows(4).requires_grad_(), rows(11, seed=1).requires_grad_()
    key_labels = torch.tensor([0, 1, 9, 9, 4, 1, 9, 4, 4, 9, 3])
    for labels in ({}, {"query_labels": key_labels[3:7], "key_labels": key_labels}):
        mine = info_nce(queries, keys, scale=20.0, offset=3, **labels)
        theirs = plain_info_nce(queries, keys, scale=20.0, offset=3, **labels)
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
        for first, second in zip(
            torch.autograd.grad(mine.sum(), (queries, keys)),
            torch.autograd.grad(theirs.sum(), (queries, keys)),
            strict=True,
        ):
            torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9)


def test_classes_of_labels_are_those_of_unique_without_waiting_for_their_number() -> None:
    generator = torch.Generator().manual_seed(0)
    for count, most in ((1, 1), (7, 3), (200, 40), (200, 2**62)):
        labels = torch.randint(-most, most, (count,), generator=generator)
        assert torch.equal(label_classes(labels), labels.unique(return_inverse=True)[1])
    assert label_classes(torch.zeros(5, dtype=torch.int64, device="meta")).shape == (5,)  # unique has no shape there


def test_columns_far_below_their_tile_survive_float32() -> None:
    # Column 2 lies 190 below the peak of the only tile: one shared exponential would lose it to underflow.
    left = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]])
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -0.1]])
    for repeat in (1, 30):
        a, b = left.repeat(repeat, 1).requires_grad_(), right.repeat(repeat, 1).requires_grad_()
        got = info_nce_pairs(a, b, scale=100.0)
        wide = plain_info_nce(b.double(), a.double(), scale=100.0)
        torch.testing.assert_close(got.right.double(), wide, rtol=1e-5, atol=1e-5)
        mine = torch.autograd.grad(got.right.sum(), a)[0]
        theirs = torch.autograd.grad(wide.sum(), a)[0]
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_tiles")
def test_siglip_labels_equal_the_plain_form() -> None:
    image, text = rows(8).requires_grad_(), rows(8, seed=1).requires_grad_()
    plain = plain_sigmoid(image, text, scale=10.0, bias=-4.0).mean()
    torch.testing.assert_close(siglip_loss(image, text, 10.0, -4.0), plain, rtol=1e-12, atol=0)
    labels = torch.tensor([5, 1, 5, 2, -7, 2, 2, 0])
    signs = 2 * (labels[:, None] == labels[None]).double() - 1
    bias = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    wanted = -F.logsigmoid(signs * (10 * image @ text.T + bias)).sum() / 8
    got = siglip_loss(image, text, 10.0, bias, labels=labels)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=0)
    leaves = (image, text, bias)
    for first, second in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


def test_reductions_and_directions() -> None:
    image, text = rows(6), rows(6, seed=1)
    each = clip_loss(image, text, 10.0, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(clip_loss(image, text, 10.0), each.mean())
    torch.testing.assert_close(clip_loss(image, text, 10.0, reduction="sum"), each.sum())
    torch.testing.assert_close(clip_loss(image, text, 10.0, directions="sum"), 2 * each.mean())
    one_way = [clip_loss(image, text, 10.0, directions=way) for way in ("image_to_text", "text_to_image")]
    torch.testing.assert_close(sum(one_way) / 2, each.mean())


def test_labels_that_are_distinct_change_nothing() -> None:
    image, text = rows(9), rows(9, seed=1)
    torch.testing.assert_close(clip_loss(image, text, 30.0, labels=torch.arange(9)), clip_loss(image, text, 30.0))


def test_duplicate_captions_stop_pushing_each_other_away() -> None:
    image = torch.eye(WIDTH, dtype=torch.float64)[[0, 1, 2, 3]]
    text = image.clone()
    text[1], image[1] = text[0], image[0]
    words = torch.tensor([[3, 4], [3, 4], [5, 0], [6, 7]])
    leaf = image.clone().requires_grad_()
    for duplicates, largest in (("positives", 1e-9), ("negatives", 10.0)):
        out = Encoded(Features(leaf), Features(text), torch.tensor(100.0, dtype=torch.float64))
        loss = ClipLoss(duplicates=duplicates)(out, batch_of(4, words=words), gather=LOCAL).total
        assert torch.autograd.grad(loss, leaf)[0].abs().max() < largest
        torch.testing.assert_close(loss.item(), torch.log(torch.tensor(2.0)).item() / 2, rtol=1e-6, atol=0)


def test_caption_labels_know_equal_tokens_whatever_the_padding() -> None:
    short = caption_labels(torch.tensor([[7, 8, 9], [8, 7, 9], [7, 8, 0]]))
    long = caption_labels(torch.tensor([[7, 8, 9, 0, 0], [7, 8, 9, 1, 0], [0, 7, 8, 9, 0]]))
    assert short[0] == long[0]
    assert len({*short.tolist(), *long.tolist()}) == 5
    many = torch.randint(1, 49408, (20_000, 8), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    assert len(caption_labels(many).unique()) == len(many)


def test_more_negatives_never_lower_an_anchors_loss() -> None:
    image, text = rows(20), rows(20, seed=1)
    few = info_nce(image[:8], text[:8], scale=20.0)
    many = info_nce(image[:8], text, scale=20.0)
    assert (many >= few).all()


def test_frozen_sides_get_no_gradient() -> None:
    image, text = rows(5), rows(5, seed=1).requires_grad_()
    clip_loss(image, text, 10.0).backward()
    assert image.grad is None
    assert text.grad.abs().sum() > 0


def test_second_derivatives_are_refused() -> None:
    image = rows(5).requires_grad_()
    for loss in (clip_loss(image, rows(5, seed=1), 10.0), siglip_loss(image, rows(5, seed=1), 10.0, 0.0)):
        with pytest.raises(InputError, match="first-order"):
            torch.autograd.grad(loss, image, create_graph=True)
