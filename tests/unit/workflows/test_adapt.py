"""The workflow around recipes: kinds of data, parts, what must rest, what is said."""

import copy
import json
import sys
from dataclasses import replace

import pytest
import torch

import tether
from memory_rows import MemoryRows, captions, squares, without_words
from tether.adaptation.recipes import RECIPES, FitRecipe, Outcome, TuneRecipe, Tuning
from tether.adaptation.recipes.moving import move_, rest_
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.types import Loss
from tether.models import create
from tether.training.steps.module import ViewRows, encode_views, loss_inside
from tether.workflows.adaptation.choose import choices
from tether.workflows.adaptation.data import Asked, look_at, parts_of, words_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KEEP = squares(12, seed=5)


class ShrinkStep:
    """Makes the embeddings of one side shorter."""

    def __init__(self, side):
        self.side, self.seen = side, []

    def __call__(self, model, batch, *, step, gather):
        self.seen.append(batch)
        rows = batch.text if self.side == "text" else batch.image

        def inside(module):
            found = encode_views(module, {"it": ViewRows(self.side, rows)})[0]["it"].pooled
            return Loss(found.square().mean())

        return loss_inside(model, inside)


class OneSide(TuneRecipe):
    gives = "model"
    cost = 5.0
    side = "text"

    def tuning(self, model, given):
        move_(model, self.side)
        self.step = ShrinkStep(self.side)
        batches = given.loader(model, batch_size=4)
        return Tuning(self.step, batches, steps=3, optimizer={"name": "sgd", "lr": 0.1}, finish=self.finish)

    finish = None


class TextsAlone(OneSide):
    takes = "texts"
    aims = ("words",)


class ImagesAlone(OneSide):
    takes = "images"
    side = "image"


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def use(monkeypatch, recipe):
    monkeypatch.setitem(RECIPES._members, "mine", f"{__name__}:Mine")
    monkeypatch.setattr(sys.modules[__name__], "Mine", recipe, raising=False)


def test_texts_alone_are_learnt_from_and_measured_by_aims_or_what_is_brought(model, monkeypatch):
    from tether.evaluate.adaptation import MEASURES
    from tether.evaluate.adaptation.figures import plain_figure

    def words(seen):
        assert len(seen.seen_before.image) == 0
        lengths = [float(one.text.norm(dim=1).mean()) for one in (seen.seen_before, seen.seen_after)]
        return [plain_figure("length", *lengths, n=len(seen.seen_before.captions), better="lower")]

    monkeypatch.setitem(MEASURES._members, "words", f"{__name__}:Words")
    monkeypatch.setattr(sys.modules[__name__], "Words", lambda: words, raising=False)
    use(monkeypatch, TextsAlone)
    done = tether.adapt(model, captions(), recipe="mine", keep=KEEP)
    (figure,) = done.report.own
    assert (figure.name, 0 < figure.n < 36) == ("length", True)
    assert figure.after.value < figure.before.value
    assert done.report.keep[0].name == "accuracy"
    assert done.report.frozen.image_side
    assert not done.report.frozen.text_side
    use(monkeypatch, type("Aimless", (TextsAlone,), {"aims": ()}))
    brought = tether.adapt(model, captions(), recipe="mine",
                           test=squares(24), keep=KEEP)  # fmt: skip
    assert [one.name for one in brought.report.own][:2] == ["accuracy", "calibration error"]


def test_images_alone_are_learnt_from(model, monkeypatch):
    use(monkeypatch, ImagesAlone)
    done = tether.adapt(model, without_words(squares(20)), recipe="mine", keep=KEEP)
    assert done.report.own == []
    assert "Nothing was held out that says" in str(done)
    assert "Learnt from 18 images of images alone." in done.report.data
    assert done.report.frozen.text_side


def test_a_recipe_that_moves_what_must_rest_is_found_out(model, monkeypatch):
    class Careless(OneSide):
        takes = "texts"

        def tuning(self, model, given):
            found = super().tuning(model, given)

            def finish():
                with torch.no_grad():
                    model.visual.projection.weight.add_(1)
                return Outcome(model=model)

            return replace(found, finish=finish)

    use(monkeypatch, Careless)
    frozen = tether.adapt(model, captions(), recipe="mine", keep=KEEP).report.frozen
    assert frozen.changed == ["visual.projection.weight"]
    assert frozen.sentence().startswith("A FAULT: 1 of")


def test_a_fit_that_gives_a_model_says_what_changed(model, monkeypatch):
    class Fitted(FitRecipe):
        takes, gives, cost = "pairs", "model", 1.0

        def fit(self, model, given):
            found = create("tiny", seed=1).eval()
            rest_(found)
            rows = given.embed(model, texts=True)
            assert len(rows.image) == len(rows.owner.unique()) == given.rows
            with torch.no_grad():
                found.text.projection.weight.add_(1)
            return Outcome(model=found)

    use(monkeypatch, Fitted)
    done = tether.adapt(model, squares(20), recipe="mine", keep=KEEP)
    assert (done.report.frozen.free, done.report.frozen.changed) == (1, [])
    assert done.report.costs.moved == model.text.projection.weight.numel()


