"""The loss of images with defects: which images count, sizes of masks, and what is refused."""

import pytest
import torch

from tether.core.errors import InputError
from tether.losses.defects import defect_loss


def case(count=3, size=6):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, count, 2, size, size, generator=generator).softmax(dim=2).requires_grad_()
    logits = torch.randn(count, 2, generator=generator)
    masks = torch.zeros(count, size, size)
    masks[1:, : size // 2] = 1
    return logits, maps, {"labels": torch.tensor([0, 1, 1]), "masks": masks}


def test_an_image_without_a_mask_has_no_pixel_terms():
    logits, maps, rest = case()
    masked = torch.tensor([True, True, False])
    found = defect_loss(logits, maps, masked=masked, **rest)
    fewer = defect_loss(logits[:2], maps[:, :2], labels=rest["labels"][:2], masks=rest["masks"][:2])
    for name in ("focal", "defective", "normal"):
        torch.testing.assert_close(getattr(found, name), getattr(fewer, name))
    torch.testing.assert_close(found.image, defect_loss(logits, maps, **rest).image)
    found.total.backward()
    assert (maps.grad.abs().flatten(2).sum(dim=2) > 0).tolist() == [[True, True, False]] * 2
    nothing = defect_loss(logits, maps, masked=torch.zeros(3, dtype=torch.bool), **rest)
    assert nothing.total == nothing.image


def test_masks_of_other_sizes_and_weights():
    logits, maps, rest = case()
    large = rest | {"masks": rest["masks"].repeat_interleave(3, 1).repeat_interleave(3, 2) * 0.8}
    found, same = defect_loss(logits, maps, **rest), defect_loss(logits, maps, **large)
    assert found.total == same.total
    one = defect_loss(logits, maps, pixels=1.0, **rest)
    torch.testing.assert_close(one.total, one.image + one.focal + one.defective + one.normal)
    torch.testing.assert_close(found.total - found.image, 4 * (one.total - one.image))


def test_shapes_that_do_not_fit():
    logits, maps, rest = case()
    for one, two, more in (
        (logits, maps[0], rest),
        (logits[:2], maps, rest),
        (logits, maps, rest | {"labels": torch.tensor([0, 1])}),
        (logits, maps, rest | {"masks": rest["masks"][:2]}),
        (torch.zeros(3, 3), maps, rest),
    ):
        with pytest.raises(InputError, match=r"expected logits \(b, 2\), maps \(l, b, 2, h, w\)"):
            defect_loss(one, two, **more)
    with pytest.raises(InputError, match=r"masked: expected \(3,\), got \(2,\)"):
        defect_loss(logits, maps, masked=torch.ones(2, dtype=torch.bool), **rest)
