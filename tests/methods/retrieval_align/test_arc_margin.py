"""ArcMargin at the ends of the angle, over some classes, over equal captions, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.losses import VocabSampler
from tether.methods.retrieval_align import ArcMarginHead, multi_caption_arc_loss, with_margin


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.2])
def test_it_falls_with_the_angle(margin: float) -> None:
    angle = torch.linspace(0.01, math.pi - 0.01, 500, dtype=torch.float64)
    turned = with_margin(angle.cos(), margin=margin)
    inside = angle < math.pi - margin
    torch.testing.assert_close(turned[inside], (angle[inside] + margin).cos(), rtol=0, atol=1e-9)
    tail = turned[~inside]
    assert bool((tail.diff() < 0).all())
    assert bool((turned[inside].diff() < 0).all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_finite_at_the_class_itself_and_opposite(sign: float, dtype: torch.dtype) -> None:
    head = ArcMarginHead(4, classes=3, generator=torch.Generator().manual_seed(0))
    features = (sign * head.weight.detach()).to(dtype).requires_grad_()
    head.loss(features, labels=torch.arange(3)).backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_without_a_margin_it_is_cross_entropy_on_cosines() -> None:
    head, features, labels = ArcMarginHead(4, classes=3, scale=5.0, margin=0.0), drawn(6, 4), torch.arange(6) % 3
    cosine = F.normalize(features, dim=1) @ F.normalize(head.weight, dim=1).T
    torch.testing.assert_close(head.loss(features, labels=labels), F.cross_entropy(5 * cosine, labels))
    torch.testing.assert_close(head(features), 5 * cosine)


def test_some_classes_alone() -> None:
    head, features, labels = ArcMarginHead(4, classes=9), drawn(5, 4), torch.tensor([3, 3, 8, 0, 8])
    some = VocabSampler([1.0] * 9, size=4)(labels, generator=torch.Generator().manual_seed(1))
    found = head(features, labels=some.labels, classes=some.classes)
    torch.testing.assert_close(found, head(features, labels=labels)[:, some.classes])


def test_equal_captions_are_no_rivals() -> None:
    image, captions = drawn(3, 4), drawn(6, 4).view(3, 2, 4)
    captions[2, 0] = captions[0, 1]
    numbers = torch.tensor([[0, 1], [2, 3], [1, 4]])
    rows = F.normalize(captions, dim=2)
    cosine = 30 * torch.einsum("id,jkd->ijk", F.normalize(image, dim=1), rows)
    rivals = {0: [(1, 0), (1, 1), (2, 1)], 1: [(0, 0), (0, 1), (2, 0), (2, 1)], 2: [(0, 0), (1, 0), (1, 1)]}
    losses = []
    for row, others in rivals.items():
        for place in range(2):
            own = 30 * with_margin(cosine[row, row, place] / 30)
            losses.append(torch.stack([own, *(cosine[row][other] for other in others)]).logsumexp(0) - own)
    found = multi_caption_arc_loss(image, captions, alike=numbers)
    torch.testing.assert_close(found, torch.stack(losses).mean())
    same = torch.zeros(3, 2, dtype=torch.int64)
    image.requires_grad_()
    alone = multi_caption_arc_loss(image, captions, alike=same)
    alone.backward()
    assert alone.item() == 0
    assert image.grad is not None
    assert bool((image.grad == 0).all())


HEAD = ArcMarginHead(4, classes=3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ArcMarginHead(4, classes=1), "classes: expected at least 2"),
        (lambda: ArcMarginHead(4, classes=3, margin=math.pi / 2), "margin"),
        (lambda: ArcMarginHead(4, classes=3, margin=-0.1), "margin"),
        (lambda: ArcMarginHead(4, classes=3, scale=0.0), "scale"),
        (lambda: HEAD.loss(drawn(2, 4), labels=torch.tensor([0, 3])), "labels: expected 0 to 2, got 0 to 3"),
        (lambda: HEAD.loss(drawn(2, 4), labels=torch.tensor([-1, 0])), "got -1 to 0"),
        (lambda: HEAD.loss(drawn(2, 4), labels=torch.tensor([0.0, math.nan])), "integers, got torch.float32"),
        (lambda: HEAD.loss(drawn(2, 4), labels=torch.tensor([0])), "labels: expected"),
        (lambda: HEAD(drawn(2, 5)), "features: expected"),
        (lambda: multi_caption_arc_loss(drawn(1, 4), drawn(1, 2, 4)), "at least two images"),
        (lambda: multi_caption_arc_loss(drawn(2, 4), drawn(2, 0, 4)), "with k >= 1"),
        (lambda: multi_caption_arc_loss(drawn(2, 4), drawn(3, 2, 4)), "captions: expected"),
        (lambda: multi_caption_arc_loss(drawn(2, 4), drawn(2, 2, 4), alike=torch.zeros(2, 3).long()), "alike"),
        (lambda: multi_caption_arc_loss(drawn(2, 4), drawn(2, 2, 4), margin=2.0), "margin"),
    ],
)
def test_refuses(call, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
