"""The ranking loss: its parts written out, ties, one image, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.losses import OneImageWarning, ranking_loss


def drawn(n: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores, logits = (torch.randn(rows, 1, generator=generator, dtype=torch.float64) for rows in (n, n * n))
    return scores.requires_grad_(), logits.requires_grad_()


def test_parts_written_out() -> None:
    targets = torch.tensor([0.0, 3.0, 3.0, 1.0], dtype=torch.float64)
    scores, logits = drawn(4)
    loss = ranking_loss(scores, logits, targets, components=("rank", "regression", "bce"), bce_weight=2.0)
    pairs = [
        F.binary_cross_entropy_with_logits(logits[4 * i + j, 0], (targets[i] > targets[j]).double())
        for i in range(4)
        for j in range(4)
    ]
    smooth = F.smooth_l1_loss(scores[:, 0], targets)
    zero = F.binary_cross_entropy_with_logits(scores[:, 0], torch.tensor([0.0, 1, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(loss.terms["rank"], torch.stack(pairs).mean())
    torch.testing.assert_close(loss.terms["regression"], 0.2 * torch.log(1 + smooth))
    torch.testing.assert_close(loss.terms["bce"], 2 * zero)
    torch.testing.assert_close(loss.total, sum(loss.terms.values()))


def test_masked_ties_and_the_diagonal_move_nothing() -> None:
    scores, logits = drawn(3)
    ranking_loss(scores, logits, torch.tensor([1.0, 1.0, 2.0]), components=("rank",), mask_ties=True).total.backward()
    assert logits.grad is not None
    still = (logits.grad.view(3, 3) == 0).tolist()
    assert still == [[True, True, False], [True, True, False], [False, False, True]]
    scores, logits = drawn(3)
    assert ranking_loss(scores, logits, torch.ones(3), components=("rank",), mask_ties=True).total == 0


def test_one_image_has_no_pairs() -> None:
    scores, logits = drawn(1)
    with pytest.warns(OneImageWarning, match="two or more"):
        loss = ranking_loss(scores, logits, torch.ones(1))
    assert loss.terms["rank"] == 0
    loss.total.backward()


@pytest.mark.parametrize(
    ("targets", "more", "message"),
    [
        ([0.0, float("nan")], {}, "finite numbers, got nan at row 1"),
        ([0.0, float("inf")], {}, "got inf at row 1"),
        ([0.0, 1.0, 2.0], {}, "expected"),
        ([0.0, 1.0], {"components": ("rank", "rank")}, "each once"),
        ([0.0, 1.0], {"components": ()}, "components"),
        ([0.0, 1.0], {"components": ("order",)}, "components"),
    ],
)
def test_bad_input(targets: list[float], more: dict, message: str) -> None:
    scores, logits = drawn(2)
    with pytest.raises(InputError, match=message):
        ranking_loss(scores, logits, torch.tensor(targets), **more)
    with pytest.raises(InputError, match=r"pair_logits: expected \(4, 1\)"):
        ranking_loss(scores, None, torch.zeros(2))
