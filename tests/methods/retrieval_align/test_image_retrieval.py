"""Mean average precision and recall from image to image: beside torchmetrics, ties, blocks and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.retrieval import retrieval_average_precision

from tether.core.errors import InputError
from tether.evaluate.text_retrieval import text_ranks
from tether.methods.retrieval_align.image_retrieval import image_retrieval


def drawn(count: int, *, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (count,), generator=generator)
    return F.normalize(torch.randn(count, 6, generator=generator), dim=1), labels


def test_it_is_torchmetrics_on_scores_above_zero() -> None:
    features, labels = drawn(60, classes=25)
    found = image_retrieval(features, labels)
    expected = []
    for row in range(60):
        others = torch.arange(60) != row
        target = (labels == labels[row])[others]
        if target.any():
            expected.append(retrieval_average_precision((features[row] @ features.T + 2)[others], target))
    torch.testing.assert_close(found.average_precision.float(), torch.stack(expected))
    ranks = text_ranks(features, labels)
    assert torch.equal(found.ranks, ranks[ranks > 0])
    assert found.summary(k=(1, 5)) == {
        "image_to_image_map": found.map,
        "image_to_image_r1": float((found.ranks <= 1).double().mean()),
        "image_to_image_r5": float((found.ranks <= 5).double().mean()),
    }


def test_blocks_change_nothing() -> None:
    features, labels = drawn(23, classes=5)
    whole, parts = (image_retrieval(features, labels, block_cells=cells) for cells in (1 << 20, 50))
    assert torch.equal(whole.average_precision, parts.average_precision)
    assert torch.equal(whole.ranks, parts.ranks)


def test_equal_similarities_count_against_the_query() -> None:
    found = image_retrieval(torch.ones(4, 2), torch.tensor([0, 0, 1, 2]))
    assert found.ranks.tolist() == [3, 3]
    assert found.map == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("features", "labels", "said"),
    [
        (torch.ones(3, 2), torch.arange(3), "two images of one class"),
        (torch.ones(3, 2), torch.ones(3), "labels: expected .3,. integers"),
        (torch.ones(3, 2), torch.ones(2, dtype=torch.int64), "labels: expected"),
        (torch.full((3, 2), torch.nan), torch.zeros(3, dtype=torch.int64), "NaN"),
    ],
)
def test_refuses(features: torch.Tensor, labels: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        image_retrieval(features, labels)
