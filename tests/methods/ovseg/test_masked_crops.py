"""Masked crops: what is inside, colours, sizes, and bad input."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.ovseg.masked_crops import MEAN, masked_crop, masked_crops


def image_and_mask() -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(20, 30, dtype=torch.bool)
    mask[5:9, 10:16] = True
    mask[5, 10] = False
    return image, mask


def test_the_box_around_the_mask() -> None:
    image, mask = image_and_mask()
    found = masked_crop(image, mask)
    assert found.pixels.shape == (3, 4, 6)
    assert found.pixels[:, 0, 0].tolist() == [round(value) for value in MEAN]
    assert torch.equal(found.pixels[:, 1:], image[:, 6:9, 10:16])
    assert torch.equal(masked_crop(image, mask, fill="none").pixels, image[:, 5:9, 10:16])
    assert masked_crop(image, mask, fill=(0, 255, 3)).pixels[:, 0, 0].tolist() == [0, 255, 3]
    wide = masked_crop(image, mask, expand=2.0, size=(7, 5))
    assert wide.pixels.shape == (3, 7, 5)
    assert wide.pixels.dtype == torch.uint8
    assert wide.mask.any()
    assert not wide.mask.all()
    assert masked_crop(image, mask, expand=100.0).pixels.shape == (3, 20, 30)


def test_floats_are_not_limited() -> None:
    mask = torch.ones(4, 4, dtype=torch.bool)
    image = 255.0 * (torch.arange(4) % 2).float().expand(3, 4, 4)
    assert masked_crop(image, mask, size=(9, 9)).pixels.max() > 255


def test_empty_masks_are_told() -> None:
    image, mask = image_and_mask()
    soft = torch.stack([mask * 0.9, mask * 0.3, torch.zeros(20, 30)])
    found = masked_crops(image, soft, size=(8, 8), threshold=0.4)
    assert found.valid.tolist() == [True, False, False]
    assert torch.equal(found.pixels[0], masked_crop(image, mask, size=(8, 8)).pixels)
    none = masked_crops(image, torch.zeros(2, 20, 30, dtype=torch.bool), size=(8, 8))
    assert (none.pixels.shape, none.masks.shape) == ((0, 3, 8, 8), (0, 8, 8))


def test_bad_input() -> None:
    image, mask = image_and_mask()
    for wrong in (mask[:10], mask.byte(), mask.float()):
        with pytest.raises(InputError, match="mask: expected bool"):
            masked_crop(image, wrong)
    with pytest.raises(InputError, match="empty mask"):
        masked_crop(image, torch.zeros_like(mask))
    for box in ([5, 5, 5, 9], [9, 0, 3, 4], [40, 0, 50, 9], [0, 1, 2]):
        with pytest.raises(InputError, match="box: expected x0 < x1"):
            masked_crop(image, mask, box=box)
    with pytest.raises(InputError, match=r"image: expected \(3, h, w\)"):
        masked_crop(image[:1], mask)
    with pytest.raises(InputError, match="three numbers"):
        masked_crop(image, mask, fill=(0, 300, 1))
    with pytest.raises(InputError, match="fill"):
        masked_crop(image, mask, fill="green")  # pyrefly: ignore
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        masked_crops(image, mask[None] * 255.0, size=(8, 8))
