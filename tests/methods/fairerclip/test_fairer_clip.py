"""FairerCLIP: the solver's identities, a planted shortcut, and what must be refused."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from tether.core.errors import InputError
from tether.methods.fairerclip import FairerClip, RandomFeatures, hsic_solve
from tether.methods.fairerclip.hsic import draw_features, plus_minus


def world(n, *, agree, seed, width=16):
    """Rows whose class shows weakly along one direction and whose attribute shows strongly along another."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    s = np.where(rng.random(n) < agree, y, 1 - y)
    X = rng.standard_normal((n, width)) * 0.4
    X[:, 0] += 0.8 * (2 * y - 1)
    X[:, 1] += 1.6 * (2 * s - 1)
    return X, y, s


TEXT = np.zeros((2, 16))
TEXT[:, 0], TEXT[:, 1] = (-1, 1), (-1, 1)  # the texts lean on the attribute as well


def worst(predicted, y, s):
    return min((predicted == y)[(y == a) & (s == b)].mean() for a in (0, 1) for b in (0, 1))


@pytest.fixture(scope="module")
def fitted():
    X, y, s = world(600, agree=0.9, seed=0)
    return FairerClip(n_features=150, n_code_features=60, random_state=0).fit(X, y, s=s, text_features=TEXT)


def test_pseudo_labels_favour_no_class_where_the_offset_is_taken_off():
    shares = []
    for seed in range(5):
        X, _, s = world(400, agree=0.7, seed=seed)
        model = FairerClip(n_features=16, n_code_features=60, n_iter=4, centre="images", random_state=seed)
        shares.append(model.fit_unlabelled(X, s=s, text_features=TEXT).solves_[-1].labels.mean())
    assert max(abs(share - 0.5) for share in shares) < 0.1  # with the offset left in, up to 0.25


def test_an_attribute_that_the_draw_missed_is_dropped_and_no_error():
    X, y, s = world(300, agree=0.9, seed=0)
    rare = np.zeros(300, dtype=int)
    rare[0] = 1
    model = FairerClip(n_features=64, n_code_features=60, max_samples=40, random_state=0)
    with pytest.warns(UserWarning, match="s is the same for all rows"):
        model.fit(X, y, s=rare, text_features=TEXT)
    with pytest.raises(InputError, match=r"s: expected one value for each of 300 rows"):
        model.fit(X, y, s=s[:10], text_features=TEXT)


