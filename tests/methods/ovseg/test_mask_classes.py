"""Classes of masks by two who name them, and of pixels by the masks that cover them."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.ovseg.mask_classes import combine, pixel_scores


def test_combining() -> None:
    a, b = torch.tensor([[0.9, 0.0], [0.4, 0.6]]), torch.tensor([[0.5, 0.5]])
    valid = torch.tensor([True, False])
    found = combine(a, b, weight=0.5, valid=valid)
    torch.testing.assert_close(found, torch.tensor([[(0.9 * 0.5) ** 0.5, 0.0], [0.4**0.5, 0.6**0.5]]))
    torch.testing.assert_close(combine(a, b, weight=0.0, valid=valid), torch.tensor([[0.5, 0.5], [0.0, 0.0]]))
    torch.testing.assert_close(combine(a, a, weight=1.0), a)
    masks = torch.rand(2, 3, 4)
    torch.testing.assert_close(pixel_scores(a, masks), (a.T[..., None, None] * masks).sum(dim=1))
    with pytest.raises(InputError, match="clip_probs"):
        combine(a, a, valid=valid)
    with pytest.raises(InputError, match="valid"):
        combine(a, b, valid=valid.float())
    with pytest.raises(InputError, match="masks: expected 2"):
        pixel_scores(a, masks[:1])
    with pytest.raises(InputError, match="weight"):
        combine(a, b, weight=1.5, valid=valid)
