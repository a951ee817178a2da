"""FairerCLIP as a recipe: the head decides as the estimator, what the worst group is, guesses, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tether
from memory_rows import COLOURS, MemoryRows, squares
from tether.adaptation.heads import load_head
from tether.adaptation.recipes import Given
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import Row
from tether.data.labelled import read_labels
from tether.methods.fairerclip import DebiasRecipe, FairerClip, KernelHead
from tether.models import create

SMALL = {"n_features": 60, "n_code_features": 50, "gamma": (0.01, 0.01)}


def framed(count=60, *, seed=0):
    """Two classes by the colour in the middle, whose frame goes with it nine times in ten."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        middle, frame = number % 2, (number + (rng.random() < 0.1)) % 2
        image = np.full((32, 32, 3), 250 if frame else 10) + rng.integers(-5, 5, (32, 32, 3))
        image[10:22, 10:22] = list(COLOURS.values())[middle]
        meta = {"label": ("red", "green")[middle], "frame": ("black", "white")[frame]}
        rows.append(Row(f"row {number}", np.clip(image, 0, 255).astype(np.uint8), (), meta))
    return MemoryRows(rows, name="framed")


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def given_of(source, model, **more):
    rows = read_labels(source)
    prompts = tuple((f"a {name} square",) for name in rows.classes)
    part = rows.part(range(len(rows.labels)), prompts=prompts, name="train")
    text = F.normalize(model.embed([prompt for (prompt,) in prompts]), dim=1)
    return Given("labels", part, len(part), classes=rows.classes, prompts=prompts, class_text=text, **more)


@pytest.mark.parametrize("centre", ["none", "images"])
@pytest.mark.parametrize(("source", "column"), [(framed(), "frame"), (squares(), "size")])
def test_the_head_decides_as_the_estimator(source, column, centre, model, tmp_path):
    given = given_of(source, model, seed=3)
    head = DebiasRecipe(attribute=column, centre=centre, **SMALL).fit(model, given).head
    assert isinstance(head, KernelHead)
    rows = given.embed(model)
    unit = F.normalize(rows.image, dim=1).double().numpy()
    own = FairerClip(centre=centre, random_state=hash_int("debias", seed=3) % 2**32, **SMALL).fit(
        unit,
        rows.labels.numpy(),
        s=[row.meta[column] for row in rows.rows],
        text_features=F.normalize(given.class_text, dim=1).numpy(),
    )
    cosines = head.logits(7 * rows.image).numpy() / float(model.logit_scale.detach())
    expected = own.decision_function(unit)
    found = cosines if len(given.classes) > 2 else cosines[:, 1] - cosines[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert head.logits(rows.image).argmax(dim=1).tolist() == own.predict(unit).tolist()
    opened = load_head(head.bind_(model).save(tmp_path), model=model)
    assert torch.equal(opened.logits(rows.image), head.logits(rows.image))


def test_the_worst_group_is_told_where_the_column_is(model):
    spec = {"name": "debias", "attribute": "frame", **SMALL}
    done = tether.adapt(model, framed(120), recipe=spec)
    worst = done.report.own[2]
    assert worst.name == "accuracy of the worst group of class and frame"
    assert worst.n == done.report.own[0].n
    assert worst.after.value <= done.report.own[0].after.value
    assert worst.change.low <= worst.change.value <= worst.change.high
    without = MemoryRows([replace(row, meta={"label": row.meta["label"]}) for row in framed(40, seed=1).rows])
    assert len(tether.adapt(model, framed(60), recipe=spec, test=without).report.own) == 2


def test_a_guess_stands_in_for_the_column(model):
    given = given_of(framed(), model)
    rows = given.embed(model)
    mean = F.normalize(rows.image, dim=1).mean(dim=0)

    class Guessing(DebiasRecipe):
        def _guessed(self, model, unit):  # texts of random weights are all far away
            side = (unit - mean) @ (rows.image[0] - rows.image[1])
            return [self.groups[int(one > 0)] for one in side]

    assert Guessing(groups=["on black", "on white"], **SMALL).fit(model, given).head.classes == ("green", "red")
    texts = F.normalize(model.embed(["on black", "on white"]), dim=1)
    assert DebiasRecipe(groups=["on black", "on white"])._guessed(model, texts) == ["on black", "on white"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "expected one of attribute"),
        ({"attribute": "frame", "groups": ["a", "b"]}, "and not both"),
        ({"groups": ["a", "a"]}, "expected different texts"),
        ({"attribute": "label"}, "'label' is the class"),
    ],
)
def test_settings_that_contradict_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        DebiasRecipe(**settings)


def test_columns_that_say_nothing_are_refused(model):
    rows = framed().rows
    holes = MemoryRows([*rows[:7], replace(rows[7], meta={"label": "green", "frame": ""}), *rows[8:]])
    for source, column, said in (
        (framed(), "ground", r"60 of 60 .*'ground', the first is 'row 0'; its other columns: frame"),
        (holes, "frame", "1 of 60 .*'frame', the first is 'row 7'"),
        (MemoryRows([replace(row, meta=row.meta | {"frame": "white"}) for row in rows]), "frame", "'white' for all 60"),
        (MemoryRows([replace(row, meta=row.meta | {"twice": row.meta["label"]}) for row in rows]), "twice", "its own"),
    ):
        with pytest.raises(InputError, match=said):
            DebiasRecipe(attribute=column, **SMALL).fit(model, given_of(source, model))
    recipe = DebiasRecipe(attribute="frame", tau_image=(0.9999999999, 0), tau_text=(0, 0), **SMALL)
    with pytest.raises(InputError, match="give a smaller tau_image"):
        recipe.fit(model, given_of(framed(), model))


def test_a_kernel_head_that_does_not_fit_is_refused():
    one, none = torch.eye(2), torch.zeros(2)
    parts = {"offsets": none, "image_map": one, "centre": none, "codes": one}
    settings = {"classes": ("a", "b"), "scale": 1.0}
    assert KernelHead(one, **parts, **settings).dim == 2
    for wrong in ({"codes": torch.eye(3)}, {"centre": torch.zeros(3)}, {"image_map": none}, {"offsets": one}):
        with pytest.raises(InputError, match="kernel head: expected"):
            KernelHead(one, **parts | wrong, **settings)
    with pytest.raises(InputError, match="'weights': expected finite"):
        KernelHead(one * torch.nan, **parts, **settings)
