"""Views in perspective."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.core.warps import (
    homography_between,
    homography_grid,
    inside,
    random_crops,
    random_homographies,
    random_perspectives,
    warped,
)


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


def test_beyond_the_image_lies_one_value_where_it_is_given() -> None:
    matrix = torch.eye(3)[None].clone()
    matrix[0, 0, 2] = 1.0
    grid = homography_grid(matrix, size=(5, 5))
    assert warped(torch.zeros(1, 1, 5, 5), grid, fill=0.5)[0, 0, 0].tolist() == [0, 0, 0, 0.5, 0.5]


def test_four_points_give_a_homography() -> None:
    draws = torch.Generator().manual_seed(0)
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]]).expand(5, 4, 2)
    moved = corners + 0.4 * torch.rand(5, 4, 2, generator=draws)
    found = homography_between(moved, corners)
    there = torch.cat([moved, torch.ones(5, 4, 1)], dim=2) @ found.transpose(1, 2)
    torch.testing.assert_close(there[..., :2] / there[..., 2:], corners)
    with pytest.raises(InputError, match="three lie on one line"):
        homography_between(torch.zeros(1, 4, 2), corners[:1])
    with pytest.raises(InputError, match=r"\(b, 4, 2\)"):
        homography_between(torch.zeros(1, 3, 2), corners[:1])


def test_perspectives_show_what_lies_around_and_never_the_horizon() -> None:
    made = random_perspectives(2_000, generator=torch.Generator().manual_seed(0), distortion=0.5)
    share = inside(homography_grid(made, size=(16, 16))).mean(dim=(1, 2, 3))
    assert 0.2 < share.min() < share.mean() < 0.7
    worst = random_perspectives(100_000, generator=torch.Generator().manual_seed(1), distortion=0.5)
    assert homography_grid(worst, size=(4, 4)).isfinite().all()
    plain = random_perspectives(2, generator=torch.Generator(), distortion=0.0)
    torch.testing.assert_close(plain, torch.eye(3).expand(2, 3, 3))


def test_crops_show_their_share_of_the_area() -> None:
    made = random_crops(500, generator=torch.Generator().manual_seed(0), scale=(0.7, 0.9))
    area = made[:, 0, 0] * made[:, 1, 1]
    assert 0.69 < area.min() < 0.72 < 0.88 < area.max() < 0.91
    assert inside(homography_grid(made, size=(8, 8))).all()
    with pytest.raises(InputError, match="the least first"):
        random_crops(1, generator=torch.Generator(), scale=(0.9, 0.7))
