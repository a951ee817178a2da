"""Region pooling: boxes and masks over a map of patches against sums written out."""

import math

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import Features
from tether.models.features.region_pooling import pool_boxes, pool_masks


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_boxes(batch, count, seed=0):
    corners = torch.rand(batch, count, 2, 2, generator=generator(seed), dtype=torch.float64).sort(dim=2).values
    return torch.cat([corners[:, :, 0], corners[:, :, 1]], dim=2)


def at(image, y, x):
    """Between the nearest four of (h, w, d), whose centres lie at whole numbers; the border is repeated."""
    height, width = image.shape[:2]
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(image.shape[2])
    y, x = max(y, 0), max(x, 0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    down, across = (y - y0 if y0 < height - 1 else 0.0), (x - x0 if x0 < width - 1 else 0.0)
    top = image[y0, x0] * (1 - across) + image[y0, x1] * across
    return top * (1 - down) + (image[y1, x0] * (1 - across) + image[y1, x1] * across) * down


def aligned(image, box, bins, samples):
    """RoI align as its paper says it, point by point."""
    height, width, dim = image.shape
    x0, y0, x1, y1 = np.array(box) * [width, height, width, height] - 0.5
    tall, wide = (y1 - y0) / bins[0], (x1 - x0) / bins[1]
    down, across = samples or max(1, math.ceil(tall)), samples or max(1, math.ceil(wide))
    total = np.zeros(dim)
    for row in range(bins[0] * down):
        for column in range(bins[1] * across):
            total += at(image, y0 + (row + 0.5) * tall / down, x0 + (column + 0.5) * wide / across)
    return total / (bins[0] * down * bins[1] * across)


@pytest.mark.parametrize("bins", [1, (2, 3)])
@pytest.mark.parametrize("samples", ["adaptive", 2])
def test_boxes_are_pooled_point_by_point(bins, samples):
    tokens = torch.randn(2, 5, 7, 3, generator=generator(), dtype=torch.float64)
    boxes = some_boxes(2, 6)
    found = pool_boxes(tokens, boxes, bins=bins, samples=samples)
    pair, points = (bins, bins) if isinstance(bins, int) else bins, None if samples == "adaptive" else samples
    for row in range(2):
        for region in range(6):
            expected = aligned(tokens[row].numpy(), boxes[row, region].numpy(), pair, points)
            assert np.allclose(found[row, region].numpy(), expected, atol=1e-12)
    flat = pool_boxes(tokens.flatten(1, 2), boxes, grid=(5, 7), bins=bins, samples=samples)
    assert torch.equal(flat, found)


def test_the_whole_image_is_the_mean_and_a_patch_is_itself():
    tokens = torch.randn(3, 16, 8, generator=generator())
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 1, 4)
    assert torch.allclose(pool_boxes(tokens, whole)[:, 0], tokens.mean(dim=1), atol=1e-6)
    patch = torch.tensor([0.25, 0.5, 0.5, 0.75]).expand(3, 1, 4)
    assert torch.allclose(pool_boxes(tokens, patch)[:, 0], tokens[:, 9], atol=1e-6)
    mask = torch.ones(3, 1, 32, 32, dtype=torch.bool)
    assert torch.allclose(pool_masks(tokens, mask)[:, 0], tokens.mean(dim=1), atol=1e-6)


def test_masks_are_shares_of_patches():
    tokens = torch.randn(2, 4, 6, 3, generator=generator(), dtype=torch.float64)
    masks = torch.rand(2, 5, 16, 18, generator=generator(1)) > 0.6
    shares = masks.double().view(2, 5, 4, 4, 6, 3).mean(dim=(3, 5))
    soft = (shares[..., None] * tokens[:, None]).sum(dim=(2, 3)) / shares.sum(dim=(2, 3))[..., None]
    assert torch.allclose(pool_masks(tokens, masks), soft)
    hard = (shares > 0.4).double()
    expected = (hard[..., None] * tokens[:, None]).sum(dim=(2, 3)) / hard.sum(dim=(2, 3))[..., None]
    assert torch.allclose(pool_masks(tokens, masks, above=0.4), expected)
    logits = torch.randn(2, 5, 4, 6, generator=generator(2), dtype=torch.float64)
    inside = (logits > 0).double()
    expected = (inside[..., None] * tokens[:, None]).sum(dim=(2, 3)) / inside.sum(dim=(2, 3))[..., None]
    assert torch.allclose(pool_masks(tokens, logits, resize="bilinear", above=0.0), expected)


