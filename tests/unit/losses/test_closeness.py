"""Losses that hold a student's rows to a teacher's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.losses import closeness_loss, siamese_loss

DISTANCES = ("cosine", "squared", "pairwise")


def rows(seed: int, *, count: int = 5, width: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def written_out(student, teacher, *, distance, form, reduction, beta):
    if form == "unit":
        student, teacher = (one / one.norm(dim=1, keepdim=True) for one in (student, teacher))
    if distance == "cosine":
        each = [1 - a @ b for a, b in zip(student, teacher, strict=True)]
    elif distance == "squared":
        each = [((a - b) ** 2).sum() for a, b in zip(student, teacher, strict=True)]
    else:
        each = []
        for i in range(len(student)):
            for j in range(i):
                off = ((student[i] - student[j]).norm() - (teacher[i] - teacher[j]).norm()).abs()
                each.append(off**2 / (2 * beta) if off < beta else off - beta / 2)
    total = torch.stack(each).sum()
    return total if reduction == "sum" else total / len(each)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("form", ["unit", "raw"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_written_out(distance, form, reduction, beta):
    if (distance, form) == ("cosine", "raw"):
        with pytest.raises(InputError, match="a cosine is of unit rows"):
            closeness_loss(rows(0), rows(1), rows="raw")
        return
    student, teacher = rows(0).requires_grad_(), 2 * rows(1)
    found = closeness_loss(student, teacher, distance=distance, rows=form, reduction=reduction, beta=beta)
    wanted = written_out(student, teacher, distance=distance, form=form, reduction=reduction, beta=beta)
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(one, student)[0] for one in (found, wanted))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_teacher_rests_and_agreement_is_zero(distance):
    student, teacher = rows(0).requires_grad_(), rows(1).requires_grad_()
    closeness_loss(student, teacher, distance=distance).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert closeness_loss(rows(0), rows(0), distance=distance).abs() < 1e-12


def test_half_the_squared_distance_of_unit_rows_is_the_cosine():
    cosine, squared = (closeness_loss(rows(0), rows(1), distance=one) for one in ("cosine", "squared"))
    torch.testing.assert_close(2 * cosine, squared)
    torch.testing.assert_close(siamese_loss(rows(0), rows(1)), squared)


def test_pairs_turn_together_and_may_be_of_other_widths():
    turn = torch.linalg.qr(rows(2, count=6)).Q
    assert closeness_loss(rows(0) @ turn, rows(0), distance="pairwise") < 1e-12
    wider = F.pad(rows(0), (0, 3))
    assert closeness_loss(wider, rows(0), distance="pairwise") < 1e-12


@pytest.mark.parametrize("form", ["unit", "raw"])
def test_equal_rows_move_nothing(form):
    """Equal texts: the pair itself has no direction, all others have theirs."""
    student = rows(0)
    student[3] = student[1]
    student.requires_grad_()
    teacher = rows(1)
    teacher[3] = teacher[1]
    closeness_loss(student, teacher, distance="pairwise", rows=form).backward()
    assert student.grad.isfinite().all()
    torch.testing.assert_close(student.grad[3], student.grad[1])  # nothing pushes the two apart
    assert student.grad[1].abs().sum() > 0
    collapsed = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    loss = closeness_loss(collapsed, rows(1, count=4, width=3), distance="pairwise", rows=form)
    loss.backward()
    assert loss > 0
    assert not collapsed.grad.any()


@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_is_computed_wide(distance):
    half = [one.bfloat16() for one in (rows(0), rows(1))]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = closeness_loss(*half, distance=distance)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, closeness_loss(*(one.float() for one in half), distance=distance))


@pytest.mark.parametrize(
    ("student", "teacher", "distance", "says"),
    [
        (rows(0), rows(1, count=4), "cosine", r"as many of the teacher, got \(5, 6\) and \(4, 6\)"),
        (rows(0), rows(1, width=7), "squared", "one width, got 6 and the teacher's 7"),
        (rows(0, count=1), rows(1, count=1), "pairwise", "at least 2 rows"),
        (rows(0, count=0), rows(1, count=0), "squared", "expected rows"),
        (rows(0)[0], rows(1)[0], "squared", "expected rows"),
    ],
)
def test_bad_input(student, teacher, distance, says):
    with pytest.raises(InputError, match=says):
        closeness_loss(student, teacher, distance=distance)


def test_ranges():
    with pytest.raises(InputError, match="beta"):
        closeness_loss(rows(0), rows(1), distance="pairwise", beta=0.0)
    with pytest.raises(InputError, match="distance"):
        closeness_loss(rows(0), rows(1), distance="l1")