class TestSolver:
    def test_it_is_the_eigenproblem(self):
        rng = np.random.default_rng(0)
        phi, y, s = rng.standard_normal((80, 12)), rng.integers(0, 3, 80), rng.integers(0, 2, 80)
        found = hsic_solve(phi, y=plus_minus(y, classes=3), s=plus_minus(s, classes=2), tau=(0.6, 0), gamma=1e-2, dim=3)

        def side(codes):
            centred = codes - codes.mean(axis=0)
            square = phi.T @ centred @ centred.T @ phi
            return square / np.linalg.norm(square, 2)

        b = side(plus_minus(y, classes=3)) - 1.5 * side(plus_minus(s, classes=2))
        c = np.cov(phi, rowvar=False) * 79 + 80 * 1e-2 * np.eye(12)
        for gain, direction in zip(found.eigenvalues[: found.rank], found.directions.T, strict=False):
            np.testing.assert_allclose(np.linalg.solve(c, b @ direction), gain * direction, atol=1e-9)
            assert np.linalg.norm(direction) == pytest.approx(np.sqrt(80))
        assert not found.directions[:, found.rank :].any()

    def test_no_attribute_keeps_all_columns(self):
        rng = np.random.default_rng(0)
        phi, y = rng.standard_normal((40, 6)), plus_minus(rng.integers(0, 2, 40), classes=2)
        assert hsic_solve(phi, y=y, dim=4).rank == 4
        assert hsic_solve(phi, y=y, s=y, tau=(0.9, 0), dim=4).rank == 0  # the attribute is the class
        assert hsic_solve(phi, y=y, s=y, tau=(0.3, 0), dim=4).rank == 1

    def test_random_features_approximate_the_kernel(self):
        rng = np.random.RandomState(0)
        x = rng.standard_normal((40, 5))
        features = draw_features(x, count=20_000, width=1.5, rng=rng)
        exact = np.exp(-(cdist(x, x) ** 2) / (2 * 1.5**2))
        np.testing.assert_allclose(features(x) @ features(x).T, exact, atol=0.05)

    def test_median_width(self):
        x = np.array([[0.0], [3.0], [3.0]])
        drawn = draw_features(x, count=4000, rng=np.random.RandomState(0))
        assert drawn.weights.std() == pytest.approx(1 / np.sqrt(9 / 2), rel=0.05)
        assert draw_features(np.ones((4, 2)), count=10, rng=np.random.RandomState(0)).weights.shape == (10, 2)

    @pytest.mark.parametrize(
        "changes",
        [
            {"dim": 7},
            {"y": np.ones((40, 2))},
            {"s": np.ones((3, 2)), "tau": (0.5, 0.0)},
        ],
    )
    def test_refuses(self, changes):
        rng = np.random.default_rng(0)
        settings = {"y": plus_minus(rng.integers(0, 2, 40), classes=2)} | changes
        with pytest.raises(InputError):
            hsic_solve(rng.standard_normal((40, 6)), **settings)

    def test_a_singular_covariance_without_ridge_is_refused(self):
        phi = np.repeat(np.random.default_rng(0).standard_normal((40, 1)), 3, axis=1)
        with pytest.raises(InputError, match="larger gamma"):
            hsic_solve(phi, y=plus_minus(np.arange(40) % 2, classes=2), gamma=0.0)


class TestShortcut:
    def test_the_worst_group_gains(self, fitted):
        X, y, s = world(2000, agree=0.5, seed=1)
        zero_shot = (X @ TEXT.T).argmax(axis=1)
        assert worst(fitted.predict(X), y, s) > worst(zero_shot, y, s) + 0.2

    def test_codes_forget_the_attribute(self, fitted):
        X, y, s = world(4000, agree=0.5, seed=2)
        codes = fitted.transform_image(X)[:, 0]
        assert abs(np.corrcoef(codes, s)[0, 1]) < 0.3 < abs(np.corrcoef(codes, y)[0, 1])

    def test_pseudo_labels(self):
        X, _, s = world(600, agree=0.8, seed=3)
        text = np.zeros((2, 16))
        text[:, 0] = (-1, 1)
        model = FairerClip(n_features=150, n_code_features=60, n_iter=3, random_state=0)
        model.fit_unlabelled(X, s=s, text_features=text)
        test_X, test_y, _ = world(1000, agree=0.5, seed=4)
        assert (model.predict(test_X) == test_y).mean() > 0.9
        assert [solve.side for solve in model.solves_] == ["image"] + ["text", "image"] * 3
        np.testing.assert_array_equal(model.solves_[0].labels, (X @ text.T).argmax(axis=1))

    def test_sides_agree_and_columns_grow_with_the_class(self, fitted):
        image, text = fitted.solves_[-1], fitted.solves_[-2]
        assert (image.codes * text.codes > 0).mean() > 0.9
        assert np.corrcoef(fitted.solves_[0].codes[:, 0], fitted.solves_[0].labels)[0, 1] > 0

    def test_centred_codes_do_not_favour_a_class(self):
        X, y, s = world(600, agree=0.9, seed=0)
        unseen, _, _ = world(2000, agree=0.5, seed=1)
        shares = {"none": [], "images": []}
        for centre, found in shares.items():
            for seed in range(5):
                settings = {"n_features": 60, "n_code_features": 60, "random_state": seed, "centre": centre}
                fair = FairerClip(**settings).fit(X, y, s=s, text_features=TEXT)
                found.append(fair.predict(unseen).mean())
        assert np.std(shares["images"]) < 0.5 * np.std(shares["none"])
        assert np.abs(np.array(shares["images"]) - 0.5).max() < 0.1

    def test_a_subset(self):
        X, y, s = world(600, agree=0.9, seed=0)
        model = FairerClip(n_features=80, max_samples=100, random_state=0).fit(X, y, s=s, text_features=TEXT)
        assert model.solves_[0].codes.shape == (100, 1)

    def test_three_named_classes(self):
        rng = np.random.default_rng(0)
        names = np.array(["ring", "moon", "star"])
        y = names[rng.integers(0, 3, 300)]
        X = rng.standard_normal((300, 6)) * 0.3
        X[np.arange(300), np.searchsorted(np.sort(names), y)] += 2
        model = FairerClip(n_features=120, random_state=0).fit(X, y)
        assert model.score(X, y) > 0.95
        assert model.transform_image(X).shape == (300, 2)


