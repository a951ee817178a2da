"""The loss of a quality ladder: written out, 0 for a perfect ladder, several texts, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.methods.qualiclip import quality_ranking_loss


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("pairs", ["all", "adjacent"])
def test_written_out(pairs: str) -> None:
    image, good, bad = drawn(4, 2, 3, 8), drawn(2, 8), drawn(2, 8) + 1
    loss = quality_ranking_loss(image, good, bad, m_cons=0.01, m_rank=0.1, pairs=pairs, weights=(2.0, 3.0, 5.0))
    plus, minus = (
        F.cosine_similarity(image[..., None, :], text.expand(4, 2, 3, 2, 8), dim=-1).mean(dim=-1)
        for text in (good, bad)
    )
    apart = [((one[:, 0] - one[:, 1]).abs() - 0.01).clamp(min=0).mean() for one in (plus, minus)]
    hinges = {"pos": [], "neg": []}
    for i, j in itertools.combinations(range(4), 2):
        for k, other in itertools.product(range(2), repeat=2):
            if pairs == "all" or j == i + 1:
                hinges["pos"].append((0.1 - (plus[i, k] - plus[j, other])).clamp(min=0))
                hinges["neg"].append((0.1 - (minus[j, other] - minus[i, k])).clamp(min=0))
    torch.testing.assert_close(loss.terms["cons"], 2 * sum(apart))
    torch.testing.assert_close(loss.terms["pos"], 3 * torch.stack(hinges["pos"]).mean())
    torch.testing.assert_close(loss.terms["neg"], 5 * torch.stack(hinges["neg"]).mean())
    torch.testing.assert_close(loss.total, sum(loss.terms.values()))


def test_half_precision_is_computed_in_float32() -> None:
    image, good, bad = drawn(3, 2, 2, 8).bfloat16(), drawn(8).bfloat16(), drawn(8).bfloat16() + 1
    loss = quality_ranking_loss(image, good, bad)
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, quality_ranking_loss(image.float(), good.float(), bad.float()).total)


@pytest.mark.parametrize(
    ("shape", "texts", "message"),
    [
        ((1, 2, 3, 8), (8,), "two levels or more"),
        ((5, 1, 3, 8), (8,), "2 crops"),
        ((5, 2, 0, 8), (8,), "image"),
        ((5, 2, 8), (8,), "image"),
        ((5, 2, 3, 8), (7,), "texts of width 8"),
        ((5, 2, 3, 8), (0, 8), "direction"),
    ],
)
def test_refused(shape: tuple[int, ...], texts: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quality_ranking_loss(drawn(*shape), drawn(*texts), drawn(*texts))


def test_a_text_without_a_direction() -> None:
    with pytest.raises(InputError, match="negative: expected texts with a direction"):
        quality_ranking_loss(drawn(2, 2, 1, 4), torch.ones(4), torch.zeros(4))
    with pytest.raises(InputError, match="m_rank"):
        quality_ranking_loss(drawn(2, 2, 1, 4), torch.ones(4), torch.ones(4), m_rank=-1.0)
