"""Association of images with words, and the coordinates that carry it: identities, planted cases, refusals."""

import itertools

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.methods.fairpivara import DimensionMask, FairDims, association_bias, histogram_mi, select_dimensions, weat

RNG = np.random.default_rng(0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(count, *, width=24, rng=RNG):
    return unit(rng.standard_normal((count, width)))


@pytest.fixture(scope="module")
def planted():
    """Images that lean toward the negative words along coordinate 3, and words that differ there alone."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((4000, 24))
    images[:, 3] += 2.0
    words = rng.standard_normal((20, 24)) * 0.3
    words[:10, 3] += 1.0
    words[10:, 3] -= 1.0
    return {"images": unit(images), "negative": unit(words[:10]), "positive": unit(words[10:])}


class TestBias:
    def test_swapped_lists_turn_the_sign(self):
        images, a, b = draw(30), draw(6), draw(7)
        there = association_bias(images, positive=a, negative=b, top_k=4)
        assert association_bias(images, positive=b, negative=a, top_k=4) == pytest.approx(-there)

    def test_all_words_are_plain_sums(self):
        images, a, b = draw(30), draw(6), draw(7)
        expected = (images @ a.T).sum() - (images @ b.T).sum()
        assert association_bias(images, positive=a, negative=b, top_k=99) == pytest.approx(expected)

    def test_images_add_up(self):
        images, words = draw(30), {"positive": draw(5), "negative": draw(5)}
        parts = [association_bias(some, **words) for some in (images[:11], images[11:])]
        assert association_bias(images, **words) == pytest.approx(sum(parts))

    def test_rows_of_other_lengths_warn(self):
        with pytest.warns(UserWarning, match="normalise"):
            association_bias(2 * draw(3), positive=draw(2), negative=draw(2))

    @pytest.mark.parametrize(
        "changes",
        [
            {"positive": np.empty((0, 24))},
            {"negative": draw(2, width=5)},
            {"images": np.full((2, 24), np.nan)},
            {"images": draw(3)[0]},
        ],
    )
    def test_refuses(self, changes):
        given = {"images": draw(3), "positive": draw(2), "negative": draw(2)} | changes
        with pytest.raises(InputError):
            association_bias(given.pop("images"), **given)


class TestInformation:
    def test_one_label_tells_nothing(self):
        assert histogram_mi(RNG.standard_normal(500), np.zeros(500, dtype=int)) == pytest.approx(0, abs=1e-3)

    def test_a_copy_tells_more_than_chance(self):
        x = RNG.standard_normal(5000)
        told = histogram_mi(x, (x > 0).astype(int))
        assert told > 0.5
        assert told > 5 * histogram_mi(x, RNG.integers(0, 2, 5000))

    def test_few_rows_look_informed(self):
        small, large = (
            np.mean([histogram_mi(RNG.standard_normal(n), RNG.integers(0, 2, n)) for _ in range(5)]) for n in (40, 4000)
        )
        assert small > 0.1 > large

    def test_without_smoothing_it_is_scikit_learns(self):
        from sklearn.metrics import mutual_info_score

        x, labels = RNG.random(300), RNG.integers(0, 2, 300)
        bins = np.minimum((x - x.min()) / (x.max() - x.min()) * 8, 7).astype(int)
        assert histogram_mi(x, labels, bins=8, sigma=0) == pytest.approx(mutual_info_score(bins, labels), abs=1e-9)

    @pytest.mark.parametrize(
        ("x", "labels"),
        [
            (np.zeros(0), np.zeros(0)),
            (np.zeros(3), np.zeros(2)),
            (np.array([np.inf]), np.zeros(1)),
        ],
    )
    def test_refuses(self, x, labels):
        with pytest.raises(InputError):
            histogram_mi(x, labels)


class TestSelection:
    def test_the_planted_coordinate_goes(self, planted):
        found = select_dimensions(**{k: v for k, v in planted.items() if k != "images"}, images=planted["images"], n=3)
        assert found.bias < 0
        assert 3 in found.dims
        assert abs(found.remaining) < 0.3 * abs(found.bias)
        assert found.remaining == pytest.approx(found.bias_path[len(found.dims) - 1])

    def test_each_removal_is_what_dropping_gives(self):
        words = {"positive": draw(5), "negative": draw(4)}
        images = draw(50)
        found = select_dimensions(images, **words, n=6, theta=1.0, top_k=3)
        for count in range(1, len(found.listed) + 1):
            mask = DimensionMask(found.listed[:count], 24)
            with pytest.warns(UserWarning, match="normalise"):
                left = association_bias(
                    mask.apply(images), **{name: mask.apply(rows) for name, rows in words.items()}, top_k=3
                )
            assert left == pytest.approx(found.bias_path[count - 1])
        assert abs(found.remaining) == pytest.approx(np.abs([found.bias, *found.bias_path]).min())

    def test_a_limit_that_admits_nothing_falls_back_with_a_warning(self):
        with pytest.warns(UserWarning, match="admits no coordinate"):
            found = select_dimensions(draw(40), positive=draw(5), negative=draw(5), theta=0.0, top_k=3, n=6)
        assert len(found.candidates) <= 6
        assert not select_dimensions(
            draw(40), positive=draw(5), negative=draw(5), theta=0.0, top_k=3, n=6, mode="official"
        ).dims

    def test_order_for_a_positive_bias(self, planted):
        turned = {"positive": planted["negative"], "negative": planted["positive"], "n": 1, "theta": 1.0}
        released = select_dimensions(planted["images"], **turned)
        nearest = select_dimensions(planted["images"], **turned, order="nearest_zero")
        assert released.bias > 0
        assert nearest.listed[0] == 3
        assert released.listed[0] != 3
        assert abs(nearest.remaining) < abs(released.remaining)

    def test_equal_embeddings(self):
        same = np.repeat(draw(1), 20, axis=0)
        with pytest.warns(UserWarning, match="admits no coordinate"):
            found = select_dimensions(same, positive=draw(3), negative=draw(3), theta=-1.0, n=3)
        assert found.bias_path.shape == (len(found.listed),)

    def test_one_image(self):
        found = select_dimensions(draw(1), positive=draw(3), negative=draw(3), theta=10.0, n=3)
        assert abs(found.remaining) <= abs(found.bias)

    @pytest.mark.parametrize(
        "changes",
        [{"n": 24}, {"images": np.zeros((0, 24))}],
    )
    def test_refuses(self, changes):
        given = {"images": draw(9), "positive": draw(2), "negative": draw(2), "n": 3} | changes
        with pytest.raises(InputError):
            select_dimensions(given.pop("images"), **given)


class TestMask:
    def test_dropping_and_zeroing_give_the_same_products(self):
        mask = DimensionMask((5, 2), 24)
        x, y = draw(4), draw(3)
        np.testing.assert_allclose(mask.apply(x) @ mask.apply(y).T, mask.zero(x) @ mask.zero(y).T)
        assert mask.apply(x).shape == (4, 22)
        np.testing.assert_array_equal(mask.zero(x)[:, [2, 5]], 0)
        assert x[0, 2] != 0

    def test_round_trip(self, tmp_path):
        mask = DimensionMask((5, 2), 24, {"n": 2, "images": 40})
        mask.save(tmp_path / "mask.json")
        assert DimensionMask.load(tmp_path / "mask.json") == mask
        (tmp_path / "mask.json").write_text("{}")
        with pytest.raises(InputError, match="DimensionMask"):
            DimensionMask.load(tmp_path / "mask.json")

    @pytest.mark.parametrize(("dims", "dim"), [((24,), 24), ((1, 1), 24), ((0, 1), 2), ((-1,), 4)])
    def test_refuses(self, dims, dim):
        with pytest.raises(InputError):
            DimensionMask(dims, dim)

    def test_refuses_another_width(self):
        with pytest.raises(InputError, match="24 coordinates"):
            DimensionMask((1,), 24).apply(draw(2, width=7))


class TestEstimator:
    def test_it_drops_what_the_function_finds(self, planted):
        words = {name: planted[name] for name in ("positive", "negative")}
        fitted = FairDims(**words, n=3).fit(planted["images"])
        found = select_dimensions(planted["images"], **words, n=3)
        assert fitted.mask_ == found.mask
        rows = draw(5)
        np.testing.assert_array_equal(fitted.transform(rows), found.mask.apply(rows))
        np.testing.assert_array_equal(fitted.inverse_transform(fitted.transform(rows)), found.mask.zero(rows))

    def test_one_list_alone_is_refused(self, planted):
        with pytest.raises(InputError, match="together"):
            FairDims(positive=planted["positive"]).fit(planted["images"])


class TestWeat:
    def test_planted_concepts(self):
        a, b = draw(4), draw(4)
        x, y = unit(a + 0.1 * draw(4)), unit(b + 0.1 * draw(4))
        found = weat(x, y=y, a=a, b=b)
        assert found.effect > 1.5
        assert found.p == pytest.approx(1 / 70)
        assert weat(y, y=x, a=a, b=b).effect == pytest.approx(-found.effect)

    def test_lengths_do_not_matter(self):
        x, y, a, b = draw(4), draw(4), draw(3), draw(3)
        assert weat(3 * x, y=y, a=7 * a, b=b).effect == pytest.approx(weat(x, y=y, a=a, b=b).effect)

    def test_exact_p_counts_ties(self):
        x = draw(2)
        found = weat(x, y=x[::-1].copy(), a=draw(3), b=draw(3))
        s = found.associations
        sums = [s[list(some)].sum() for some in itertools.combinations(range(4), 2)]
        assert found.effect == pytest.approx(0)
        assert found.p == pytest.approx(np.mean(np.array(sums) >= s[:2].sum() - 1e-9))

    def test_many_partitions_are_sampled_and_the_seed_decides(self):
        sets = {"y": draw(10), "a": draw(3), "b": draw(3)}
        x = draw(10)
        first, again, other = (weat(x, **sets, seed=seed) for seed in (0, 0, 1))
        assert first.partitions == 10_000
        assert first.p == again.p
        assert first.p != other.p
        assert abs(first.p - other.p) < 0.03

    def test_unequal_sets_have_an_effect_but_no_p(self):
        sets = {"y": draw(5), "a": draw(3), "b": draw(3)}
        assert weat(draw(4), **sets, test="none").p is None
        with pytest.raises(InputError, match="one size"):
            weat(draw(4), **sets)

    @pytest.mark.parametrize(
        "changes",
        [
            {"x": np.zeros((4, 24))},
            {"a": draw(3, width=3)},
            {"b": np.full((2, 24), np.nan)},
            {"x": np.repeat(draw(1), 4, axis=0), "y": None},
        ],
    )
    def test_refuses(self, changes):
        given = {"x": draw(4), "y": draw(4), "a": draw(3), "b": draw(3)} | changes
        if given["y"] is None:
            given["y"] = given["x"]
        with pytest.raises(InputError):
            weat(given.pop("x"), **given)
