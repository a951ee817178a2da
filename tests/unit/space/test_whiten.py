"""What the released vectors do not reach: redundant features, regularisation, state, bad input."""

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.space import Whitener, circle_slerp, normality, redundant_features
from tether.space.slerp import slerp


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)


def doubled(rows):
    return np.column_stack([rows, 2 * rows[:, 1] - 3, -rows[:, 2]])


def test_training_rows_have_identity_covariance(rows):
    white = Whitener().fit_transform(rows)
    assert np.abs(np.cov(white, rowvar=False) - np.eye(6)).max() < 1e-10
    assert np.isclose((white**2).sum(axis=1).mean(), 6 * 399 / 400, rtol=1e-12)


def test_round_trip(rows):
    whitener = Whitener().fit(rows)
    np.testing.assert_allclose(whitener.inverse_transform(whitener.transform(rows)), rows, atol=1e-10)


def test_mirrored_feature_is_not_redundant_but_copy_is(rows):
    np.testing.assert_array_equal(redundant_features(doubled(rows), threshold=0.9), [6])


def test_removed_feature_comes_back_by_its_linear_prediction(rows):
    noisy = np.column_stack([rows, 2 * rows[:, 1] - 3])
    whitener = Whitener().fit(noisy)
    white = whitener.transform(noisy)
    assert white.shape == (400, 6)
    assert list(whitener.dropped_) == [6]
    np.testing.assert_allclose(whitener.inverse_transform(white), noisy, atol=1e-8)


def test_noise_keeps_every_column_and_depends_on_the_seed_only(rows):
    noisy = np.column_stack([rows, 2 * rows[:, 1] - 3])
    one, again, other = (
        Whitener(replace="noise", random_state=seed).fit(noisy).log_likelihood(noisy[:5]) for seed in (3, 3, 4)
    )
    assert Whitener(replace="noise", random_state=3).fit_transform(noisy).shape == (400, 7)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_singular_covariance_is_refused_and_eps_or_shrinkage_allows_it(rows):
    mirrored = np.column_stack([rows, -rows[:, 2]])
    with pytest.raises(InputError, match=r"singular.*set shrinkage or eps"):
        Whitener().fit(mirrored)
    for whitener in (Whitener(eps=1e-3), Whitener(shrinkage=0.1), Whitener(shrinkage="ledoit_wolf")):
        assert np.isfinite(whitener.fit(mirrored).log_likelihood(mirrored)).all()


def test_eps_and_shrinkage_move_the_spectrum_as_stated(rows):
    plain = Whitener().fit(rows).eigenvalues_
    np.testing.assert_allclose(Whitener(eps=0.5).fit(rows).eigenvalues_, plain + 0.5)
    np.testing.assert_allclose(Whitener(shrinkage=0.25).fit(rows).eigenvalues_, 0.75 * plain + 0.25 * plain.mean())
    assert Whitener(shrinkage=0.25).fit(rows).condition_number_ < Whitener().fit(rows).condition_number_


def test_too_few_rows_say_so(rows):
    with pytest.raises(InputError, match="n_samples=6 rows cannot fix a covariance of 6 features"):
        Whitener().fit(rows[:6])
    assert np.isfinite(Whitener(shrinkage=0.5).fit(rows[:6]).log_likelihood(rows)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_is_refused(rows, value):
    bad = rows.copy()
    bad[3, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        Whitener().fit(bad)
    whitener = Whitener().fit(rows)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        whitener.transform(bad)
    with pytest.raises(InputError, match="NaN or infinity"):
        whitener.inverse_transform(bad)


def test_wrong_width_is_refused(rows):
    whitener = Whitener().fit(rows)
    with pytest.raises(ValueError, match="5 features"):
        whitener.transform(rows[:, :5])
    with pytest.raises(InputError, match=r"6 coordinates, got shape \(400, 5\)"):
        whitener.inverse_transform(rows[:, :5])


def test_circle_needs_two_directions(rows):
    whitener = Whitener().fit(rows)
    with pytest.raises(InputError, match="no single great circle"):
        circle_slerp(rows[0], target=rows[0], degrees=[10.0], whitener=whitener)
    opposite = whitener.inverse_transform(-whitener.transform(rows[:1]))[0]
    with pytest.raises(InputError, match="no single great circle"):
        circle_slerp(rows[0], target=opposite, degrees=[10.0], whitener=whitener)
    with pytest.raises(InputError, match="length zero"):
        slerp(np.zeros(3), end=np.ones(3), t=np.array([0.5]))
    with pytest.raises(InputError, match="shapes"):
        slerp(np.ones(2), end=np.ones(3), t=np.array([0.5]))


def test_slerp_keeps_speed_and_length():
    start, end = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    np.testing.assert_allclose(slerp(start, end=end, t=[1 / 3, 2.0]), [[np.sqrt(0.75), 0.5], [-1.0, 0.0]], atol=1e-12)


def test_normality_tells_normal_from_not():
    rng = np.random.default_rng(1)
    normal, skewed = rng.standard_normal((2000, 8)), rng.exponential(size=(2000, 8))
    good, bad = normality(normal), normality(skewed)
    assert good.anderson_passed >= 0.75
    assert good.dagostino_passed >= 0.75
    assert bad.anderson_passed == bad.dagostino_passed == 0
    assert good.largest_correlation < 0.1


def test_anderson_darling_equals_scipy():
    import warnings

    from scipy import stats

    x = np.random.default_rng(2).gamma(3.0, size=(57, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = [stats.anderson(column, "norm").statistic for column in x.T]
    np.testing.assert_allclose(normality(x).anderson, np.array(raw) * (1 + 0.75 / 57 + 2.25 / 57**2), rtol=1e-10)


def test_normality_refuses_bad_rows():
    for bad, message in (
        (np.ones((30, 2)), "constant"),
        (np.zeros((5, 2)), "at least 20"),
        (np.full((30, 2), np.nan), "NaN"),
    ):
        with pytest.raises(InputError, match=message):
            normality(bad)
