"""Views in perspective."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.core.warps import homography_grid, inside, random_homographies, warped


def test_no_view_is_the_image() -> None:
    image = torch.rand(1, 2, 5, 7)
    grid = homography_grid(torch.eye(3)[None], size=(5, 7))
    torch.testing.assert_close(warped(image, grid), image)
    assert inside(grid).all()


def test_a_shift_is_mirrored_and_told() -> None:
    matrix = torch.eye(3)[None].clone()
    matrix[0, 0, 2] = 1.0  # by half of the image
    image = torch.arange(5.0).expand(1, 1, 5, 5)
    grid = homography_grid(matrix, size=(5, 5))
    assert warped(image, grid)[0, 0, 0].tolist() == [2, 3, 4, 3, 2]
    assert inside(grid)[0, 0, 0].tolist() == [1, 1, 1, 0, 0]


def test_draws() -> None:
    made = random_homographies(64, generator=torch.Generator().manual_seed(0))
    again = random_homographies(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made, again)
    share = inside(homography_grid(made, size=(16, 16))).mean(dim=(1, 2, 3))
    assert 0.3 < share.min() < share.max()
    plain = random_homographies(2, generator=torch.Generator(), degrees=0.0, zoom=0.0, stretch=0.0, shift=0.0, tilt=0.0)
    torch.testing.assert_close(plain, torch.eye(3).expand(2, 3, 3))


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"expected \(b, 3, 3"):
        homography_grid(torch.eye(2)[None], size=(2, 2))
    matrix = torch.eye(3)[None].clone()
    matrix[0, 2, 0] = 2.0
    with pytest.raises(InputError, match="horizon"):
        homography_grid(matrix, size=(4, 4))
    with pytest.raises(InputError, match="tilt"):
        random_homographies(1, generator=torch.Generator(), tilt=0.6)