def test_a_model_that_is_the_base_is_called_so(model, monkeypatch):
    class Idle(FitRecipe):
        takes, gives, cost = "pairs", "model", 1.0

        def fit(self, model, given):
            return Outcome(model=copy.deepcopy(model), chosen={"share": 0.0})

    use(monkeypatch, Idle)
    done = tether.adapt(model, squares(20), recipe="mine", keep=KEEP)
    assert done.report.verdict().startswith("The result is the base")
    assert (done.report.frozen.same, done.report.costs.moved, done.report.picked) == (True, 0, {"share": 0.0})


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ({"name": "probe"}, ["strength"]),
        ({"name": "probe", "strength": 1.0}, []),
        ({"name": "tip_adapter", "views": 0}, ["alpha", "beta"]),
        ({"name": "tip_adapter", "views": 0, "alpha": 1.0}, ["beta"]),
        ({"name": "gda", "views": 0}, ["alpha"]),
    ],
)
def test_settings_that_are_chosen_are_reported(model, recipe, names):
    found = tether.adapt(model, squares(60), recipe=recipe).report
    assert list(found.picked) == names
    assert (found.validation > 0) == bool(names)
    json.dumps(found.to_dict())


def test_progress_says_of_how_many(model):
    told = []
    tether.adapt(model, squares(36), recipe={"name": "probe", "strength": 1.0},
                 on_progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told[-1] == (27, 27)


def test_the_base_and_its_mode_are_left(model):
    digest = model_digest(model)
    tether.adapt(model, squares(36), recipe={"name": "full", "steps": 2}, keep=KEEP)
    assert model_digest(model) == digest
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_there_decides_what_is_proposed(model):
    for source, kinds in (
        (squares(36), {"labels", "pairs", "images"}),
        (captions(), {"texts"}),
        (without_words(squares(12)), {"images"}),
        (MemoryRows(squares(36).rows[::3]), {"pairs", "images"}),
    ):
        assert look_at(source, Asked()).kinds == kinds
    few = look_at(squares(36), Asked(shots=4))
    assert (few.classes, few.least, few.rows) == (3, 4, 36)
    assert choices(few, model)[0].recipe == "probe"
    assert choices(look_at(captions(), Asked()), model)[0].recipe == "typo_proof"
    with pytest.raises(
        InputError, match="no recipe suits 3 rows, read as images, labels, pairs; the smallest class, 'red', has 0"
    ):
        choices(look_at(squares(3), Asked()), model)
    with pytest.raises(InputError, match="nothing to learn from in 0 rows"):
        look_at(MemoryRows([]), Asked())


def test_where_nothing_suits_it_says_what_comes_near(model):
    with pytest.raises(InputError) as photos:
        choices(look_at(without_words(squares(80)), Asked()), model)
    assert str(photos.value) == (
        "no recipe suits 80 rows, read as images; no classes, as there is no column 'label'; known: amount; "
        "taken when --recipe names them: order, anomaly_prompts, new_word, anomaly_adapters, grouping, dense, "
        "relation, sharpen, quality, detail; "
        "proposed for images with a class each (a column of classes, or a folder for each): probe from 4 a class, gda "
        "from 1 a class, tip_adapter from 1 a class; proposed for images with captions: maps from 100, pairs from 200, "
        "close_the_gap from 2,000"
    )
    with pytest.raises(InputError, match="typo_proof: it compares embeddings by cosine") as texts:
        choices(look_at(captions(), Asked()), create("tiny", geometry="euclidean"))
    assert "proposed for" not in str(texts.value)


def test_a_validation_part_is_apart_from_the_test_part(model):
    for kind in ("labels", "pairs"):
        parts = parts_of(squares(60), kind, Asked(), model=model, validation=True)
        keys = [
            {row.key for block in part.blocks() for row in part.read(block)}
            for part in (parts.given.source, parts.given.validation, parts.test)
        ]
        assert all(keys)
        assert sum(map(len, keys)) == len(set.union(*keys)) == 60
        assert len(keys[0]) == parts.given.rows
    alone = parts_of(squares(60), "labels", Asked(), model=model, validation=False)
    with pytest.raises(InputError, match="validation: the recipe chooses settings on a part of its own"):
        alone.given.embed(model, part="validation")


def test_images_that_are_learnt_from_are_left_out_of_a_test_set(model):
    rows = squares(36).rows
    test = MemoryRows([*rows[:3], *squares(12, seed=7).rows], name="test")
    test.rows = [replace(row, key=f"test {number}") for number, row in enumerate(test.rows)]
    parts = parts_of(MemoryRows(rows), "labels", Asked(test=test), model=model, validation=False)
    assert sum(block.rows for block in parts.test.blocks()) == 12
    assert "3 images of test were left out" in parts.said[1]


def test_crops_of_images_are_the_same_every_time_and_differ_by_view(model):
    given = parts_of(squares(24), "labels", Asked(shots=2), model=model, validation=False).given
    first, again = (given.embed(model, views=3) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert first.image.shape == (18, model.dim)
    assert first.labels.tolist() == given.embed(model).labels.tolist() * 3
    assert not torch.equal(first.image[:6], first.image[6:12])


def test_shots_go_with_labels_only(model):
    with pytest.raises(InputError, match="--shots: a number of images a class goes with labelled images only"):
        tether.adapt(model, squares(60), recipe="pairs", shots=3, keep=KEEP)


def test_underscores_are_spaces_where_names_stay_apart():
    assert words_of(["fire_truck", "car"]) == ("fire truck", "car")
    assert words_of(["fire_truck", "fire truck"]) == ("fire_truck", "fire truck")
