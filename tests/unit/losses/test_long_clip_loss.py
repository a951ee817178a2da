"""Principal components of a batch, and Long-CLIP's objective around them."""

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.types import Batch, Encoded, Features
from tether.losses import LongClipLoss, clip_loss, long_clip_loss, principal_components
from tether.losses.long_clip import WholeBatchWarning


def rows(count: int, width: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("count", "width"), [(9, 5), (5, 9), (6, 6)])
def test_equals_the_svd(count, width):
    x = rows(count, width).requires_grad_()
    found = principal_components(x, k=2)
    centred = x - x.mean(0)
    top = torch.linalg.svd(centred, full_matrices=False)[2][:2]
    expected = centred @ top.T @ top + x.mean(0)
    torch.testing.assert_close(found, expected)
    weight = rows(count, width, seed=1)
    mine, theirs = (torch.autograd.grad((y * weight).sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_equal_directions_have_a_finite_gradient():
    x = torch.eye(4, dtype=torch.float64).repeat(2, 1).requires_grad_()
    grad = torch.autograd.grad(principal_components(x, k=1)[0].sum(), x)[0]
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "width"), [(32, 16), (2048, 16), (60, 64)])
def test_nothing_flows_between_equal_directions(count, width, dtype):
    ends = torch.linalg.qr(rows(width, width).to(dtype))[0][: count // 2]
    x = torch.cat([ends, -ends]).repeat(count // (2 * len(ends)), 1).requires_grad_()
    weight = rows(count, width, seed=1).to(dtype)
    found = principal_components(x, k=5)
    grad = torch.autograd.grad((found * weight).sum(), x)[0]
    if count < width:  # what no row has is another direction
        assert grad.abs().max() < 10
        return
    fixed = torch.linalg.lstsq(x, found).solution.detach()  # the projection as it is
    expected = (weight - weight.mean(0)) @ fixed + weight.mean(0)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-3 if dtype == torch.float32 else 1e-10)


def test_nan_is_handed_on():
    x = rows(6, 5)
    x[1, 2] = torch.nan
    assert principal_components(x, k=2).isnan().any()


def test_bfloat16_is_computed_in_float32():
    x = rows(8, 6).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = principal_components(x, k=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, principal_components(x.float(), k=2))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_small_batch_comes_back_and_is_warned_of(count):
    x = rows(count, 6)
    with pytest.warns(WholeBatchWarning, match=f"{count} rows have at most {count - 1} principal components"):
        assert principal_components(x, k=3) is x


def test_short_captions_weigh_what_they_are_told():
    image, long, short = (F.normalize(rows(8, 6, seed=seed), dim=1) for seed in range(3))
    found = long_clip_loss(image, long, short, 10.0, k=2, short_weight=0.1)
    assert found.total == found.long + 0.1 * found.short
    assert found.long == clip_loss(image, long, 10.0, label_smoothing=0.1)
    whole = long_clip_loss(image, long, short, 10.0, k=6)
    torch.testing.assert_close(whole.short, clip_loss(image, short, 10.0, label_smoothing=0.1))


def test_short_captions_must_be_there():
    image = F.normalize(rows(4, 6), dim=1)
    out = Encoded(Features(image), Features(image), torch.tensor(10.0))
    for extra in ({}, {"short_text": torch.ones(4, 3, dtype=torch.int64)}):
        with pytest.raises(InputError, match=r"long_clip: expected batch.extra\['short_text'\] .* extra: \{short_text"):
            LongClipLoss(k=2)(out, Batch(image, image.long(), extra), gather=LOCAL)
    with pytest.raises(InputError, match=r"k: expected a whole number"):
        LongClipLoss(k=0)
