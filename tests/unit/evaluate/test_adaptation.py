"""Figures before and after, and what the report says of them."""

import json
from html import escape

import pytest
import torch

from tether.core.errors import InputError
from tether.evaluate.adaptation import AdaptReport, class_figures, recall_figure
from tether.evaluate.adaptation.figures import hits_figure, plain_figure, shares_figure
from tether.evaluate.adaptation.report import Costs, CurvePoint, Frozen
from tether.evaluate.embeddings import Embedded
from tether.evaluate.groups import wilson

FROZEN = Frozen(3, (), 2, image_side=False, text_side=True)


def hits(count, n=100):
    return torch.arange(n) < count


def report(own, keep=(), **changes):
    given = {
        "recipe": "lora",
        "settings": {"rank": 4},
        "why": (),
        "gives": "model",
        "base": "<b>base</b>",
        "digest": "0123456789abcdef",
        "data": ("Learnt from 3 images.",),
        "own": own,
        "keep": keep,
        "keep_source": "photos",
        "frozen": FROZEN,
        "costs": Costs(2.0, 1.5, 10, 100),
    }
    return AdaptReport(**(given | changes))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(40, 60, "better"), (60, 40, "worse"), (50, 51, "no difference shown"), (50, 50, "no difference shown")],
)
def test_a_difference_is_shown_by_its_own_interval(before, after, verdict):
    found = hits_figure("accuracy", hits(before), hits(after), chance=0.1)
    assert found.verdict == verdict
    assert found.change.value == pytest.approx((after - before) / 100)
    share = wilson(before, n=100)
    assert (found.before.value, found.before.low, found.before.high) == (share.rate, share.low, share.high)
    assert found.change.low <= found.change.value <= found.change.high


def test_the_difference_of_two_groups_is_newcombes():
    found = shares_figure("worst group", wilson(48, n=80), wilson(56, n=70), n=150)  # his example (a), method 10
    assert (found.change.low, found.change.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))
    assert found.verdict == "better"


def test_the_change_is_taken_row_by_row():
    better = hits_figure("accuracy", hits(50), hits(58))
    mixed = hits_figure("accuracy", hits(50), hits(50).roll(8) | hits(8))
    assert better.change.value == mixed.change.value
    assert better.change.high - better.change.low < mixed.change.high - mixed.change.low + 1e-9
    assert better.verdict == "better"


def test_accuracy_and_calibration_of_probabilities():
    labels = torch.tensor([0, 1, 0, 1])
    sure = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    unsure = torch.full((4, 2), 0.5)
    accuracy, error = class_figures(unsure, sure, labels=labels)
    assert (accuracy.before.value, accuracy.after.value, accuracy.chance) == (0.5, 1.0, 0.5)
    assert (error.before.value, error.after.value, error.better) == (0.0, 0.0, "lower")
    wrong = class_figures(unsure, sure.flip(1), labels=labels)[1]
    assert wrong.after.value == 1.0


UNEQUAL = torch.tensor([0] * 18 + [1] * 2)


def one_answer(number, n=20):
    return torch.eye(2)[[number]].expand(n, 2) * 0.8 + 0.1


def test_the_most_frequent_class_as_the_only_answer_is_no_gain():
    mean, accuracy, _ = class_figures(one_answer(1), one_answer(0), labels=UNEQUAL)
    assert (mean.name, accuracy.name) == ("accuracy, mean over classes", "accuracy")
    assert (accuracy.before.value, accuracy.after.value, accuracy.chance) == (0.1, 0.9, 0.9)
    assert (mean.before.value, mean.after.value, mean.chance) == (0.5, 0.5, 0.5)
    assert (mean.verdict, accuracy.verdict) == ("no difference shown", "better")
    told = "\n".join(report([mean, accuracy], gives="head").lines())
    assert told.startswith("NOT shown to be better than the base on held-out data: accuracy, mean over classes 50.0 %")
    words = "Accuracy is not shown to be above 90.0 %, which the most frequent class as the answer to every row"
    assert words in told
    assert words in report([mean, accuracy], gives="head").html()
    right, _, _ = class_figures(one_answer(1), torch.eye(2)[UNEQUAL], labels=UNEQUAL)
    assert (right.after.value, right.after.high) == (1.0, 1.0)
    assert right.after.low < wilson(20, n=20).low  # two classes of 18 and 2 rows tell less than 20 rows


def test_where_classes_are_equal_their_mean_is_accuracy():
    found = class_figures(one_answer(1), one_answer(0), labels=torch.tensor([0, 1] * 10))
    assert [one.name for one in found] == ["accuracy", "calibration error"]
    plain = hits_figure("accuracy", hits(40), hits(60))
    assert hits_figure("accuracy", hits(40), hits(60), weights=torch.full((100,), 0.25)) == plain


def test_better_and_yet_at_chance_is_said():
    told = report([hits_figure("accuracy", hits(2), hits(11), chance=0.1)])
    assert told.verdict().startswith("Better than the base on held-out data, but not shown to be above chance: acc")
    assert told.verdict().endswith("points; chance 10.0 %.")
    assert told.remarks() == ["Accuracy is not shown to be above 10.0 %, which guessing reaches."]