def test_what_is_not_valid_gives_zeros_and_no_gradient():
    tokens = torch.randn(2, 9, 4, generator=generator(), dtype=torch.float64, requires_grad=True)
    boxes = some_boxes(2, 3)
    boxes[0, 1], boxes[1, 2] = 0.0, float("nan")
    valid = torch.tensor([[True, False, True], [True, True, False]])
    found = pool_boxes(tokens, boxes, valid=valid)
    assert (found[~valid] == 0).all()
    kept = pool_boxes(tokens[:1], boxes[:1, [0, 2]])
    assert torch.equal(found[0, [0, 2]], kept[0])
    found.square().sum().backward()
    assert torch.isfinite(tokens.grad).all()
    masks = torch.zeros(2, 3, 3, 3)
    masks[:, :, 0, 0] = 1
    masks[0, 1] = 0
    pooled = pool_masks(tokens, masks, valid=valid)
    assert (pooled[~valid] == 0).all()
    torch.testing.assert_close(pooled[0, 0], tokens[0, 0])
    assert (pool_masks(tokens, masks, valid=torch.ones_like(valid))[0, 1] == 0).all()
    nothing = pool_boxes(tokens, boxes[:, :0])
    assert nothing.shape == (2, 0, 4)


def test_gradients_reach_the_map():
    tokens = torch.randn(1, 3, 4, 2, generator=generator(), dtype=torch.float64, requires_grad=True)
    boxes, masks = some_boxes(1, 3), torch.rand(1, 2, 6, 8, generator=generator(1))
    assert torch.autograd.gradcheck(lambda values: pool_boxes(values, boxes), (tokens,))
    assert torch.autograd.gradcheck(lambda values: pool_masks(values, masks), (tokens,))


def test_half_precision_keeps_its_dtype_and_is_pooled_in_single():
    tokens = torch.randn(2, 14, 14, 8, generator=generator()).bfloat16()
    boxes = some_boxes(2, 4).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pool_boxes(tokens, boxes)
        masked = pool_masks(tokens, torch.ones(2, 1, 28, 28))
    assert found.dtype == masked.dtype == torch.bfloat16
    assert torch.equal(found, pool_boxes(tokens.float(), boxes).bfloat16())
    assert torch.equal(masked, pool_masks(tokens.float(), torch.ones(2, 1, 28, 28)).bfloat16())


def box(*corners):
    return torch.tensor([[[0.1, 0.1, 0.9, 0.9], corners]])


TOKENS = torch.zeros(1, 9, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool_boxes(TOKENS, box(0.1, 0.2, 0.1, 0.9)), "row 0, region 1"),
        (lambda: pool_boxes(TOKENS, box(0.5, 0.2, 0.1, 0.9)), "row 0, region 1"),
        (lambda: pool_boxes(TOKENS, box(-0.1, 0.2, 0.1, 0.9)), "row 0, region 1"),
        (lambda: pool_boxes(TOKENS, box(0.1, 0.2, 1.2, 0.9)), "row 0, region 1"),
        (lambda: pool_boxes(TOKENS, box(0.1, float("nan"), 0.9, 0.9)), "row 0, region 1"),
        (
            lambda: pool_boxes(TOKENS, box(1, 20, 30, 40)),
            r"in shares of the image.*region 1: \[1.0, 20.0, 30.0, 40.0\]",
        ),
        (lambda: pool_boxes(TOKENS, [[[0, 0, 1, 1]]]), "boxes: expected a tensor, x0.*got list"),
        (lambda: pool_boxes(Features(TOKENS[0]), box(0, 0, 1, 1)), "tokens: expected a tensor, such as.*got Features"),
        (lambda: pool_masks(TOKENS, [1]), "masks: expected a tensor"),
        (lambda: pool_boxes(TOKENS, torch.rand(2, 3, 4)), r"boxes: expected \(1, regions, 4\)"),
        (lambda: pool_boxes(TOKENS, torch.rand(1, 3, 5)), r"boxes: expected \(1, regions, 4\)"),
        (lambda: pool_boxes(torch.zeros(1, 8, 4), box(0, 0, 1, 1)), "grid: expected rows and columns of 8"),
        (lambda: pool_boxes(TOKENS, box(0, 0, 1, 1), grid=(2, 4)), "grid: expected rows and columns of 9"),
        (lambda: pool_boxes(torch.zeros(1, 3, 3, 4), box(0, 0, 1, 1), grid=(1, 9)), "grid: the map has"),
        (lambda: pool_boxes(TOKENS.long(), box(0, 0, 1, 1)), "tokens: expected floats"),
        (lambda: pool_boxes(TOKENS, box(0, 0, 1, 1), valid=torch.ones(1, 2)), "valid: expected bool"),
        (lambda: pool_boxes(TOKENS, box(0, 0, 1, 1), bins=0), "bins"),
        (lambda: pool_masks(TOKENS, torch.zeros(1, 2, 3, 3)), "row 0, region 0"),
        (lambda: pool_masks(TOKENS, torch.full((1, 1, 3, 3), float("nan"))), "row 0, region 0"),
        (lambda: pool_masks(TOKENS, torch.eye(3).sub(0.1)[None, None]), "row 0, region 0"),
        (lambda: pool_masks(TOKENS, torch.ones(1, 3, 3)), "masks: expected"),
        (lambda: pool_masks(TOKENS, torch.ones(1, 1, 0, 3)), "masks: expected"),
        (lambda: pool_masks(TOKENS, torch.ones(2, 1, 3, 3)), "masks: expected"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
