"""PHI-S and Hadamard matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.methods.featsharp.phi_s import PhiS, hadamard


@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 56, 64, 72, 76, 384, 640, 768])
def test_hadamard(size: int) -> None:
    found = hadamard(size)
    np.testing.assert_allclose(found @ found.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(np.abs(found), size**-0.5)


@pytest.mark.parametrize(("size", "after"), [(3, 4), (10, 12), (92, 96), (101, 104)])
def test_sizes_without_one_name_the_next(size: int, after: int) -> None:
    with pytest.raises(InputError, match=f"of {size} channels is known here; the next size is {after}"):
        hadamard(size)


def rows(count: int = 300, width: int = 12) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def test_parts_give_what_the_whole_gives(tmp_path: Path) -> None:
    whole, parts, X = PhiS().fit(rows()), PhiS(), rows()
    for start in (0, 100, 150):
        parts.partial_fit(X[start : {0: 100, 100: 150, 150: 300}[start]])
    np.testing.assert_allclose(parts.mean_, whole.mean_)
    np.testing.assert_allclose(parts.alpha_, whole.alpha_)
    np.testing.assert_allclose(np.cov(parts.transform(X).T).diagonal(), 1)
    whole.save(tmp_path / "phi")
    np.testing.assert_array_equal(PhiS.load(tmp_path / "phi").transform(X), whole.transform(X))
    np.testing.assert_allclose(PhiS().fit(X).fit(X).mean_, whole.mean_)
    apart = np.linalg.norm(X[:10, None] - X[None, :10], axis=2)
    turned = whole.transform(X[:10])
    np.testing.assert_allclose(np.linalg.norm(turned[:, None] - turned[None], axis=2), apart * whole.alpha_)


def test_few_dimensions_are_enough() -> None:
    flat = np.outer(np.arange(9.0), np.ones(8))  # one direction alone
    np.testing.assert_allclose(np.cov(PhiS().fit(flat).transform(flat).T).diagonal(), 1)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="next size is 4"):
        PhiS().fit(rows(width=3))
    with pytest.raises(InputError, match="rows that differ"):
        PhiS().fit(np.ones((5, 4)))
    with pytest.raises(ValueError, match="minimum of 2"):
        PhiS().fit(np.ones((1, 4)))
    with pytest.raises(ValueError, match="NaN"):
        PhiS().fit(np.full((5, 4), np.nan))