def test_a_base_at_chance_has_nothing_to_lose():
    own = [hits_figure("accuracy", hits(40), hits(60))]
    lost = report(own, keep=[hits_figure("recall", hits(3), hits(2), chance=0.02)]).forgot()
    assert lost.startswith("On photos: nothing that could be lost, as the base itself is not shown to be above chance")
    assert lost.endswith("; chance 2.0 %.")
    held = report(own, keep=[hits_figure("recall", hits(50), hits(49), chance=0.02)]).forgot()
    assert held.startswith("On photos: no loss shown: recall 50.0 %")


def test_a_result_that_is_the_base_is_called_so():
    same = [hits_figure("accuracy", hits(50), hits(50))]
    frozen = Frozen(5, (), 2, image_side=True, text_side=True, same=True)
    model = report(same, keep=same, frozen=frozen, costs=Costs(1.0, 1.0, 0, 100))
    assert model.verdict().startswith("The result is the base: its weights are the same.")
    assert model.forgot() == "Nothing is forgotten: the result is the base."
    assert model.to_dict()["same"]
    assert model.forgot() in model.html()
    assert "nothing moved of a model of 100" in model.lines()[-1]
    head = report(same, gives="head")
    assert head.verdict().startswith("No other than the base: the head answers as the texts of the classes do.")
    assert report(same).verdict().startswith("NOT shown")
    swapped = [hits_figure("accuracy", hits(50), hits(50).flip(0))]
    assert not report(swapped, gives="head").same


def test_what_was_chosen_is_told_with_the_rows_it_was_chosen_on():
    own = [hits_figure("accuracy", hits(40), hits(60))]
    made = report(own, validation=12, picked={"strength": 0.01})
    words = "Chosen on 12 rows that were neither learnt from nor measured on: strength 0.01."
    assert words in made.lines()
    assert words in made.html()
    assert (made.to_dict()["validation"], made.to_dict()["picked"]) == (12, {"strength": 0.01})
    assert report(own, picked={"keep": 0.3}).choice() == "Chosen by cross-validation: keep 0.3."
    assert report(own, validation=12).choice().startswith("What to keep was decided on 12 rows")
    assert not report(own).choice()


def embedded(image):
    text = torch.eye(40)[:, :40]
    owner = torch.arange(40)
    return Embedded(tuple(map(str, owner)), tuple(map(str, owner)), (), image, text, owner)


def test_recall_is_at_a_depth_that_fits_the_pool():
    right = torch.eye(40)
    found = recall_figure(embedded(right.flip(0)), embedded(right))
    assert found.name == "text to image, recall at 1"
    assert (found.before.value, found.after.value, found.chance) == (0.0, 1.0, 1 / 40)
    assert (found.change.value, found.verdict, found.n) == (1.0, "better", 40)
    with pytest.raises(InputError, match="at least two images with captions"):
        recall_figure(*[Embedded(("a",), ("a",), (), right[:1], right[:1], torch.tensor([0]))] * 2)


def test_numbers_must_be_finite():
    with pytest.raises(InputError, match="expected finite numbers"):
        plain_figure("gap", float("nan"), 1.0, n=3, better="lower")
    assert plain_figure("gap", 0.5, 0.25, n=3, better="lower").verdict == "no difference shown"


def test_what_is_not_better_is_called_so():
    same = hits_figure("accuracy", hits(50), hits(50))
    worse = hits_figure("accuracy", hits(60), hits(40))
    assert report([same]).verdict().startswith("NOT shown to be better than the base")
    assert report([worse]).verdict().startswith("WORSE than the base on held-out data: accuracy 60.0 %")
    assert report([]).verdict() == "Nothing was held out that says whether it became better."
    told = report([hits_figure("accuracy", hits(40), hits(60))], keep=[worse])
    assert told.verdict().startswith("Better than the base")
    assert "On photos: FORGOTTEN: accuracy 60.0 %" in told.forgot()
    assert "was not measured" in report([same]).forgot()


def test_resting_tensors_that_differ_are_a_fault():
    assert "bit-identical, 2 were free to move. Stored embeddings of texts stay valid." in FROZEN.sentence()
    assert Frozen(3, ("a.b",), 0, image_side=True, text_side=True).sentence().startswith("A FAULT: 1 of 3 tensors")


def test_the_page_and_the_numbers_say_the_same(tmp_path):
    own = [hits_figure("accuracy", hits(40), hits(60), chance=0.1)]
    curve = [CurvePoint(share, 0.4 + share / 5, 0.4 + share / 5, 0.5) for share in (0.0, 0.5, 1.0)]
    made = report(own, keep=own, curve=curve, chosen=1.0, next=["tether eval"])
    made.save(tmp_path)
    told = json.loads((tmp_path / "report.json").read_text())
    assert (told["format"], told["own"][0]["verdict"], told["chosen"]) == ("tether.adapt/1", "better", 1.0)
    page = (tmp_path / "report.html").read_text()
    for words in (
        escape(made.verdict()),
        "&lt;b&gt;base&lt;/b&gt;",
        "0123456789ab",
        "From the base (0)",
        "tether eval",
        "10.0 %",
    ):
        assert words in page
    assert "<b>base</b>" not in page
    assert any("100%" in line for line in made.lines())


def test_a_curve_without_held_out_data_calls_nothing_so():
    curve = [CurvePoint(share, 0.4 + share / 5, None, 0.5) for share in (0.0, 0.5, 1.0)]
    made = report([], curve=curve, chosen=1.0)
    names = [line["name"] for line in made._chart().data["lines"]]
    assert names == ["photos", "validation, which chooses"]
    assert "None" not in made.html().split('id="curve"')[1].split("</section>")[0]
