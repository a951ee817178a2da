"""The nearest rotation between rows: that it is one, that nothing is nearer, and what few pairs leave alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.procrustes import procrustes


def rows(count: int, wide: int, seed: int) -> Tensor:
    return torch.randn(count, wide, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_it_is_orthogonal_and_no_other_rotation_is_nearer(count: int) -> None:
    source, target = rows(count, 7, 0), rows(count, 7, 1)
    found = procrustes(source, target)
    torch.testing.assert_close(found @ found.T, torch.eye(7).double())
    gap = (source @ found.T - target).square().sum()
    for seed in range(50):
        turn = torch.linalg.matrix_exp(0.1 * (a := rows(7, 7, seed + 2)) - 0.1 * a.T)
        assert (source @ (turn @ found).T - target).square().sum() >= gap - 1e-9


def test_a_known_rotation_is_found_also_a_reflection() -> None:
    turn = torch.linalg.qr(rows(6, 6, 0)).Q
    turn[0] = -turn[0] * torch.linalg.det(turn).sign()
    assert torch.linalg.det(turn) < 0
    source = rows(30, 6, 1)
    torch.testing.assert_close(procrustes(source, source @ turn.T), turn)


def test_few_pairs_leave_what_they_do_not_reach_alone() -> None:
    source = torch.zeros(4, 6).double()
    source[:, :3] = rows(4, 3, 0)
    turn = torch.linalg.qr(rows(3, 3, 1)).Q
    target = source.clone()
    target[:, :3] = source[:, :3] @ turn.T
    found = procrustes(source, target)
    torch.testing.assert_close(found[3:, 3:], torch.eye(3).double())
    torch.testing.assert_close(source @ found.T, target)
    torch.testing.assert_close(procrustes(source * 0, target), torch.eye(6).double())


def test_the_completion_is_the_orthogonal_one_that_is_nearest_to_the_identity() -> None:
    source, target = rows(3, 8, 0), rows(3, 8, 1)
    found, one = procrustes(source, target), torch.eye(8).double()
    free = torch.linalg.svd(source.T, full_matrices=True).U[:, 3:]
    for seed in range(50):
        turn = torch.linalg.matrix_exp(0.2 * (a := rows(5, 5, seed + 2)) - 0.2 * a.T)
        other = found @ (free @ turn @ free.T + one - free @ free.T)
        torch.testing.assert_close(source @ other.T, source @ found.T)
        assert (other - one).norm() >= (found - one).norm() - 1e-9


def test_single_precision_finds_the_rank_too() -> None:
    source, target = rows(5, 64, 0).float(), rows(5, 64, 1).float()
    found = procrustes(source, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        source @ found.T, (source.double() @ procrustes(source.double(), target.double()).T).float()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_rotation_too(dtype: torch.dtype) -> None:
    source = rows(32, 64, 0)
    turn = torch.linalg.qr(rows(64, 64, 1)).Q
    found = procrustes(source.to(dtype), (source @ turn.T).to(dtype)).double()
    assert (source @ found.T - source @ turn.T).norm() < 0.02 * source.norm()


@pytest.mark.parametrize(
    ("source", "target"),
    [((2, 3), (3, 3)), ((2, 3), (2, 4)), ((0, 3), (0, 3)), ((3,), (3,))],
)
def test_other_shapes_are_refused(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected"):
        procrustes(torch.ones(source), torch.ones(target))


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        procrustes(torch.ones(2, 2), torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
