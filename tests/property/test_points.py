"""Any points: what all geometries share, ranks as sorting gives them; any caption: its pieces are the caption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tether.core.geometry import GEOMETRIES, Geometry, place
from tether.data.segments import growing, split_caption
from tether.evaluate.retrieval import ranks
from tether.methods.euclip import entailment, geometry_loss

NUMBERS = st.floats(-8, 8, allow_nan=False, width=32)


@st.composite
def sides(draw, least: int = 1):
    """Two (n, d) of one shape, float32 or float64."""
    n, d = draw(st.integers(least, 6)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return [
        torch.tensor(draw(st.lists(NUMBERS, min_size=n * d, max_size=n * d)), dtype=dtype).view(n, d) for _ in range(2)
    ]


@pytest.mark.parametrize("name", GEOMETRIES)
@settings(max_examples=15)
@given(sides(), st.floats(0.1, 10))
def test_loss_is_finite_and_not_negative_with_finite_gradients(name, rows, curvature) -> None:
    if name in ("clip", "elliptic"):  # a row of zeros has no direction and is refused
        rows = [side + torch.where(side.abs().sum(1, keepdim=True) < 0.1, 1.0, 0.0) for side in rows]
    leaves = [side.requires_grad_() for side in rows]
    img, txt = (place(side, geometry=name) for side in leaves)
    c = curvature if name.startswith("hyperbolic") else None
    loss = geometry_loss(img, txt, 2.0, geometry=name, curvature=c).total
    assert loss >= -1e-3  # rounding of large logits
    assert loss.isfinite()
    loss.backward()
    assert all(side.grad.isfinite().all() for side in leaves)


@pytest.mark.parametrize("name", ["euclidean-squared", "hyperbolic"])
@settings(max_examples=25)
@given(sides(), st.sampled_from([0.0, 0.1, 2.0]))
@example([torch.tensor([[0.0, 1.4e-44]]), torch.tensor([[0.0, 1.0]])], 0.0)
@example([torch.tensor([[0.0, 2e-38]]), torch.tensor([[0.0, 1.0]])], 0.0)
@example([torch.tensor([[1e-20]]), torch.tensor([[0.0]])], 0.1)
def test_cones_cost_an_angle_and_have_finite_gradients(name, rows, radius) -> None:
    leaves = [side.requires_grad_() for side in rows]
    c = 1.0 if name == "hyperbolic" else None
    txt, img = (place(side, geometry=name) for side in leaves)
    each = entailment(txt, specific=img, geometry=name, min_radius=radius, curvature=c)
    assert ((each >= 0) & (each <= torch.pi + 1e-6)).all()
    each.sum().backward()
    assert all(side.grad.isfinite().all() for side in leaves)


@pytest.mark.parametrize("name", ["euclidean", "euclidean-squared", "hyperbolic", "hyperbolic-squared"])
@settings(max_examples=15)
@given(sides())
def test_no_point_is_nearer_than_itself(name, rows) -> None:
    geometry = Geometry(name, 1.0 if name.startswith("hyperbolic") else None)
    x, y = (place(side.double(), geometry=name) for side in rows)
    own = geometry.similarity(x, x).diagonal()
    assert (geometry.similarity(x, y) <= own[:, None] + 1e-5).all()


@settings(max_examples=200)
@given(st.text(alphabet="ab ,.;:!?\t\nand withbut", max_size=60) | st.text(max_size=40))
def test_pieces_join_to_the_caption(text) -> None:
    pieces = split_caption(text)
    assert " ".join(pieces) == " ".join(text.split())
    assert all(pieces)
    assert not pieces or growing(pieces)[-1] == " ".join(pieces)


@settings(max_examples=60)
@given(
    images=st.integers(1, 12),
    texts=st.integers(1, 20),
    levels=st.integers(1, 6),
    block_cells=st.integers(1, 300),
    seed=st.integers(0, 2**31),
)
def test_ranks_equal_slow_definition(images, texts, levels, block_cells, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers, so products are exact and ties are real.
    image = rng.integers(-levels, levels + 1, (images, 3)).astype(np.float64)
    text = rng.integers(-levels, levels + 1, (texts, 3)).astype(np.float64)
    owner = rng.integers(0, images, texts)
    found = ranks(
        torch.from_numpy(image),
        torch.from_numpy(text),
        text_to_image=torch.from_numpy(owner),
        block_cells=block_cells,
    )
    scores = image @ text.T
    for row in range(images):
        own = owner == row
        expected = 1 + int((scores[row, ~own] >= scores[row, own].max()).sum()) if own.any() else 0
        assert found.image_to_text[row] == expected
    for column in range(texts):
        others = np.arange(images) != owner[column]
        expected = 1 + int((scores[others, column] >= scores[owner[column], column]).sum())
        assert found.text_to_image[column] == expected
