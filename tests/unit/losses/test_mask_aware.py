"""MAFT+'s losses where the figures do not look."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.losses.mask_aware import compensation_loss, mask_aware_loss, pooled_sums, relative_iou, soft_iou


def drawn(queries: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, masks' logits, true masks and labels of two images; the second has one mask."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 2, 6, 6, generator=generator) < 0.5
    masks[1, 1] = False
    logits = torch.randn(2, queries, 4, generator=generator).requires_grad_()
    mask_logits = torch.randn(2, queries, 6, 6, generator=generator).requires_grad_()
    return logits, mask_logits, masks, torch.tensor([[0, 2], [1, 7]])


class TestMaskAware:
    def test_empty_masks_count_for_nothing_and_masks_get_no_gradient(self) -> None:
        logits, mask_logits, masks, labels = drawn()
        loss = mask_aware_loss(logits, mask_logits, masks, labels)
        loss.backward()
        assert mask_logits.grad is None
        assert logits.grad is not None
        assert not logits.grad[..., -1].any()
        valid = torch.tensor([[True, True], [True, False]])
        same = mask_aware_loss(logits, mask_logits, masks | ~valid[..., None, None], labels, valid=valid)
        assert same.item() == pytest.approx(loss.item())

    def test_a_batch_without_masks_is_zero(self) -> None:
        logits, mask_logits, masks, labels = drawn()
        loss = mask_aware_loss(logits, mask_logits, masks & False, labels)
        loss.backward()
        assert loss.item() == 0
        assert mask_aware_loss(logits, mask_logits, masks[:, :0], labels[:, :0]).item() == 0

    def test_one_predicted_mask_or_equal_ones_aim_at_zero(self) -> None:
        logits, mask_logits, masks, labels = drawn(queries=1)
        iou = soft_iou(mask_logits, masks)
        assert iou.shape == (2, 2, 1)
        assert not relative_iou(iou).any()
        assert not relative_iou(torch.full((1, 1, 3), 0.4)).any()
        assert mask_aware_loss(logits, mask_logits, masks, labels) > 0

    def test_masks_of_another_size_are_brought_to_that_of_the_logits(self) -> None:
        _, mask_logits, masks, _ = drawn()
        large = masks.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert torch.allclose(soft_iou(mask_logits, large), soft_iou(mask_logits, masks))

    def test_what_does_not_fit_is_refused(self) -> None:
        logits, mask_logits, masks, labels = drawn()
        with pytest.raises(InputError, match="classes 0 to 2, got 3"):
            mask_aware_loss(logits, mask_logits, masks, labels + 1)
        with pytest.raises(InputError, match="logits: expected"):
            mask_aware_loss(logits[:, :2], mask_logits, masks, labels)
        with pytest.raises(InputError, match="logits: expected"):
            mask_aware_loss(logits[..., :1], mask_logits, masks, labels)
        with pytest.raises(InputError, match="expected mask_logits"):
            soft_iou(mask_logits, masks[:1])


class TestCompensation:
    def test_is_zero_at_the_start_and_holds_the_frozen_map(self) -> None:
        features = torch.randn(2, 3, 8, 8).requires_grad_()
        frozen = torch.randn(2, 3, 8, 8).requires_grad_()
        assert compensation_loss(features, features).item() == 0
        compensation_loss(features, frozen).backward()
        assert features.grad is not None
        assert frozen.grad is None

    def test_a_high_map_is_pooled_by_the_side_of_its_square(self) -> None:
        high = torch.rand(1, 2, 8, 4)
        turned = pooled_sums(high.mT)
        found = pooled_sums(high)
        assert found.shape == turned.shape == (1, 2 * 2 * 7)
        rows, columns = found[:, :2], found[:, 2:4]
        assert torch.allclose(torch.cat([columns, rows], dim=1), turned[:, :4])
        assert pooled_sums(high, match_official=True).shape != found.shape
        assert torch.allclose(pooled_sums(high.mT, match_official=True), turned)

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(InputError, match="frozen: expected"):
            compensation_loss(torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 5))
        with pytest.raises(InputError, match="at most 3, the side of the map, got 4"):
            pooled_sums(torch.rand(1, 2, 3, 3))
        with pytest.raises(InputError, match="features: expected"):
            pooled_sums(torch.rand(1, 2, 3))
