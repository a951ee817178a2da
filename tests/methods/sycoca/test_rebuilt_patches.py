"""Patches chosen by a text and the error of rebuilt ones: ties, shares, empty masks, gradients."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.sycoca.masked_patches import (
    attentive_select,
    choose_patches,
    masked_patch_loss,
    patch_pixels,
    patch_scores,
)


@pytest.mark.parametrize(("drop", "mask"), [(0.0, 0.0), (0.5, 0.5), (0.29, 0.99), (0.999, 0.1)])
def test_counts_are_truncated_and_ties_go_to_the_first(drop, mask):
    found = choose_patches(torch.zeros(2, 10), drop=drop, mask=mask)
    assert found.keep.tolist() == 2 * [[place < 10 - int(10 * drop) for place in range(10)]]
    assert found.masked.tolist() == 2 * [[place < int(10 * mask) for place in range(10)]]


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5])
@pytest.mark.parametrize("name", ["drop", "mask"])
def test_shares_lie_below_one(name, bad):
    with pytest.raises(InputError, match=f"{name}: expected"):
        attentive_select(torch.randn(1, 4, 3), torch.randn(1, 3), **{name: bad})


def test_widths_must_match():
    with pytest.raises(InputError, match=r"text: expected \(2, 3\)"):
        attentive_select(torch.randn(2, 4, 3), torch.randn(2, 5))
    with pytest.raises(InputError, match=r"got \(1, 3\)"):
        attentive_select(torch.randn(2, 4, 3), torch.randn(1, 3))


def test_no_gradient_goes_through_the_choice():
    patch, text = torch.randn(2, 4, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    assert not patch_scores(patch, text).requires_grad
    assert patch_scores(patch.bfloat16(), text.bfloat16()).dtype == torch.float32


def test_without_a_hidden_patch_loss_and_gradient_are_exactly_zero():
    predicted = torch.randn(2, 4, 3, requires_grad=True)
    loss = masked_patch_loss(predicted, torch.randn(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert not predicted.grad.any()


def test_only_hidden_patches_count():
    target, masked = torch.zeros(1, 3, 2), torch.tensor([[True, False, True]])
    predicted = torch.tensor([[[1.0, 3], [9, 9], [0, 0]]])
    assert masked_patch_loss(predicted, target, masked).item() == 2.5
    assert masked_patch_loss(predicted, target, masked, pixel="l1").item() == 1.0
    with pytest.raises(InputError, match="expected predicted and target"):
        masked_patch_loss(predicted, target[:, :2], masked)


def test_pixels_of_patches():
    image = torch.arange(2 * 3 * 5 * 6, dtype=torch.float32).view(2, 3, 5, 6)
    found = patch_pixels(image, patch=(2, 3), norm="none")  # the last row of pixels fills no patch
    assert found.shape == (2, 4, 18)
    assert torch.equal(found[1, 3], image[1, :, 2:4, 3:6].permute(1, 2, 0).flatten())
    normed = patch_pixels(image, patch=(2, 3))
    torch.testing.assert_close(normed.mean(dim=2), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(dim=2), torch.ones(2, 4))
    assert not patch_pixels(torch.full((1, 3, 4, 4), 7, dtype=torch.uint8), patch=(2, 2)).any()
