"""Findings, patients, places: figures against scikit-learn and by hand, and what must be refused or left undefined."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.evaluate.medical import choose_thresholds, multilabel_report
from tether.evaluate.medical.report import curves, ranked
from tether.methods.medical_survey import best_threshold, check_apart, group_split, localisation
from tether.methods.medical_survey.prompt_pairs import PromptPairZeroShot, pair_scores
from tether.methods.medical_survey.similarity_map import similarity_map
from tether.models import create

RNG = np.random.default_rng(0)


def draw(rows=200, findings=3):
    truth = (RNG.random((rows, findings)) < (0.1, 0.3, 0.5)[:findings]).astype(float)
    return np.round(np.clip(0.3 * truth + RNG.random((rows, findings)) * 0.7, 0, 1), 2), truth


@pytest.fixture(scope="module", params=list(ENCODERS))
def model(request, tmp_path_factory):
    return ENCODERS[request.param](tmp_path_factory.mktemp("encoder"))


def pixels(count=3):
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


# The report


def test_figures_are_those_of_scikit_learn_with_ties_and_weights():
    score, truth = draw()
    weights = RNG.integers(0, 4, (7, len(score))).astype(float)
    for column in range(3):
        rows = ranked(score[:, column], truth=truth[:, column] > 0)
        areas, precisions = curves(rows, weights=weights)
        for place, weight in enumerate(weights):
            given = {"sample_weight": weight}
            assert areas[place] == pytest.approx(roc_auc_score(truth[:, column], score[:, column], **given))
            assert precisions[place] == pytest.approx(
                average_precision_score(truth[:, column], score[:, column], **given)
            )
    report = multilabel_report(score, truth=truth, findings=["a", "b", "c"])
    assert report.auroc.value == pytest.approx(roc_auc_score(truth, score))
    assert report.average_precision.value == pytest.approx(average_precision_score(truth, score))
    assert [finding.name for finding in report.findings] == ["a", "b", "c"]
    assert report.findings[0].auroc.low is None
    assert report.notes == ()


def test_uncertain_labels_are_left_out_and_counted():
    score, truth = draw()
    truth[:50, 1] = -1
    truth[50:60, 1] = np.nan
    report = multilabel_report(torch.from_numpy(score), truth=torch.from_numpy(truth))
    finding = report.findings[1]
    assert (finding.rows, finding.uncertain) == (140, 60)
    assert finding.auroc.value == pytest.approx(roc_auc_score(truth[60:, 1], score[60:, 1]))


def test_one_class_alone_gives_none_and_a_note():
    score, truth = draw()
    truth[:, 0], truth[:, 2] = 1, -1
    report = multilabel_report(score, truth=truth, findings=["a", "b", "c"], resamples=20)
    assert report.findings[0].auroc is report.findings[0].average_precision is report.findings[2].auroc is None
    assert report.auroc.value == report.findings[1].auroc.value
    assert report.notes == (
        "a: only rows with it, so AUROC and average precision are not defined",
        "c: no row, so AUROC and average precision are not defined",
    )
    none = multilabel_report(score[:, :1], truth=np.zeros((200, 1)))
    assert none.auroc is None
    assert "only rows without it" in none.notes[0]


def test_intervals_hold_the_value_and_shrink_with_rows_and_know_the_seed():
    score, truth = draw(1000)
    small = multilabel_report(score[:100], truth=truth[:100], resamples=300).auroc
    large = multilabel_report(score, truth=truth, resamples=300).auroc
    assert small.low < small.value < small.high
    assert large.high - large.low < 0.6 * (small.high - small.low)
    again, other = (multilabel_report(score, truth=truth, resamples=300, seed=seed).auroc for seed in (0, 1))
    assert again == large
    assert other != large


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    hits = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        truth = (rng.random((150, 1)) < 0.4).astype(float)
        score = rng.normal(size=(150, 1)) + truth  # AUROC is Phi(1 / sqrt 2) = 0.7602
        found = multilabel_report(score, truth=truth, resamples=200, level=0.9).auroc
        hits += found.low <= 0.7602 <= found.high
    assert 47 <= hits <= 60


def test_patients_are_resampled_whole():
    score, truth = draw(120)
    twice = [np.repeat(table, 4, axis=0) for table in (score, truth)]
    patients = np.repeat(np.arange(120), 4)
    alone = multilabel_report(score, truth=truth, resamples=400).auroc
    whole = multilabel_report(twice[0], truth=twice[1], patients=patients, resamples=400).auroc
    naive = multilabel_report(twice[0], truth=twice[1], resamples=400).auroc
    assert whole.value == pytest.approx(alone.value)
    assert whole.high - whole.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert naive.high - naive.low < 0.7 * (whole.high - whole.low)


def test_groups_have_reports_of_their_own_and_a_gap():
    score, truth = draw(400)
    site = np.array(["north", "south"])[(np.arange(400) < 100).astype(int)]
    worse = site == "south"
    score[worse] = RNG.random((100, 3))
    report = multilabel_report(score, truth=truth, groups={"site": site, "age": np.arange(400) // 300})
    south = report.groups["site"]["south"]
    assert south.auroc.value == pytest.approx(roc_auc_score(truth[worse], score[worse]))
    assert report.gap("site") == pytest.approx(report.groups["site"]["north"].auroc.value - south.auroc.value)
    assert set(report.groups["age"]) == {0, 1}
    listed = multilabel_report(score, truth=truth, groups={"age": list(np.arange(400) // 300)})
    assert listed.groups["age"] == report.groups["age"]
    with pytest.raises(InputError, match="no groups by 'sex'; known: site, age"):
        report.gap("sex")
    few = multilabel_report(score, truth=truth, groups={"rare": (np.arange(400) == 0).astype(int)})
    assert any(note.startswith("rare 1: ") for note in few.notes)
    assert few.gap("rare") is None


def test_thresholds_are_taken_and_chosen_elsewhere():
    score, truth = draw(300)
    limits = choose_thresholds(score[:150], truth=truth[:150])
    report = multilabel_report(score[150:], truth=truth[150:], thresholds=limits)
    for column, finding in enumerate(report.findings):
        said, real = score[150:, column] >= limits[column], truth[150:, column] > 0
        assert finding.sensitivity.rate == pytest.approx(said[real].mean())
        assert finding.specificity.rate == pytest.approx((~said[~real]).mean())
        every = np.unique(score[:150, column])
        own, here = truth[:150, column] > 0, score[:150, column]
        youden = [(here[own] >= t).mean() - (here[~own] >= t).mean() for t in every]
        assert limits[column] in every[np.isclose(youden, max(youden))]
    assert choose_thresholds(score, truth=np.ones_like(truth)) == (None, None, None)
    assert choose_thresholds(score, truth=truth, criterion="f1")[0] >= limits[0] - 0.5
    none = multilabel_report(score, truth=truth, thresholds=[None, 0.5, None]).findings
    assert none[0].sensitivity is None
    assert none[1].sensitivity is not None


def test_calibration_is_the_distance_of_probability_and_share():
    truth = np.array([[1.0], [0], [0], [0]])
    assert multilabel_report(np.full((4, 1), 0.25), truth=truth).findings[0].calibration_error == pytest.approx(0)
    assert multilabel_report(np.full((4, 1), 0.75), truth=truth).findings[0].calibration_error == pytest.approx(0.5)
    assert multilabel_report(truth, truth=truth).findings[0].calibration_error == pytest.approx(0)
    assert multilabel_report(truth * 9, truth=truth).findings[0].calibration_error is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.zeros((4, 3))}, r"of one shape, got \(4, 2\) and \(4, 3\)"),
        ({"truth": np.full((4, 2), 2.0)}, "expected 0, 1, -1 or NaN, got 2.0 in row 0, column 0"),
        ({"findings": ["a"]}, "findings: expected 2 names"),
        ({"thresholds": [0.5]}, "thresholds: expected 2"),
        ({"patients": [1, 2]}, "patients: expected one for each of 4 rows"),
        ({"groups": {"sex": ["a"]}}, "groups: sex: expected one for each of 4 rows"),
    ],
)
def test_bad_tables_are_refused(change, message):
    given = {"truth": np.zeros((4, 2))} | change
    with pytest.raises(InputError, match=message):
        multilabel_report(np.zeros((4, 2)), **given)
    with pytest.raises(InputError, match="got nan in row 1, column 0"):
        multilabel_report(np.array([[0.0], [np.nan]]), truth=np.zeros((2, 1)))


# Splits


def test_every_patient_stands_on_one_side_whatever_else_there_is():
    patients = [f"p{number // 3}" for number in range(600)]
    found = group_split(patients)
    check_apart({name: [patients[row] for row in found.rows(name)] for name in found.names})
    assert sum(len(found.rows(name)) for name in found.names) == 600
    assert len(found.rows("train")) / 600 == pytest.approx(0.7, abs=0.1)
    fewer = group_split(patients[:300] + ["new"] * 5)
    assert np.array_equal(fewer.part[:300], found.part[:300])
    shuffled = np.random.default_rng(1).permutation(600)
    assert np.array_equal(group_split([patients[row] for row in shuffled]).part, found.part[shuffled])
    assert not np.array_equal(group_split(patients, seed=1).part, found.part)
    assert group_split(torch.arange(50)).part.shape == (50,)


def test_a_patient_on_both_sides_is_an_error():
    with pytest.raises(ValueError, match="2 groups stand in both 'train' and 'test', the first is 'p3'"):
        check_apart({"train": ["p1", "p2", "p3"], "validation": ["p4"], "test": ["p3", "p2", "p5"]})
    check_apart({"train": np.array([1, 1, 2]), "test": torch.tensor([3])})


@pytest.mark.parametrize(
    ("groups", "settings", "message"),
    [
        ([], {}, "at least one row"),
        (["a", ""], {}, "row 1 has no group"),
        ([1.0, math.nan], {}, "row 1 has no group"),
        (["a", None], {}, "row 1 has no group"),
        (["a"], {}, "has none of the 1 groups"),
        (["a", "b"], {"shares": {"train": 0.5}}, "add up to 1"),
        (["a", "b"], {"shares": {"train": 1.5, "test": -0.5}}, "above 0"),
    ],
)
def test_bad_splits_are_refused(groups, settings, message):
    with pytest.raises(InputError, match=message):
        group_split(groups, **settings)
    with pytest.raises(InputError, match="no part 'dev'"):
        group_split(list(range(100))).rows("dev")


# Prompt pairs


def test_a_pair_is_the_softmax_over_its_two_prompts(model):
    head = PromptPairZeroShot(positive=("a {}",), negative=("the {}", "in {}")).prepare(model, ["cat", "dog"])
    found = head.predict(pixels())
    both = found.scale * torch.stack([found.positive, found.negative], dim=-1)
    torch.testing.assert_close(found.probability, both.softmax(dim=-1)[..., 0])
    assert found.findings == ("cat", "dog")
    assert found.present(thresholds=[0.0, 1.1]).tolist() == [[True, False]] * 3
    alone = PromptPairZeroShot(positive=("a {}",), negative=("the {}", "in {}")).prepare(model, ["dog"])
    torch.testing.assert_close(alone.predict(pixels()).probability[:, 0], found.probability[:, 1])


def test_sentences_of_its_own_and_the_turned_over_question():
    model = create("tiny").eval()
    own = {"cat": (["a small cat", "one cat"], ["the sun"])}
    head = PromptPairZeroShot(own=own).prepare(model, ["cat", "dog"])
    turned = PromptPairZeroShot(own={"cat": own["cat"][::-1]}).prepare(model, ["cat", "dog"])
    one, two = (each.predict(pixels()).probability for each in (head, turned))
    torch.testing.assert_close(one[:, 0], 1 - two[:, 0])
    torch.testing.assert_close(one[:, 1], two[:, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PromptPairZeroShot(positive=()), "positive"),
        (lambda: PromptPairZeroShot(negative=("no",)), "exactly one {}"),
        (lambda: PromptPairZeroShot(own={"a": (["a"], [])}), "one sentence for and one against"),
        (lambda: PromptPairZeroShot(own={"a": (["a"], ["b"])}).prepare(create("tiny"), ["b"]), "not among b"),
        (lambda: PromptPairZeroShot().predict(pixels()), "comes before predict"),
        (lambda: PromptPairZeroShot().prepare(create("tiny"), ["a"], support=[]), "learns nothing"),
        (
            lambda: pair_scores(torch.ones(2, 3), positive=torch.ones(2, 3), negative=torch.ones(1, 3), scale=1.0),
            "as many positive as negative",
        ),
        (
            lambda: pair_scores(torch.ones(2, 3), positive=torch.ones(1, 3), negative=torch.ones(1, 3), scale=0.0),
            "scale",
        ),
        (
            lambda: pair_scores(
                torch.full((2, 3), torch.nan), positive=torch.ones(1, 3), negative=torch.ones(1, 3), scale=1.0
            ),
            "image: holds NaN",
        ),
        (
            lambda: PromptPairZeroShot().prepare(create("tiny"), ["a"]).predict(pixels()).present(thresholds=[1, 2]),
            "thresholds: expected one, or 1",
        ),
    ],
)
def test_bad_pairs_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Places


def test_maps_are_cosines_of_the_patches_enlarged(model):
    phrases = ["a red cat", "sun"]
    found = similarity_map(model, images=pixels(), phrases=phrases)
    assert found.heat.shape == (3, 2, 32, 32)
    assert found.patches.abs().max() <= 1 + 1e-5
    assert found.heat.amax() <= found.patches.amax() + 1e-6
    again = similarity_map(model, images=pixels()[1:2], phrases=phrases[1:])
    torch.testing.assert_close(again.patches[0, 0], found.patches[1, 1], rtol=1e-4, atol=1e-5)


def test_parts_add_up_to_what_the_patches_give_the_image():
    model = create("tiny").eval()
    found = similarity_map(model, images=pixels(), phrases=["a", "b"], method="parts")
    from tether.models.embed import encode_texts
    from tether.models.features.decompose import decompose

    parts = decompose(model, pixels(), reduce="heads")
    words = torch.nn.functional.normalize(encode_texts(model, ["a", "b"]), dim=1)
    wanted = parts.tokens[:, :, parts.class_tokens :].sum(dim=(1, 2)) @ words.T
    torch.testing.assert_close(found.patches.sum(dim=(2, 3)), wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradients"}, "method"),
        ({"phrases": []}, "phrases"),
        ({"phrases": "a star"}, "phrases"),
        ({"images": torch.zeros(3, 32, 32)}, "images"),
        ({"grid": (3, 5)}, "grid: expected 16 patches"),
    ],
)
def test_bad_maps_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        similarity_map(create("tiny").eval(), **({"images": pixels(), "phrases": ["a"]} | change))


def test_pointing_dice_and_contrast_by_hand():
    heat, masks = torch.zeros(4, 4, 4), torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[:3, :2, :2] = True
    heat[0, 0, 0], heat[1, 0, 2], heat[2] = 1.0, 1.0, 1.0
    found = localisation(heat, masks=masks, threshold=0.5)
    assert found.each_hit.tolist() == [True, False, True, False]  # of equal pixels the first
    assert found.counted.tolist() == [True, True, True, False]
    assert found.hits.rate == pytest.approx(2 / 3)
    assert found.chance == pytest.approx(0.25)
    torch.testing.assert_close(found.each_dice, torch.tensor([2 / 5, 0.0, 8 / 20, 0.0]))
    assert found.dice == pytest.approx((2 / 5 + 8 / 20) / 3)
    inside, outside = np.array([1, 0, 0, 0.0]), np.zeros(12)
    contrast = (inside.mean() - outside.mean()) / math.sqrt(inside.var() + outside.var())
    assert found.each_contrast[0].item() == pytest.approx(contrast)
    assert found.each_contrast[1] < 0
    assert found.each_contrast[2].isnan()
    assert found.contrast == pytest.approx(float(found.each_contrast[:2].mean()))
    ignored = localisation(heat, masks=masks, sign="ignored")
    assert ignored.each_contrast[1] == -found.each_contrast[1]
    assert ignored.dice is ignored.each_dice is None
    near = localisation(heat, masks=masks, tolerance=1)
    assert near.each_hit.tolist() == [True, True, True, False]
    assert near.chance == pytest.approx(9 / 16)


def test_scale_and_shift_of_the_heat_change_neither_hits_nor_contrast():
    heat = torch.randn(6, 8, 8, generator=torch.Generator().manual_seed(1))
    masks = heat > 1
    one, two = localisation(heat, masks=masks), localisation(7 * heat - 3, masks=masks)
    assert torch.equal(one.each_hit, two.each_hit)
    torch.testing.assert_close(one.each_contrast, two.each_contrast, rtol=1e-5, atol=1e-6)
    assert one.hits.rate == 1.0
    assert localisation(heat, masks=masks, threshold=best_threshold(heat, masks=masks)).dice > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": torch.ones(2, 3, 4)}, "bool masks"),
        ({"masks": torch.ones(2, 4, 4, dtype=torch.bool)}, r"\(n, h, w\)"),
        ({"masks": torch.zeros(2, 3, 4, dtype=torch.bool)}, "all 2 are empty"),
        ({"heat": torch.full((2, 3, 4), torch.nan)}, "NaN"),
    ],
)
def test_bad_heat_is_refused(change, message):
    given = {"heat": torch.zeros(2, 3, 4), "masks": torch.ones(2, 3, 4, dtype=torch.bool)} | change
    heat = given.pop("heat")
    with pytest.raises(InputError, match=message):
        localisation(heat, **given)


def test_even_sides_have_no_noise_of_rounding():
    mask = torch.zeros(3, 7, 7, dtype=torch.bool)
    mask[:, :3, :3] = True
    heat = torch.full((3, 7, 7), 0.1, dtype=torch.float64)
    heat[1][mask[1]] = 0.7
    heat[2][mask[2]] = 0.7
    heat[2, 6, 6] = 0.4
    found = localisation(heat, masks=mask)
    assert found.each_contrast[:2].isnan().all()
    outside = heat[2][~mask[2]]
    expected = float((0.7 - outside.mean()) / outside.std(correction=0))
    assert found.each_contrast[2].item() == found.contrast == pytest.approx(expected)


def test_a_number_is_one_patient_whatever_its_type():
    with pytest.raises(InputError, match="1 groups stand in both"):
        check_apart({"train": np.array([1, 2]), "test": np.array([1.0, 3.5])})
    with pytest.raises(InputError, match="1 groups stand in both"):
        check_apart({"train": [np.float32(2)], "test": torch.tensor([2])})
    numbers = np.arange(60)
    assert np.array_equal(group_split(numbers).part, group_split(numbers.astype(float)).part)


def test_resamples_in_pieces_are_those_at_once(monkeypatch):
    from tether.evaluate.medical import report

    probability, truth = draw()
    patients = np.arange(200) // 3
    settings = {"resamples": 25, "patients": patients}
    whole = multilabel_report(probability, truth=truth, **settings)
    largest, drawn = 0, report._draws

    def watched(owner, **given):
        nonlocal largest
        for piece in drawn(owner, **given):
            largest = max(largest, len(piece))
            yield piece

    monkeypatch.setattr(report, "AT_ONCE", 200 * 7)
    monkeypatch.setattr(report, "_draws", watched)
    assert multilabel_report(probability, truth=truth, **settings) == whole
    assert largest == 7
