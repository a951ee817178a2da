"""Conformity, the shell and walks around it: identities, pitfalls, state, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.methods.double_ellipsoid import gap_sweep, shell_stats, vslerp
from tether.space import ConformityEstimator, conformity
from tether.space.slerp import slerp


@pytest.fixture
def rows():
    """Raw embeddings off centre, stretched along a few axes."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((300, 12)) * np.linspace(3, 0.2, 12) + 4 * rng.standard_normal(12)


def by_hand(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, 0)
    return cosine.sum(axis=1) / (len(rows) - 1)


@pytest.mark.parametrize("chunk", [1, 7, 300, 4096])
def test_conformity_is_the_mean_cosine_to_all_others(rows, chunk):
    np.testing.assert_allclose(conformity(rows, chunk=chunk), by_hand(rows), rtol=1e-12)


def test_conformity_ignores_lengths_and_single_precision_is_summed_wide(rows):
    np.testing.assert_allclose(conformity(rows * np.arange(1, 301)[:, None]), conformity(rows), rtol=1e-12)
    single = rows.astype(np.float32)
    np.testing.assert_allclose(conformity(single), by_hand(single.astype(np.float64)), rtol=1e-12)


def test_conformity_of_equal_rows_is_one_and_of_a_pair_their_cosine():
    np.testing.assert_allclose(conformity(np.tile([3.0, 4.0], (5, 1))), 1.0)
    np.testing.assert_allclose(conformity(np.array([[1.0, 0.0], [1.0, 1.0]])), np.sqrt(0.5))