class TestDoors:
    def test_an_attribute_without_variation_drops_out(self):
        X, y, _ = world(200, agree=0.9, seed=0)
        with pytest.warns(UserWarning, match="dropped"):
            one = FairerClip(n_features=50, random_state=0).fit(X, y, s=np.ones(200), text_features=TEXT)
        none = FairerClip(n_features=50, random_state=0).fit(X, y, text_features=TEXT)
        np.testing.assert_array_equal(one.image_map_, none.image_map_)

    def test_round_trip(self, fitted, tmp_path):
        fitted.save(tmp_path / "codes.safetensors")
        back = FairerClip.load(tmp_path / "codes.safetensors")
        X, _, _ = world(50, agree=0.5, seed=5)
        np.testing.assert_array_equal(back.predict(X), fitted.predict(X))
        np.testing.assert_array_equal(back.image_mean_, fitted.image_mean_)
        np.testing.assert_array_equal(back.transform_image(X), fitted.transform_image(X))
        assert back.get_params() == fitted.get_params()
        assert back.classes_.dtype == fitted.classes_.dtype

    def test_a_broken_file(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            FairerClip.load(tmp_path / "none")
        (tmp_path / "bad").write_bytes(b"123")
        with pytest.raises(InputError, match="safetensors"):
            FairerClip.load(tmp_path / "bad")

    @pytest.mark.parametrize(
        ("settings", "given"),
        [
            ({"max_samples": 1}, {}),
            ({}, {"s": [1, 2]}),
            ({}, {"text_features": TEXT[:1]}),
            ({}, {"text_features": TEXT[:, :3]}),
            ({}, {"text_features": TEXT * np.nan}),
            ({}, {"y": np.zeros(60, dtype=int)}),
            ({}, {"X": np.full((60, 16), np.nan)}),
        ],
    )
    def test_refuses(self, settings, given):
        X, y, s = world(60, agree=0.9, seed=0)
        given = {"X": X, "y": y, "s": s, "text_features": TEXT} | given
        with pytest.raises(ValueError, match=r"expected|NaN"):
            FairerClip(**{"n_features": 20, "random_state": 0} | settings).fit(given.pop("X"), given.pop("y"), **given)

    def test_pseudo_labels_of_one_class(self):
        X, _, s = world(60, agree=0.9, seed=0)
        with pytest.raises(InputError, match="one class"):
            FairerClip(n_features=20).fit_unlabelled(X, s=s, text_features=np.stack([TEXT[0], TEXT[0]]))
        with pytest.raises(InputError, match="start"):
            FairerClip(n_features=20).fit_unlabelled(X, s=s, text_features=TEXT, start=np.full(60, 2))

    def test_injected_features_are_used(self):
        X, y, _ = world(60, agree=0.9, seed=0)
        base = FairerClip(n_features=30, random_state=0).fit(X, y, text_features=TEXT)
        again = FairerClip(kernels=base.kernels_, random_state=9).fit(X, y, text_features=TEXT)
        np.testing.assert_array_equal(base.image_map_, again.image_map_)
        assert isinstance(again.kernels_.image, RandomFeatures)
