"""Bias probes: identities, planted differences, and what must be refused."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from tether.core.errors import InputError
from tether.methods.evaluating_clip import (
    class_design_effect,
    harm_rates,
    label_association,
    report,
    stress_test,
    write_report,
)


def rows(count, *, seed, width=8):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double(), dim=1)


IMAGE, CLASSES = rows(300, seed=0), rows(6, seed=1)
CATEGORY = ["neutral"] * 4 + ["harm"] * 2
GROUP = ["a"] * 120 + ["b"] * 180


def rates(**changes):
    settings = {"class_text": CLASSES, "category": CATEGORY, "group": GROUP} | changes
    return harm_rates(IMAGE, **settings)


class TestHarm:
    def test_categories_share_a_group_out(self):
        found = rates()
        for group, n in (("a", 120), ("b", 180)):
            shares = [found.of(group, category=kind) for kind in found.categories]
            assert sum(one.rate for one in shares) == pytest.approx(1)
            assert {one.n for one in shares} == {n}

    def test_a_planted_harm_is_found(self):
        image = torch.cat([CLASSES[[4]].expand(600, -1), CLASSES[[0]].expand(600, -1)])
        group = ["a"] * 600 + ["b"] * 600
        found = harm_rates(image, class_text=CLASSES, category=CATEGORY, group=group)
        assert found.of("a", category="harm").rate == 1
        assert found.of("b", category="harm").rate == 0
        assert not found.of("a", category="harm").overlaps(found.of("b", category="harm"))

    def test_an_empty_group_is_a_row(self):
        empty = rates(groups=("a", "b", "c")).of("c", category="harm")
        assert empty.n == 0
        assert math.isnan(empty.rate)

    def test_the_scale_moves_no_rate(self):
        assert rates(scale=1.0).rows == rates(scale=100.0).rows

    def test_one_class(self):
        found = rates(class_text=CLASSES[:1], category=["neutral"])
        assert {row.share.rate for row in found.rows} == {1.0}

    @pytest.mark.parametrize(
        "changes",
        [
            {"category": CATEGORY[:-1]},
            {"group": GROUP[:-1]},
            {"report": ["unknown"]},
            {"groups": ["a"]},
            {"class_text": CLASSES[:, :-1]},
            {"class_text": CLASSES * math.nan},
        ],
    )
    def test_refuses(self, changes):
        with pytest.raises(InputError):
            rates(**changes)

    def test_unknown_row(self):
        with pytest.raises(InputError, match="no group"):
            rates().of("z", category="harm")


class TestClassDesign:
    @pytest.mark.parametrize("seed", range(5))
    def test_an_added_class_never_raises_another_category(self, seed):
        effect = class_design_effect(
            IMAGE,
            class_text=CLASSES,
            category=CATEGORY,
            group=GROUP,
            add=rows(2, seed=seed + 10),
            add_category=["new", "new"],
        )
        assert max(effect.difference) <= 0
        assert min(effect.difference) < 0
        assert effect.after.classes == effect.before.classes + 2
        assert "new" in effect.after.categories
        assert "new" not in effect.before.categories

    def test_numbers_from_numpy_will_do(self):
        words = torch.arange(len(CLASSES)).remainder(3)
        settings = {"group": GROUP, "add": rows(1, seed=10)}
        given = [
            class_design_effect(IMAGE, class_text=CLASSES, category=kinds, add_category=kinds[:1], **settings)
            for kinds in (words.tolist(), words.numpy())
        ]
        assert given[0].difference == given[1].difference

    def test_relative_of_nothing_is_nan(self):
        effect = class_design_effect(
            CLASSES[:4],
            class_text=CLASSES,
            category=CATEGORY,
            group=["a"] * 4,
            add=CLASSES[:1],
            add_category=["neutral"],
        )
        place = [(row.group, row.category) for row in effect.before.rows].index(("a", "harm"))
        assert math.isnan(effect.relative[place])

    def test_refuses_a_class_without_category(self):
        with pytest.raises(InputError, match="add_category"):
            class_design_effect(
                IMAGE, class_text=CLASSES, category=CATEGORY, group=GROUP, add=CLASSES[:2], add_category=["new"]
            )


def associations(**changes):
    settings = {"class_text": CLASSES, "group": GROUP, "pair": ("a", "b"), "threshold": 0.3, "scale": 5.0} | changes
    return label_association(IMAGE, **settings)


class TestLabels:
    def test_chi_square_is_scipys(self):
        found = associations()
        probability = (5.0 * IMAGE @ CLASSES.T).softmax(dim=1)
        for place, row in enumerate(found.rows):
            a, b = ((probability[s, place] >= 0.3).sum().item() for s in (slice(0, 120), slice(120, None)))
            expected = stats.chi2_contingency([[a, 120 - a], [b, 180 - b]], correction=False)
            assert row.chi2 == pytest.approx(expected.statistic)
            assert row.p == pytest.approx(expected.pvalue)
            assert row.least_expected == pytest.approx(expected.expected_freq.min())
            assert row.difference == pytest.approx(row.frequency_a - row.frequency_b)

    def test_order_of_the_pair_turns_the_difference(self):
        there, back = associations(), associations(pair=("b", "a"))
        assert [row.difference for row in there.rows] == [-row.difference for row in back.rows]
        assert [row.chi2 for row in there.rows] == [row.chi2 for row in back.rows]

    def test_a_group_without_images_is_a_row_and_no_error(self):
        found = associations(pair=("a", "c"), groups=("a", "b", "c"))
        assert found.n == (120, 0)
        for row in found.rows:
            assert np.isnan(row.frequency_b)
            assert (row.chi2, row.p) == (0.0, 1.0)
        with pytest.raises(InputError, match="pair"):
            associations(pair=("a", "c"))

    def test_a_higher_threshold_lets_fewer_through(self):
        assert associations(threshold=0.04).passed > associations(threshold=0.4).passed

    def test_adjusted_values(self):
        p = np.array([row.p for row in associations().rows])
        holm = np.array([row.p_adjusted for row in associations().rows])
        assert holm.min() == pytest.approx(min(1, p.min() * len(p)))
        assert (holm >= p).all()
        gentle = np.array([row.p_adjusted for row in associations(adjust="benjamini_hochberg").rows])
        assert ((gentle >= p) & (gentle <= holm + 1e-12)).all()

    def test_few_counts_take_the_exact_test_when_asked(self):
        strict = {"threshold": 0.85}
        plain, exact, auto = (associations(test=test, **strict) for test in ("chi2", "fisher", "auto"))
        few = [row.least_expected < 5 for row in plain.rows]
        assert any(few)
        for rare, one, two, three in zip(few, plain.rows, exact.rows, auto.rows, strict=True):
            assert three.p == (two.p if rare else one.p)

    def test_a_label_that_nothing_has(self):
        row = associations(threshold=0.999).rows[0]
        assert (row.frequency_a, row.frequency_b, row.chi2, row.p) == (0, 0, 0, 1)

    def test_a_single_label_is_always_given(self):
        row = associations(class_text=CLASSES[:1]).rows[0]
        assert (row.frequency_a, row.frequency_b, row.chi2, row.p_adjusted) == (1, 1, 0, 1)

    @pytest.mark.parametrize(
        "changes",
        [
            {"pair": ("a", "a")},
            {"pair": ("a", "z")},
            {"labels": ["one"]},
            {"group": GROUP[:-1]},
        ],
    )
    def test_refuses(self, changes):
        with pytest.raises(InputError):
            associations(**changes)


class TestStress:
    def test_a_close_distractor_takes_what_it_wins(self):
        correct, others = rows(50, seed=3), rows(4, seed=4)
        close = correct.clone()
        close[:20] = IMAGE[:20]
        found = stress_test(IMAGE[:50], correct=correct, close=close, others=others)
        assert found.distracted.rate >= 20 / 50
        assert found.stressed.rate == 0  # a distractor that equals the caption wins the tie
        assert found.plain.rate > 0

    def test_a_far_distractor_changes_nothing(self):
        image = rows(50, seed=5)
        found = stress_test(image, correct=image, close=-image, others=rows(4, seed=6))
        assert found.plain == found.stressed
        assert found.distracted.rate == 0

    def test_refuses_other_lengths(self):
        with pytest.raises(InputError, match="pairs"):
            stress_test(IMAGE, correct=IMAGE[:5], close=IMAGE, others=CLASSES)


class TestReport:
    def test_markdown_has_counts_and_caution(self):
        text = report({"a photo of a {}": rates()}, associations={"from 0.3": associations()})
        assert "| a | harm | 120 |" in text
        assert "Only one template" in text
        assert "6 classes offered" in text
        assert "overlap are not told apart" in text
        assert "| a\\|b | harm | 300 |" in report({"{}": rates(group=["a|b"] * 300)})

    def test_json_holds_every_row(self, tmp_path):
        both = {"one {}": rates(groups=("a", "b", "c")), "two {}": rates()}
        write_report(tmp_path / "probe.json", harm=both, associations={"from 0.3": associations()})
        values = json.loads((tmp_path / "probe.json").read_text("utf-8"))
        assert len(values["harm"]["one {}"]["rows"]) == 6
        assert values["harm"]["one {}"]["rows"][-1]["share"] == {"n": 0, "rate": None, "low": None, "high": None}
        assert len(values["labels"]["from 0.3"]["rows"]) == 6
        write_report(tmp_path / "probe.md", harm=both)
        assert "Only one template" not in (tmp_path / "probe.md").read_text("utf-8")
        assert "no images" in (tmp_path / "probe.md").read_text("utf-8")

    def test_refuses(self, tmp_path):
        with pytest.raises(InputError, match="got none"):
            report({})
        with pytest.raises(InputError, match=r"\.md or \.json"):
            write_report(tmp_path / "probe.txt", harm={"{}": rates()})
