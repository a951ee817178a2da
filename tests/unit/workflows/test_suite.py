"""Several models on several sets: one table, paired differences, and nothing measured twice."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import tether
import tiny_suites
from tether.core.errors import InputError
from tether.core.geometry import COSINE
from tether.core.types import Row
from tether.evaluate.suites import SeenSet, SuiteNumber, classify, compare
from tether.evaluate.suites.classify import moved_names
from tether.evaluate.suites.compare import holm
from tether.models import create
from tether.models.save import save
from tether.workflows.suite import suite


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    tiny_suites.classification(folder / "sets" / "colours", train=24)
    tiny_suites.retrieval(folder / "sets" / "found")
    tiny_suites.winoground(folder / "sets" / "wino")
    for seed in (0, 1):
        (folder / f"m{seed}").mkdir()
        save(create("tiny", seed=seed).eval(), folder / f"m{seed}")
    return folder


def test_models_are_compared_and_not_measured_twice(place, tmp_path):
    models, how = [str(place / "m0"), str(place / "m1")], {"out": tmp_path, "bootstrap": 100}
    first = suite(models[:1], place / "sets", **how)
    assert first.fresh == 3
    assert first.differences == ()
    both = suite(models, place / "sets", **how)
    assert both.fresh == 3
    assert both.numbers[models[0], "colours"] == first.numbers[models[0], "colours"]
    assert {each.metric for each in both.differences} == {
        "acc1",
        "image_retrieval_recall@5",
        "text_retrieval_recall@5",
        "acc",
    }
    again = suite(models, place / "sets", **how)
    assert again.fresh == 0
    assert again.plain() == both.plain() == json.loads((tmp_path / "suite.json").read_text())
    assert suite(models, place / "sets", **how | {"seed": 1}).fresh == 6  # other draws
    kept = next((tmp_path / "numbers").iterdir())
    kept.write_text("{}")  # damaged
    assert suite(models, place / "sets", **how | {"seed": 1}).fresh == 1


def test_another_order_of_names_is_measured_anew(place, tmp_path):
    folder = tiny_suites.classification(tmp_path / "sets" / "colours")
    assert suite(str(place / "m0"), folder, out=tmp_path / "out", bootstrap=0).fresh == 1
    (folder / "classnames.txt").write_text("\n".join(reversed(tiny_suites.COLOURS)))
    assert suite(str(place / "m0"), folder, out=tmp_path / "out", bootstrap=0).fresh == 1


def test_names_in_another_order_are_noticed():
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 6
    scores = torch.from_numpy(np.eye(6)[labels] + 0.1 * rng.random((120, 6)))
    assert moved_names(scores, labels) == ""
    said = moved_names(scores[:, [1, 2, 3, 4, 5, 0]], labels)
    assert "0% right, 100% if the answers were renamed" in said
    assert moved_names(torch.from_numpy(rng.random((120, 6))), labels) == ""
    often = np.where(
        np.arange(120) % 5 < 3, 0, labels
    )  # one class has most images, and the model has another answer to all
    assert moved_names(torch.from_numpy(np.tile(np.eye(6)[1], (120, 1))), often) == ""


def test_the_page_escapes_and_has_a_line_for_each_model(place, tmp_path):
    folder = tmp_path / "<b>sets"
    tiny_suites.winoground(folder / "<i>a")
    tiny_suites.retrieval(folder / "b")
    found = suite([str(place / "m0"), str(place / "m1")], folder, bootstrap=100)
    page = found.page()
    HTMLParser().feed(page)
    assert "<i>a" not in page
    assert "<b>sets" not in page
    assert page.count('class="m0"') == 2
    assert page.count("<polygon") == 4 + 1 + 2
    assert "<i>a" not in found._repr_html_()
    assert str(found).startswith("<b>sets: ")


def test_one_set_of_one_number_has_no_radar(place):
    found = suite(str(place / "m0"), place / "sets" / "wino", bootstrap=0)
    assert "<polygon" not in found.page()
    assert found.rows()[0][2][0][1] == ""
    assert found[found.models[0], "wino", "acc"] == found.numbers[found.models[0], "wino"]["acc"].value


def test_what_is_not_asked_for_is_left_out(place):
    found = suite(str(place / "m0"), place / "sets", measures=["linear_probe"], bootstrap=0)
    assert found.sets == ("colours",)
    assert set(found.numbers[found.models[0], "colours"]) == {"lp_acc1", "lp_acc5", "lp_mean_per_class_recall"}
    with pytest.raises(InputError, match="no test set in it allows linear_probe"):
        suite(str(place / "m0"), place / "sets" / "wino", measures=["linear_probe"])
    with pytest.raises(InputError, match="twice"):
        suite([str(place / "m0")] * 2, place / "sets")


def test_templates_may_be_given_instead(place, tmp_path):
    folder = tiny_suites.classification(tmp_path / "colours")
    (folder / "zeroshot_classification_templates.txt").unlink()
    with pytest.raises(InputError, match=r"no zeroshot_classification_templates\.txt; write one"):
        suite(str(place / "m0"), folder)
    assert suite(str(place / "m0"), folder, templates=["a {} thing"], bootstrap=0).fresh == 1


def test_one_class_in_the_test_split(place, tmp_path):
    folder = tiny_suites.classification(tmp_path / "colours")
    tiny_suites.shards(folder, "test", [(tiny_suites.png(i), "cls", b"3") for i in range(6)], count=1)
    with pytest.raises(InputError, match="all 6 rows have the label 3; one class tells nothing"):
        suite(str(place / "m0"), folder)
    tiny_suites.classification(folder, train=4)
    with pytest.raises(InputError, match=r"train: no image of class 4, which .*test asks for; 2 such classes"):
        suite(str(place / "m0"), folder, measures=["linear_probe"])


def test_ties_are_counted_and_told(place, tmp_path):
    folder = tiny_suites.sugarcrepe(tmp_path / "sugar")
    asked = json.loads((folder / "swap_obj.json").read_text())
    asked["0"]["negative_caption"] = asked["0"]["caption"]
    (folder / "swap_obj.json").write_text(json.dumps(asked))
    found = suite(str(place / "m0"), folder, bootstrap=0)
    assert found.numbers[found.models[0], "sugar/swap_obj"]["text_acc"].ties == 1
    assert "1 questions have another answer exactly as similar" in found.notes[0]


def test_differences_are_paired_and_corrected():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    right = {name: hard < share for name, share in (("good", 0.60), ("near", 0.59), ("bad", 0.40))}
    numbers = {(name, "s"): {"acc1": SuiteNumber.of_rows(each, resamples=300)} for name, each in right.items()}
    found = {(each.first, each.second): each for each in compare(numbers)}
    assert found["good", "bad"].real
    assert found["near", "bad"].real
    close = found["good", "near"]
    assert not close.real or close.low > 0
    apart = numbers["good", "s"]["acc1"]
    assert close.high - close.low < 0.5 * (apart.high - apart.low)  # the same images
    for each in found.values():
        assert each.low <= each.value <= each.high
        assert each.adjusted >= each.p
    assert holm([0.04, 0.01]) == [0.04, 0.02]


def test_equal_models_differ_by_nothing():
    rows = np.arange(30) % 3 == 0
    two = {(name, "s"): {"acc1": SuiteNumber.of_rows(rows, resamples=100)} for name in "ab"}
    (only,) = compare(two)
    assert (only.value, only.p, only.real) == (0.0, 1.0, False)


def test_no_false_alarms_among_equal_models():
    """Of models that are equally good on other images, hardly one comparison in twenty is called real, all together."""
    wrong = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        numbers = {
            (f"{name}", "s"): {"acc1": SuiteNumber.of_rows(rng.random(80) < 0.5, resamples=0)} for name in range(4)
        }
        wrong += any(each.real for each in compare(numbers))
    assert wrong <= 8


def test_mean_per_class_recall_counts_classes_alike():
    rows = tuple(Row(str(i), None, meta={"label": int(i >= 9)}) for i in range(12))
    image = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1]] * 12), dim=-1)
    found = classify(SeenSet("s", rows, image, COSINE), torch.eye(2), resamples=50)
    assert found["acc1"].value == 0.75
    assert found["mean_per_class_recall"].value == 0.5
    assert "acc5" not in found


def test_a_loaded_model_has_a_name(place):
    found = suite(tether.load(place / "m0"), place / "sets" / "wino", bootstrap=0)
    assert found.models == ("Clip",)
