"""Losses of regions: their methods, empty batches, several processes, half precision, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.losses import (
    box_distance_loss,
    clip_loss,
    concept_distill_loss,
    concept_labels,
    patch_distill_loss,
    region_contrast_loss,
    region_cosine_loss,
)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


class Both(Gather):
    """Two processes with the same rows, as ``rank`` sees them."""

    def __call__(self, one: torch.Tensor) -> torch.Tensor:
        return torch.cat([one, one])


def test_without_equal_phrases_it_is_clips_loss():
    regions, texts = rows(6, 5), rows(6, 5, seed=1)
    wanted = clip_loss(regions, texts, 7.0)
    for equal in ("left_out", "negatives", "each", "any"):
        found = region_contrast_loss(regions, texts, 7.0, ids=torch.arange(6), equal=equal)
        torch.testing.assert_close(found, wanted)


def test_equal_phrases():
    regions, texts, ids = rows(4, 5), rows(4, 5, seed=1), torch.tensor([3, 3, 8, -1])
    texts[1] = texts[0]
    logits = 7.0 * regions @ texts.T
    probs = logits.softmax(dim=1)
    one_way = {"equal": "any", "ways": "regions", "ids": ids}
    any_of = -torch.stack([probs[0, :2].sum(), probs[1, :2].sum(), probs[2, 2], probs[3, 3]]).log().mean()
    torch.testing.assert_close(region_contrast_loss(regions, texts, 7.0, **one_way), any_of)
    each = -torch.stack([probs[0, :2].log().mean(), probs[1, :2].log().mean(), probs[2, 2].log(), probs[3, 3].log()])
    found = region_contrast_loss(regions, texts, 7.0, **{**one_way, "equal": "each"})
    torch.testing.assert_close(found, each.mean())
    logits[0, 1] = logits[1, 0] = -math.inf
    left = -logits.log_softmax(dim=1).diagonal().mean()
    torch.testing.assert_close(region_contrast_loss(regions, texts, 7.0, **{**one_way, "equal": "left_out"}), left)


def test_unknown_phrases_are_like_no_other():
    regions, texts, unknown = rows(3, 4), rows(3, 4, seed=1), torch.full((3,), -1)
    found = region_contrast_loss(regions, texts, 5.0, ids=unknown, equal="each")
    torch.testing.assert_close(found, clip_loss(regions, texts, 5.0))


def test_what_is_not_valid_does_not_count():
    regions, texts, ids = rows(2, 3, 5), rows(2, 3, 5, seed=1), torch.tensor([[1, 2, 3], [1, 4, 5]])
    valid = torch.tensor([[True, False, True], [True, False, False]])
    found = region_contrast_loss(regions * valid[..., None], texts, 4.0, ids=ids, valid=valid)
    some = region_contrast_loss(regions[valid], texts[valid], 4.0, ids=ids[valid])
    torch.testing.assert_close(found, some)


@pytest.mark.parametrize("equal", ["left_out", "negatives", "each", "any"])
def test_without_a_region_it_is_0_with_a_gradient_of_zeros(equal):
    regions = rows(2, 3, 5).float().requires_grad_()
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    loss = region_contrast_loss(regions, rows(2, 3, 5).float(), 4.0, valid=nothing, equal=equal)
    (gradient,) = torch.autograd.grad(loss, regions)
    assert loss == 0
    assert not gradient.any()


def test_a_row_all_of_whose_others_are_left_out_counts_0():
    regions, ids = rows(3, 4).requires_grad_(), torch.zeros(3, dtype=torch.int64)
    loss = region_contrast_loss(regions, rows(3, 4, seed=1), 9.0, ids=ids)
    assert loss == 0
    assert torch.autograd.grad(loss, regions)[0].isfinite().all()


def test_several_processes_see_each_others_regions():
    regions, texts, valid = rows(2, 2, 5), rows(2, 2, 5, seed=1), torch.tensor([[True, False], [True, True]])
    ids = torch.tensor([[0, 1], [2, 3]])
    found = region_contrast_loss(regions, texts, 4.0, ids=ids, valid=valid, gather=Both(rank=1, world=2))
    twice = [torch.cat([one, one]) for one in (regions, texts, ids, valid)]
    whole = region_contrast_loss(twice[0], twice[1], 4.0, ids=twice[2], valid=twice[3])
    torch.testing.assert_close(found, whole)


def test_half_precision_is_widened():
    regions, texts = rows(8, 16).bfloat16(), rows(8, 16, seed=1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = region_contrast_loss(regions, texts, 100.0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ids": torch.zeros(2, dtype=torch.int64)}, "ids: expected"),
        ({"valid": torch.ones(3)}, "valid: expected bool"),
        ({"equal": "some"}, "equal"),
    ],
)
def test_bad_settings_of_the_contrast(settings, words):
    with pytest.raises(InputError, match=words):
        region_contrast_loss(rows(3, 4), rows(3, 4), 1.0, **settings)


def test_rows_that_are_not_unit_are_named():
    with pytest.raises(InputError, match="region row 1 has length 2"):
        region_contrast_loss(rows(3, 4) * torch.tensor([1.0, 2.0, 1.0])[:, None], rows(3, 4), 1.0)
    with pytest.raises(InputError, match="alike"):
        region_contrast_loss(rows(3, 4), rows(2, 4), 1.0)


def test_box_distances():
    pred = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.0, 0.0, 1.0, 1.0]]])
    boxes = torch.tensor([[[0.4, 0.3, 0.6, 0.9], [0.0, 0.0, 0.0, 0.0]]])
    assert box_distance_loss(pred, boxes).item() == pytest.approx((0.1**2 + 0.2**2) / 4)
    assert box_distance_loss(pred, boxes, form="absolute").item() == pytest.approx(0.3 / 4)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    assert box_distance_loss(pred.requires_grad_(), boxes, valid=nothing).item() == 0
    with pytest.raises(InputError, match="image 0, box 0: expected x0 <= x1"):
        box_distance_loss(pred, boxes.flip(2))
    with pytest.raises(InputError, match="alike"):
        box_distance_loss(pred, boxes[:, :1])


def test_labels_keep_the_sure_and_all_where_none_is():
    regions, concepts = rows(6, 4), rows(3, 4, seed=1)
    labels = concept_labels(regions, concepts, temperature=0.2, threshold=0.9)
    most = (regions @ concepts.T / 0.2).softmax(dim=1).amax(dim=1)
    assert torch.equal(labels.keep, most > 0.9)
    assert 0 < labels.keep.sum() < 6
    valid = torch.tensor([True, True, True, False, False, False])
    flat = concept_labels(regions, concepts, temperature=100.0, threshold=0.9, valid=valid)
    assert torch.equal(flat.keep, valid)
    assert not flat.confident.any()


def test_a_student_that_agrees_has_no_loss_and_any_temperature_is_finite():
    regions, concepts = rows(6, 4).float(), rows(3, 4, seed=1).float()
    labels = concept_labels(regions, concepts, temperature=1e-4, threshold=0.0)
    assert concept_distill_loss(regions, concepts, labels, temperature=1e-4).item() == pytest.approx(0, abs=1e-6)
    other = rows(6, 4, seed=3).float().requires_grad_()
    loss = concept_distill_loss(other, concepts, labels, temperature=1e-4)
    assert torch.autograd.grad(loss, other)[0].isfinite().all()
    none = concept_labels(regions, concepts, valid=torch.zeros(6, dtype=torch.bool))
    assert concept_distill_loss(other, concepts, none).item() == 0


def test_bad_pools():
    with pytest.raises(InputError, match="at least 2, got 1"):
        concept_labels(rows(3, 4), rows(1, 4))
    with pytest.raises(InputError, match="expected regions"):
        concept_labels(rows(3, 4), rows(3, 5))
    labels = concept_labels(rows(3, 4), rows(3, 4))
    with pytest.raises(InputError, match="3 regions over 2 concepts"):
        concept_distill_loss(rows(3, 4), rows(2, 4), labels)
    with pytest.raises(InputError, match="valid: expected bool"):
        concept_labels(rows(3, 4), rows(3, 4), valid=torch.ones(3))


def test_regions_against_crops():
    regions, patches = rows(2, 3, 4).requires_grad_(), rows(2, 3, 5, 4, seed=1).requires_grad_()
    whole = rows(2, 3, 4, seed=2)
    valid = torch.tensor([[True, True, False], [False, True, True]])
    apart = {
        "patch": 1 - F.cosine_similarity(regions, patches.mean(dim=2), dim=2)[valid].mean(),
        "cls": 1 - F.cosine_similarity(regions, whole, dim=2)[valid].mean(),
    }
    apart["both"] = (apart["patch"] + apart["cls"]) / 2
    for target, wanted in apart.items():
        torch.testing.assert_close(patch_distill_loss(regions, patches, whole, target=target, valid=valid), wanted)
    resting = patch_distill_loss(regions, patches, whole)
    assert torch.autograd.grad(resting, patches, allow_unused=True, retain_graph=True)[0] is None
    moving = patch_distill_loss(regions, patches, whole, targets_learn="yes")
    assert torch.autograd.grad(moving, patches)[0].any()
    with pytest.raises(InputError, match="n of at least 1"):
        patch_distill_loss(regions, patches[:, :, :0], whole)


def test_no_region_has_no_cosine():
    regions = torch.zeros(2, 3, 4, requires_grad=True)
    loss = region_cosine_loss(regions, regions.detach(), valid=torch.zeros(2, 3, dtype=torch.bool))
    assert loss == 0
    assert torch.autograd.grad(loss, regions)[0].isfinite().all()
    with pytest.raises(InputError, match="alike"):
        region_cosine_loss(regions, regions[:1])