def test_unit_mean_form_is_affine_in_the_exact_one(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    n, length = len(rows), np.linalg.norm(unit.mean(axis=0))
    expected = (n * length * conformity(rows, method="unit_mean") - 1) / (n - 1)
    np.testing.assert_allclose(conformity(rows), expected, atol=1e-12)
    np.testing.assert_allclose(ConformityEstimator(mean="unit").fit(rows).predict(rows), conformity(rows), atol=1e-12)


def test_raw_mean_estimates_unseen_rows_where_embeddings_are_off_centre(rows):
    assert ConformityEstimator().fit(rows[:200]).score(rows[200:]) > 0.95
    centred = rows - rows.mean(axis=0)
    assert ConformityEstimator().fit(centred[:200] + 1e-3).score(centred[200:]) < 0.9


def test_unit_mean_for_a_row_from_outside_is_what_it_would_have_inside(rows):
    estimator = ConformityEstimator(mean="unit").fit(rows)
    inside = conformity(rows)[17]
    assert np.isclose(estimator.predict(rows[17:18])[0], inside, atol=1e-12)


def test_shell_identities(rows):
    shell = shell_stats(rows)
    radius = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    n = len(rows)
    assert np.isclose((radius**2).mean(), shell.variances.sum() * (n - 1) / n)
    assert np.isclose(shell.mean_radius**2 + shell.std_radius**2, shell.variances.sum() * (n - 1) / n)
    assert shell.least_radius == radius.min()
    assert shell.thickness == shell.std_radius / shell.mean_radius
    assert np.isclose(shell.eigenvalue_ratio, np.linalg.cond(np.cov(rows, rowvar=False)))
    assert shell.relative_offset > 0.5
    assert shell_stats(rows - rows.mean(axis=0) + 1e-9).relative_offset < 1e-6


def test_singular_covariance_has_an_infinite_ratio_and_equal_rows_no_shell(rows):
    deficient = shell_stats(np.column_stack([rows, rows[:, 0]]))
    assert (deficient.eigenvalue_ratio, deficient.rank) == (np.inf, 12)
    assert np.isclose(deficient.ratio_within_rank, deficient.variances[0] / deficient.variances[11])
    assert shell_stats(rows[:6]).eigenvalue_ratio == np.inf
    flat = shell_stats(np.ones((4, 3)))
    assert (flat.mean_radius, flat.thickness, flat.relative_offset) == (0.0, 0.0, pytest.approx(1.0))
    assert (flat.rank, flat.ratio_within_rank) == (0, 1.0)


def test_gap_sweep_finds_the_place_where_conformities_agree(rows):
    """A copy of the images, moved: moving it back makes the two alike, and there the divergence is zero."""
    away = rows + 6.0
    found = gap_sweep(rows, away, t=np.linspace(0, 2, 9))
    assert found.best == pytest.approx(1.0)
    assert found.kl.min() == pytest.approx(0.0, abs=1e-12)
    assert (found.kl >= 0).all()
    assert found.kl[0] > 0.1
    assert 0.0 in gap_sweep(rows, away).t


def test_vslerp_ends_where_it_should_and_keeps_its_distance_from_the_centre(rows):
    mean = rows.mean(axis=0)
    walked = vslerp(rows[0], end=rows[1], t=[0.0, 0.5, 1.0], mean=mean)
    np.testing.assert_allclose(walked[[0, 2]], rows[:2], atol=1e-12)
    np.testing.assert_allclose(
        vslerp(rows[0], end=rows[1], t=[0.3], mean=mean, mu=0.0), slerp(rows[0], end=rows[1], t=[0.3])
    )
    np.testing.assert_allclose(walked, slerp(rows[0] - mean, end=rows[1] - mean, t=[0.0, 0.5, 1.0]) + mean)
    circle = vslerp(np.array([3.0, 1.0]), end=np.array([1.0, 3.0]), t=np.linspace(0, 1, 5), mean=np.ones(2))
    np.testing.assert_allclose(np.linalg.norm(circle - 1, axis=1), 2.0)


def test_vslerp_is_a_line_near_zero_and_refused_near_pi():
    centre = np.zeros(3)
    start = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(vslerp(start, end=start, t=[0.3], mean=centre), [start])
    np.testing.assert_allclose(vslerp(start, end=3 * start, t=[0.5], mean=centre), [2 * start])
    with pytest.raises(InputError, match="opposite sides"):
        vslerp(start, end=-start, t=[0.5], mean=centre)
    with pytest.raises(InputError, match="length zero"):
        vslerp(start, end=2 * start, t=[0.5], mean=start)
    with pytest.raises(InputError, match="one length"):
        vslerp(start, end=start[:2], t=[0.5], mean=centre)
    with pytest.raises(InputError, match="NaN"):
        vslerp(start, end=np.array([np.nan, 0, 0]), t=[0.5], mean=centre)


@pytest.mark.parametrize("function", [conformity, shell_stats, lambda rows: gap_sweep(rows, rows)])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[:1], "at least 2 rows, got 1"),
        (lambda rows: rows[:0], "at least 2 rows, got 0"),
        (lambda rows: rows[0], r"\(n, d\)"),
        (lambda rows: np.where(np.arange(300)[:, None] == 5, np.nan, rows), "1 of 300 rows hold NaN.*row 5"),
        (lambda rows: np.where(np.arange(300)[:, None] == 7, 0.0, rows), "1 of 300 rows are zero.*row 7"),
    ],
)
def test_bad_rows(rows, function, spoil, message):
    with pytest.raises(InputError, match=message):
        function(spoil(rows))


def test_bad_settings(rows):
    for call, message in (
        (lambda: gap_sweep(rows, rows[:, :5]), r"text: expected rows of 12 coordinates, got shape \(300, 5\)"),
        (lambda: gap_sweep(rows, rows, t=[]), "t: expected"),
        (lambda: ConformityEstimator().fit(np.ones((5, 3))), "same angle"),
        (lambda: ConformityEstimator().fit(np.array([[1.0, 0.0], [-1.0, 0.0]])), "mean of the rows is zero"),
        (lambda: conformity(np.array([[1.0, 0.0], [-1.0, 0.0]]), method="unit_mean"), "unit rows is zero"),
        (lambda: ConformityEstimator().fit(rows).score(rows[:2] * 0 + 1), "all equal"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_estimator_says_which_rows_have_no_direction(rows):
    holed = rows.copy()
    holed[3] = 0
    with pytest.warns(UserWarning, match="1 of 300 rows are zero, the first is row 3"):
        estimator = ConformityEstimator().fit(holed)
    np.testing.assert_allclose(estimator.mean_, np.delete(rows, 3, axis=0).mean(axis=0))
    with pytest.warns(UserWarning, match="row 3"):
        found = estimator.predict(holed)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
    with pytest.raises(ValueError, match="NaN"):
        estimator.predict(np.full((2, 12), np.nan))
    with pytest.raises(ValueError, match="5 features"):
        estimator.predict(rows[:, :5])
