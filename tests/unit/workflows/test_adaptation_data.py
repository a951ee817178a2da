"""Data of an adaptation that are not as they should be: what is left out, what is said, what is refused."""

from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image

import tether
from memory_rows import MemoryRows, captions, squares
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data import in_order
from tether.data.images import load
from tether.models import create
from tether.workflows.adaptation.apart import apart
from tether.workflows.adaptation.choose import choices, kind_error
from tether.workflows.adaptation.data import Asked, look_at, parts_of

RECIPE = {"name": "probe", "strength": 1.0}


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def cut_off(row):
    """The row with an image file that ends too early."""
    file = BytesIO()
    Image.fromarray(row.image).save(file, "PNG")
    return replace(row, image=file.getvalue()[:100] + row.key.encode())


def broken(count, *numbers):
    return MemoryRows([cut_off(row) if n in numbers else row for n, row in enumerate(squares(count).rows)], name="some")


def test_images_that_cannot_be_decoded_are_counted_and_replaced_in_a_draw(model):
    source = broken(36, 0, 4, 8, 9)
    every = parts_of(source, "labels", Asked(), model=model, validation=False)
    assert every.said == (
        f"Learnt from {every.given.rows} images of 3 classes of some.",
        "4 rows of some could not be read and were left out.",
    )
    assert every.given.rows + len(every.test) == 32
    assert len(every.given.embed(model).image) == every.given.rows
    few = parts_of(source, "labels", Asked(shots=7), model=model, validation=False).given
    assert (few.rows, few.embed(model).labels.bincount().tolist()) == (21, [7, 7, 7])
    with pytest.raises(InputError, match="some: bad row 'row 0': broken image of"):
        parts_of(source, "labels", Asked(strict=True), model=model, validation=False)


def test_images_with_features_are_not_decoded_again(model, monkeypatch):
    source = squares(24, seed=3)
    parts_of(source, "labels", Asked(), model=model, validation=False).given.embed(model)
    opened = []
    monkeypatch.setattr(in_order, "load", lambda image, spec, *, name, exact: opened.append(image) or load(image, spec))
    known = parts_of(source, "labels", Asked(), model=model, validation=False)
    assert (len(opened), sum(image.any() for image in opened)) == (24, len(known.test))


@pytest.mark.parametrize("recipe", [RECIPE, {"name": "full", "steps": 1}])
def test_a_class_left_without_an_image_is_named(model, recipe):
    with pytest.raises(InputError, match="some: class 'red' has no image that can be read"):
        tether.adapt(model, broken(24, *range(0, 24, 3)), recipe=recipe)


def test_pairs_that_cannot_be_read_are_not_counted(model):
    whole, some = (
        parts_of(one, "pairs", Asked(), model=model, validation=False) for one in (squares(), broken(36, *range(9)))
    )
    out = 36 - len(some.learnt) - some.test.images
    assert whole.said == (f"Learnt from {36 - whole.test.images} images with captions of squares 0.",)
    assert some.said[0] == f"Learnt from {len(some.learnt)} images with captions of some."
    assert some.said[1] == f"{out} rows of some could not be read and were left out."
    assert 5 <= out <= 9
    with pytest.raises(InputError, match="all 20 rows are bad, the latest: broken image"):
        parts_of(broken(20, *range(20)), "pairs", Asked(test=squares(6)), model=model, validation=False)


def test_a_column_that_holds_no_classes_is_named_with_those_there_are():
    source = squares(12)
    with pytest.raises(
        InputError, match=r"--label sice: squares 0 has no column 'sice'; did you mean 'size'\? known: label"
    ):
        look_at(source, Asked(label="sice"))
    some = MemoryRows([replace(row, meta={} if n == 4 else row.meta) for n, row in enumerate(source.rows)])
    with pytest.raises(InputError, match="no class in column 'size' of 1 images, the first is 'row 4'"):
        look_at(some, Asked(label="size"))
    with pytest.raises(InputError, match="one class alone in column 'label', 'red'"):
        look_at(MemoryRows(source.rows[::3]), Asked(label="label"))


def test_where_no_column_is_named_the_columns_are_told(model):
    from tether.adaptation.recipes import RECIPES

    source = MemoryRows([replace(row, texts=(), meta={"kind": row.meta["label"]}) for row in squares(12).rows])
    case = look_at(source, Asked())
    said = "there is no column 'label'; known: kind; "
    assert said in str(kind_error("probe", RECIPES["probe"](), case, source="some"))
    with pytest.raises(InputError, match=f"read as images; no classes, as {said}"):
        choices(case, model)
    assert look_at(captions(), Asked(label="kind")).kinds == {"texts"}


def test_where_all_rows_are_bad_the_first_reason_is_told(tmp_path):
    table = tmp_path / "all.csv"
    table.write_text("file,caption\n" + "".join(f"{n}.png,words\n" for n in range(3)))
    with pytest.raises(InputError, match=r"all.csv: all 3 rows are bad, the first is '0.png': .*no such file"):
        look_at(tether.data.open_source(str(table)), Asked())
    with pytest.raises(InputError, match="all 1 rows are bad, the first is 'a': no words"):
        look_at(MemoryRows([Row("a", None, bad="a: no words")]), Asked())


def test_classes_that_look_alike_and_images_of_two_classes_are_told(model):
    names = {"red": "Free", "green": "free ", "blue": "blue"}
    rows = [replace(row, meta={"label": names[row.meta["label"]]}) for row in squares(24).rows]
    rows.append(replace(rows[0], key="again", meta={"label": "blue"}))
    said = parts_of(MemoryRows(rows), "labels", Asked(), model=model, validation=False).said
    assert said[1:] == (
        "1 images of memory have two classes, of which the first counts; one of them: 'again' ('blue') equals 'row 0' "
        "('Free').",
        "The classes 'Free' and 'free ' differ in case, spaces or underscores alone, and count as two.",
    )


def test_images_that_were_learnt_from_are_left_out_of_what_is_kept(model):
    source = squares(36)
    new = [replace(row, key=f"new {row.key}") for row in squares(12, seed=5).rows]
    keep = MemoryRows([*source.rows, *new], name="kept")
    done = tether.adapt(model, source, recipe={"name": "full", "steps": 1}, keep=keep)
    assert done.report.keep[0].n == 48 - 27
    assert "27 images of kept were left out of what is measured, as they were learnt from." in done.report.data
    head = tether.adapt(model, source, recipe=RECIPE, keep=keep)
    assert not any("kept" in line for line in head.report.data)
    with pytest.raises(InputError, match="kept: every image of it was learnt from, so nothing can be measured"):
        tether.adapt(model, source, test=MemoryRows(new), recipe={"name": "full", "steps": 1},
                     keep=MemoryRows(source.rows, name="kept"))  # fmt: skip


def test_a_test_set_of_pairs_holds_no_image_that_was_learnt_from(model):
    test = MemoryRows([*squares(12).rows[:3], *squares(12, seed=7).rows], name="test")
    parts = parts_of(squares(12), "pairs", Asked(test=test), model=model, validation=True)
    assert sum(block.rows for block in parts.test.blocks()) == 12
    assert parts.said[1] == "3 images of test were left out of what is measured, as they were learnt from."
    other = squares(6, seed=8)
    assert apart(other, learnt=parts.learnt) == (other, 0)
