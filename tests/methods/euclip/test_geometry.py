"""Geometries: identities between them, the points where their slopes are infinite, models that store theirs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.geometry import (
    GEOMETRIES,
    Geometry,
    factors,
    pairwise_similarity,
    place,
)
from tether.core.protocols import Scheduled
from tether.core.types import Batch, Encoded, Features
from tether.losses import ClipLoss, clip_loss
from tether.methods.euclip import GeometryLoss, entailment, geometry_loss
from tether.models import create
from tether.training.steps import STEPS
from tether.training.steps.module import StepModule

CURVED = [name for name in GEOMETRIES if name.startswith("hyperbolic")]
ROUND = ["clip", "elliptic"]
every = pytest.mark.parametrize("name", GEOMETRIES)


def rows(count: int, *, seed: int = 0, width: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=generator, dtype=torch.float64).to(dtype)


def curvature(name: str) -> float | None:
    return 0.7 if name in CURVED else None


def points(name: str, count: int, *, seed: int = 0) -> Tensor:
    return place(rows(count, seed=seed), geometry=name)


def batch_of(count: int) -> Batch:
    return Batch(torch.zeros(count, 3, 1, 1), torch.arange(1, count + 1)[:, None])


@every
def test_similarity_is_symmetric_and_pairs_are_its_diagonal(name: str) -> None:
    x, y, geometry = points(name, 5), points(name, 5, seed=1), Geometry(name, curvature(name))
    table = geometry.similarity(x, y)
    torch.testing.assert_close(table, geometry.similarity(y, x).T)
    torch.testing.assert_close(geometry.paired(x, y), table.diagonal())


@every
def test_an_own_point_is_nearest_where_distances_are_compared(name: str) -> None:
    x = points(name, 6)
    table = pairwise_similarity(x, x, geometry=name, curvature=curvature(name))
    if not name.endswith("-inner"):
        assert (table.argmax(dim=1) == torch.arange(6)).all()
    if name not in ("clip",) and not name.endswith("-inner"):
        assert table.diagonal().abs().max() < 1e-3


def test_a_metric_obeys_the_triangle_inequality() -> None:
    for name in ("euclidean", "hyperbolic", "elliptic"):
        a, b, c = (points(name, 9, seed=seed) for seed in range(3))
        far = [
            -pairwise_similarity(x, y, geometry=name, curvature=curvature(name)) for x, y in ((a, b), (b, c), (a, c))
        ]
        through = (far[0][:, :, None] + far[1][None]).amin(dim=1)
        assert (far[2] <= through + 1e-9).all()


def test_a_small_curvature_is_nearly_flat() -> None:
    x, y = points("euclidean", 5), points("euclidean", 5, seed=1)
    flat = pairwise_similarity(x, y, geometry="euclidean")
    bent = pairwise_similarity(x, y, geometry="hyperbolic", curvature=1e-4)
    torch.testing.assert_close(bent, flat, rtol=1e-3, atol=1e-4)


@every
def test_factors_multiply_to_the_similarity(name: str) -> None:
    x, y = points(name, 5), points(name, 7, seed=1)
    found = factors(x, y, geometry=name, curvature=curvature(name))
    assert (found is not None) == (name == "clip" or name.endswith("-inner") or name == "euclidean-squared")
    if found is not None:
        torch.testing.assert_close(
            found[0] @ found[1].T, pairwise_similarity(x, y, geometry=name, curvature=curvature(name))
        )


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_rows_of_one_length_make_squared_distance_clips_loss_at_twice_the_scale(length: float) -> None:
    img, txt = (F.normalize(rows(8, seed=seed), dim=1).requires_grad_() for seed in (0, 1))
    scale = torch.tensor(3.0, dtype=torch.float64)
    squared = geometry_loss(length * img, length * txt, scale, geometry="euclidean-squared").total
    cosine = clip_loss(img, txt, 2 * scale * length**2)
    torch.testing.assert_close(squared, cosine, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(loss, img)[0] for loss in (squared, cosine))
    across = ours - (ours * img).sum(dim=1, keepdim=True) * img  # along the sphere
    wanted = theirs - (theirs * img).sum(dim=1, keepdim=True) * img
    torch.testing.assert_close(across, wanted, rtol=1e-9, atol=1e-12)


def test_clip_is_clip() -> None:
    img, txt, scale = F.normalize(rows(6)), F.normalize(rows(6, seed=1)), torch.tensor(20.0, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 2, 3, 3])
    found = geometry_loss(img, txt, scale, geometry="clip", labels=labels)
    assert torch.equal(found.total, clip_loss(img, txt, scale, labels=labels))


@every
@pytest.mark.parametrize("labelled", [False, True])
def test_gradcheck(name: str, labelled: bool) -> None:
    labels = torch.tensor([0, 1, 0, 2, 1]) if labelled else None
    weight = 0.0 if name in ROUND else 0.7

    def total(img: Tensor, txt: Tensor, scale: Tensor, bend: Tensor) -> Tensor:
        c = bend if name in CURVED else None
        sides = [place(side, geometry=name) for side in (img, txt)]
        found = geometry_loss(
            *sides, scale, geometry=name, curvature=c, labels=labels, entailment_weight=weight, min_radius=0.2
        )
        return found.total + 0 * bend

    leaves = [rows(5).requires_grad_(), rows(5, seed=1).requires_grad_()]
    scalars = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (3.0, 0.8)]
    assert torch.autograd.gradcheck(total, (*leaves, *scalars))


@every
def test_equal_and_zero_rows_have_finite_gradients(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        leaf = rows(4, dtype=dtype)
        leaf[1:3] = leaf[0]
        leaf[3] = 0 if name not in ROUND else leaf[3]
        leaf.requires_grad_()
        side = place(leaf, geometry=name)
        found = geometry_loss(side, side.clone(), 5.0, geometry=name, curvature=curvature(name))
        assert found.total.isfinite()
        found.total.backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", ["euclidean-squared", "hyperbolic"])
@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_degenerate_cones_cost_nothing_and_have_finite_gradients(name: str, radius: float) -> None:
    general = rows(4, dtype=torch.float32)
    general[1] = 0
    specific = general.clone()
    specific[2] = 3 * general[2]  # straight on from its apex
    specific[1] = 1.0
    leaves = [general.requires_grad_(), specific.requires_grad_()]
    each = entailment(general, specific=specific, geometry=name, min_radius=radius, curvature=curvature(name))
    assert each[0] == each[1] == 0
    assert each[2] < 1e-3
    each.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("name", ["euclidean", "euclidean-squared", "hyperbolic", "hyperbolic-squared"])
def test_inside_the_cone_costs_nothing_and_outside_it_does(name: str) -> None:
    apex = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(3, 1)
    end = torch.tensor([[2.0, 0.01], [2.0, 3.0], [0.2, 0.0]], dtype=torch.float64)
    each = entailment(apex, specific=end, geometry=name, min_radius=0.3, curvature=curvature(name))
    assert each[0] == 0
    assert 0 < each[1] < each[2]  # behind the apex is farthest outside
    assert (
        entailment(0.2 * apex, specific=end, geometry=name, min_radius=5.0, curvature=curvature(name)).max() < math.pi
    )
    whole = entailment(apex, specific=end, geometry=name, min_radius=0.0, curvature=curvature(name))
    assert (whole >= each).all()
    assert whole[0] > 0


def test_an_apex_within_the_radius_holds_a_half_space() -> None:
    apex = torch.tensor([[0.05, 0.0]], dtype=torch.float64)
    beside = torch.tensor([[0.05, 4.0]], dtype=torch.float64)
    assert entailment(apex, specific=beside, geometry="euclidean", min_radius=0.1) == 0


def test_squared_form_of_large_rows_stays_in_range_in_half_precision() -> None:
    pooled = [60 * rows(4, seed=seed, dtype=torch.float32).to(torch.bfloat16) for seed in (0, 1)]
    out = Encoded(*map(Features, pooled), torch.tensor(100.0), geometry=Geometry("euclidean-squared"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = GeometryLoss(entailment_weight=0.2)(out, batch_of(4), gather=LOCAL)
    assert loss.total.dtype == torch.float32
    assert loss.total.isfinite()


def test_nan_is_handed_on() -> None:
    broken = rows(4)
    broken[1, 2] = torch.nan
    for name in GEOMETRIES:
        out = Encoded(
            Features(broken),
            Features(rows(4, seed=1)),
            torch.tensor(2.0, dtype=torch.float64),
            geometry=Geometry(name, curvature(name)),
        )
        assert GeometryLoss()(out, batch_of(4), gather=LOCAL).total.isnan()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Geometry("round"), "unknown geometry 'round'; known: clip"),
        (lambda: Geometry("hyperbolic"), "curvature: hyperbolic needs one"),
        (lambda: Geometry("hyperbolic", -1.0), "above 0, got -1.0"),
        (lambda: Geometry("hyperbolic", torch.tensor(0.0)), "above 0, got 0.0"),
        (lambda: Geometry("clip", 1.0), "clip has none"),
        (lambda: pairwise_similarity(rows(2), rows(2), geometry="flat"), "geometry: .*'flat'"),
        (lambda: pairwise_similarity(rows(2), rows(2), geometry="hyperbolic-inner"), "needs one"),
        (lambda: pairwise_similarity(rows(2), rows(2, width=3), geometry="euclidean"), "of one width"),
        (lambda: place(rows(2), geometry="flat"), "geometry: .*'flat'"),
        (lambda: entailment(rows(2), specific=rows(2), geometry="clip"), "clip has no origin"),
        (lambda: entailment(rows(2), specific=rows(3), geometry="euclidean"), r"\(2, 6\) general and \(3, 6\)"),
        (lambda: GeometryLoss(geometry="elliptic", entailment_weight=0.2), "elliptic has no origin"),
        (lambda: geometry_loss(rows(2), rows(3), 1.0), r"image \(2, 6\) and text \(3, 6\)"),
        (lambda: geometry_loss(rows(0), rows(0), 1.0), "empty batch"),
        (lambda: geometry_loss(rows(2), rows(2), 1.0, geometry="clip"), "expected 1: normalise first"),
        (lambda: create("tiny", geometry="flat"), "geometry: .*'flat'"),
        (lambda: create("tiny", final_layernorm="maybe"), "final_layernorm: expected 'keep' or 'drop'"),
        (lambda: create("tiny", logit_scale_range=[5, 1]), "logit_scale_range"),
        (lambda: create("tiny", logit_scale_range=[0, math.inf]), "logit_scale_range: expected 2 values"),
    ],
)
def test_bad_input(call, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_an_objective_refuses_a_model_of_another_geometry() -> None:
    out = Encoded(Features(rows(2)), Features(rows(2)), torch.tensor(1.0))
    with pytest.raises(InputError, match="expected a model of geometry 'euclidean-squared', got 'clip'"):
        GeometryLoss(geometry="euclidean-squared")(out, batch_of(2), gather=LOCAL)
    with pytest.raises(InputError, match="clip has no origin"):
        GeometryLoss(entailment_weight=0.1)(out, batch_of(2), gather=LOCAL)


def test_one_pair_costs_nothing() -> None:
    for name in GEOMETRIES:
        assert (
            geometry_loss(
                *(points(name, 1, seed=s) for s in (0, 1)), 9.0, geometry=name, curvature=curvature(name)
            ).total
            == 0
        )


def test_a_schedule_moves_the_radius_on_a_line() -> None:
    loss = GeometryLoss(entailment_weight=1.0, min_radius=0.1, final_min_radius=0.5)
    assert isinstance(loss, Scheduled)
    assert [loss.at(share).min_radius for share in (0.0, 0.5, 1.0)] == pytest.approx([0.1, 0.3, 0.5])
    assert GeometryLoss().at(0.7).min_radius == 0.1
    model = StepModule(create("tiny", geometry="euclidean-squared"))
    batch = Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), model.model.tokenizer(["a", "b"]))
    step = STEPS["contrastive"](loss, steps=3, seed=0)
    first, last = (step(model, batch, step=at, gather=LOCAL).terms["entailment"] for at in (0, 2))
    assert last < first


def test_clips_own_loss_refuses_a_model_whose_metrics_would_not_use_it() -> None:
    out = Encoded(Features(rows(2)), Features(rows(2)), torch.tensor(1.0), geometry=Geometry("euclidean"))
    with pytest.raises(InputError, match="objective: geometry"):
        ClipLoss()(out, batch_of(2), gather=LOCAL)
