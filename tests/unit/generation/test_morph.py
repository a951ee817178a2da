"""Similarity along geodesics, the losses of morphing, and images that are moved by them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.generation import DirectionAim, Moment, PlainView
from tether.generation.canvases import PixelCanvas
from tether.generation.edit import DirectionalLoss, Morpher, StabilityLoss
from tether.losses import GeodesicSimilarity, geodesic_kernel
from tether.models import create
from tether.models.towers.clip import Clip


def rows(seed: int, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval().requires_grad_(False)


def flow(x: Tensor, y: Tensor, k: int, points: int = 400) -> Tensor:
    """The kernel as the mean of projections onto the subspaces that lie on the geodesic."""
    ends = []
    for one in (x, y):
        columns = one.double().T
        ends.append(torch.linalg.svd(columns - columns.mean(0), full_matrices=False)[0][:, :k])
    left, cosines, right = torch.linalg.svd(ends[0].T @ ends[1])
    angles = cosines.clamp(-1, 1).acos()
    away = ends[1] @ right.T - ends[0] @ left * cosines
    away = away / away.norm(dim=0)
    found = torch.zeros(x.shape[1], x.shape[1]).double()
    for t in (torch.arange(points) + 0.5) / points:
        basis = ends[0] @ left * (t * angles).cos() + away * (t * angles).sin()
        found += basis @ basis.T / points
    return found


@pytest.mark.parametrize(("many", "k"), [(1, 1), (2, 2), (3, 1), (9, 7)])
def test_the_exact_kernel_is_the_mean_over_the_geodesic(many: int, k: int) -> None:
    x, y = rows(0, many, 24).double(), rows(1, many, 24).double()
    y = F.normalize(x + 0.7 * y, dim=1)
    wanted = flow(x, y, k)
    torch.testing.assert_close(geodesic_kernel(x, y, exact=True), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(geodesic_kernel(x, y), wanted, atol=1e-3, rtol=0)  # all dimensions are within


def test_the_kernel_is_symmetric_without_gradient_and_of_the_rows_type() -> None:
    x, y = rows(0, 6, 32).requires_grad_(), rows(1, 6, 32)
    several: tuple[dict[str, Any], ...] = ({}, {"exact": True}, {"dim": 8}, {"noise": torch.Generator()})
    for settings in several:
        kernel = geodesic_kernel(x, y, **settings)
        assert not kernel.requires_grad
        torch.testing.assert_close(kernel, kernel.T)
        assert torch.linalg.eigvalsh(kernel.double()).min() > -1e-6
    assert GeodesicSimilarity()(x.bfloat16(), y.bfloat16()).dtype == torch.bfloat16
    assert GeodesicSimilarity()(x.double(), y.double()).dtype == torch.float64


@pytest.mark.parametrize("exact", [False, True])
def test_rows_are_like_themselves_and_rows_without_further_directions_do_no_harm(exact: bool) -> None:
    x = rows(0, 6, 32)
    torch.testing.assert_close(GeodesicSimilarity(exact=exact)(x, x), torch.ones(6))
    same = rows(1, 1, 32).expand(6, -1)
    found = GeodesicSimilarity(exact=exact)(x, same)
    assert found.isfinite().all()
    torch.testing.assert_close(found, GeodesicSimilarity(exact=exact)(x, same.clone() * 3))
    torch.testing.assert_close(GeodesicSimilarity(exact=exact)(same, same), torch.ones(6))


def test_one_row_is_nearly_blind() -> None:
    x, y = rows(0, 1, 64), rows(1, 1, 64)
    assert GeodesicSimilarity()(x, y).abs() > torch.cosine_similarity(x, y).abs()


@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        (rows(0, 4, 8), rows(0, 5, 8), {}, "of the same shape"),
        (torch.empty(0, 8), torch.empty(0, 8), {}, "of the same shape"),
        (rows(0, 4, 8), torch.zeros(4, 8), {}, "y: expected finite rows that are not zero"),
        (rows(0, 4, 8) * torch.nan, rows(0, 4, 8), {}, "x: expected finite"),
        (rows(0, 12, 8), rows(0, 12, 8), {}, "more than 10 features for 12 rows, got 8"),
        (rows(0, 2, 8), rows(0, 2, 8), {"noise": 0.1}, "noise: expected 0, or a generator"),
        (rows(0, 2, 8), rows(0, 2, 8), {"dim": 0}, "dim: expected"),
    ],
)
def test_rows_that_have_no_kernel(x: Tensor, y: Tensor, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        geodesic_kernel(x, y, **settings)


def test_directions_by_cosine_are_those_of_the_aim() -> None:
    image, source, text, before = rows(0, 4, 16), rows(1, 2, 16), rows(2, 2, 16), rows(3, 2, 16)
    loss = DirectionalLoss("cosine")(image, text, source=source, source_text=before)
    by_hand = torch.stack(
        [1 - F.cosine_similarity(image[k] - source[k % 2], text[k % 2] - before[k % 2], dim=0) for k in range(4)]
    ).mean()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(DirectionAim(text, before, source=source)(image, Moment()), loss)
    own = DirectionalLoss(lambda x, y: torch.zeros(len(x)))
    assert own(image, text, source=source, source_text=before) == 1
    for wrong in (text[:1], rows(0, 2, 8)):
        with pytest.raises(InputError, match="as many of each"):
            DirectionalLoss()(image, text, source=source, source_text=wrong)
    with pytest.raises(InputError, match="length 0"):
        DirectionalLoss()(image, text, source=source, source_text=text)
    with pytest.raises(InputError, match="one for each of 2 images"):
        DirectionAim(rows(2, 3, 16), rows(3, 3, 16), source=source)
    with pytest.raises(InputError, match="similarity: expected 'cosine' or 'geodesic'"):
        DirectionalLoss("euclidean")  # pyrefly: ignore


def test_stability_pulls_back_to_its_reference() -> None:
    reference, image = rows(0, 3, 16), rows(1, 6, 16).requires_grad_()
    names: tuple[Any, ...] = ("cosine", "geodesic")
    for similarity in names:
        loss = StabilityLoss(reference, similarity=similarity, weight=2.0)(image)
        (grad,) = torch.autograd.grad(loss, image)
        assert loss > 0
        moved = image.detach() - 0.1 * grad / grad.norm()
        assert StabilityLoss(reference, similarity=similarity, weight=2.0)(moved, Moment()) < loss
    with pytest.raises(InputError, match="reference: expected"):
        StabilityLoss(torch.full((1, 3), torch.nan))
    with pytest.raises(InputError, match="rows: expected those of the reference"):
        StabilityLoss(reference)(rows(0, 4, 16))
    with pytest.raises(TypeError):
        StabilityLoss()  # pyrefly: ignore


@pytest.mark.parametrize("similarity", ["cosine", "geodesic"])
def test_morphing_moves_images_and_its_loss_falls(model: Clip, similarity: Any) -> None:
    image = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts: dict[str, Any] = {"text": "a red cat", "source_text": "a blue cat"}
    morpher = Morpher(model, **texts, similarity=similarity, stability=0.1, steps=12, views=PlainView())
    found = morpher.fit(image, rates={"pixels": 0.01}, frames=1)
    assert found.image.shape == image.shape
    assert torch.equal(found.frames[0].image, image.mul(255).round().to(torch.uint8))
    assert found.losses["morph"][-1] < found.losses["morph"][0] - 0.1
    one = Morpher(model, text=("a", "b", "c"), source_text=("d", "e", "f"), steps=2).fit(image, PixelCanvas.of(image))
    assert one.image.shape == image.shape


def test_morphs_that_are_refused(model: Clip) -> None:
    texts: dict[str, Any] = {"text": "a red cat", "source_text": "a blue cat"}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"text": " "}, "text: expected a text with words"),
        ({"source_text": ()}, "source_text: expected a text with words"),
        ({"text": ("a", "b")}, "as many of each, got 2 and 1"),
        ({"similarity": "other"}, "similarity: expected"),
    ]
    for change, message in wrong:
        with pytest.raises(InputError, match=message):
            Morpher(model, **{**texts, **change})
    with pytest.raises(InputError, match=r"image: expected \(b, 3, h, w\)"):
        Morpher(model, **texts).fit(torch.rand(3, 8, 8))
    with pytest.raises(InputError, match="in 0 to 1"):
        Morpher(model, **texts).fit(2 * torch.ones(1, 3, 8, 8))
    with pytest.raises(InputError, match="no direction"):
        Morpher(model, text="a cat", source_text="a cat").fit(torch.rand(1, 3, 8, 8))


def test_more_rows_than_features_are_taken_in_groups() -> None:
    x, y = rows(0, 20, 8), rows(1, 20, 8)
    with pytest.raises(InputError, match="more than 18 features"):
        GeodesicSimilarity()(x, y)
    found = GeodesicSimilarity(group=8)(x, y)
    parts = [GeodesicSimilarity()(x[start : start + 8], y[start : start + 8]) for start in (0, 8, 16)]
    torch.testing.assert_close(found, torch.cat(parts))
