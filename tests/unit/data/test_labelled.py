"""Labels read from a source, and few of each drawn."""

from dataclasses import replace

import numpy as np
import pytest

from memory_rows import MemoryRows, squares
from tether.core.errors import InputError
from tether.data.labelled import draw_parts, read_labels, sorted_names


def changed(number, **changes):
    rows = squares(12).rows
    rows[number] = replace(rows[number], **changes)
    return MemoryRows(rows)


def test_parts_share_no_image_and_have_the_same_of_each_class():
    rows = read_labels(squares(60))
    assert rows.classes == ("blue", "green", "red")
    assert rows.counts() == [20, 20, 20]
    drawn = draw_parts(rows, shots=8, validation=True, test_share=0.25)
    parts = (drawn.train, drawn.validation, drawn.test)
    assert [len(part) for part in parts] == [24, 12, 15]
    assert len({row for part in parts for row in part}) == 51
    for part in parts:
        counts = np.bincount([rows.labels[row] for row in part])
        assert len(set(counts.tolist())) == 1
    again = draw_parts(rows, shots=8, validation=True, test_share=0.25)
    other = draw_parts(rows, shots=8, validation=True, test_share=0.25, seed=1)
    assert drawn == again != other


def test_fewer_shots_are_among_the_more_and_the_test_part_stays():
    rows = read_labels(squares(60))
    few, more = (draw_parts(rows, shots=shots, validation=False, test_share=0.25) for shots in (2, 8))
    assert few.test == more.test
    assert set(few.train) < set(more.train)


def test_without_shots_all_that_is_left_is_learnt_from():
    drawn = draw_parts(read_labels(squares(60)), shots=None, validation=True, test_share=None)
    assert [len(part) for part in (drawn.train, drawn.validation, drawn.test)] == [54, 6, 0]


def test_a_part_has_prompts_as_texts_and_numbers_as_labels():
    rows = read_labels(squares(12))
    part = rows.part([0, 4], prompts=[("the blue",), ("the green",), ("the red",)], name="train")
    (block,) = part.blocks()
    assert block.rows == len(part) == 2
    found = list(part.read(block))
    assert [row.key for row in found] == ["row 0", "row 4"]
    assert [row.texts for row in found] == [("the red",), ("the green",)]
    assert [row.meta["label"] for row in found] == [2, 1]
    assert [row.key for row in part.read(block, start=1)] == ["row 4"]
    other = rows.part([0, 5], prompts=[("a",), ("b",), ("c",)], name="train")
    assert part.version != other.version


@pytest.mark.parametrize("name", ["red\x1b[2J", "red\0", "two\nlines", "caf\udce9"])
def test_a_class_that_no_head_may_have_is_refused(name):
    with pytest.raises(InputError, match="expected text without control characters"):
        read_labels(changed(3, meta={"label": name}))


def test_copies_count_once():
    rows = squares(12).rows
    copy = MemoryRows([*rows, replace(rows[0], key="copy")])
    found = read_labels(copy)
    assert (len(found.labels), found.copies, found.clashes) == (12, 1, ())


def test_one_image_of_two_classes_is_named_and_strictly_refused():
    rows = squares(12).rows
    source = MemoryRows([*rows, replace(rows[0], key="again", meta={"label": "blue"})])
    found = read_labels(source)
    assert (len(found.labels), found.copies, found.clashes) == (12, 0, ("'again' ('blue') equals 'row 0' ('red')",))
    with pytest.raises(InputError, match=r"one image with two classes: 'again' \('blue'\) equals 'row 0' \('red'\)"):
        read_labels(source, strict=True)
    alone = MemoryRows([*rows, replace(rows[0], key="again", meta={"label": "black"})])
    with pytest.raises(InputError, match=r"class 'black' has no image of its own: 'again' \('black'\) equals 'row 0'"):
        read_labels(alone)


def test_a_class_whose_files_are_missing_is_named(tmp_path):
    missing = [
        replace(row, key="gone", image=tmp_path / "gone.png", meta={"label": "black"}) for row in squares(1).rows
    ]
    source = MemoryRows([*squares(12).rows, *missing])
    with pytest.raises(InputError, match=r"class 'black' has no image that can be read: .*gone.png: no such file"):
        read_labels(source)
    assert read_labels(source, classes=("blue", "green", "red", "black"), need="some").unread == 1


def test_what_cannot_be_read_is_taken_out_unless_a_class_loses_all():
    rows = read_labels(squares(12))
    left = rows.without(rows.digests[:2])
    assert (left.counts(), left.unread, left.places) == ([4, 3, 3], 2, rows.places[2:])
    with pytest.raises(InputError, match="class 'red' has no image that can be read"):
        rows.without(rows.digests[::3])


def test_any_text_is_a_class_name_and_numbers_go_by_value():
    long = "9" * 5000
    assert sorted_names(["b", "10", long, "\u00b2", "9", "010", "0", "a"]) == (
        "0",
        "9",
        "010",
        "10",
        long,
        "a",
        "b",
        "\u00b2",
    )


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (changed(3, meta={"label": float("nan")}), {}, "it is missing in 1 rows, the first is 'row 3'"),
        (changed(3, meta={}), {}, "it is missing in 1 rows, the first is 'row 3'"),
        (squares(12), {"column": "kind"}, "column 'kind'.*its columns: label"),
        (squares(12), {"classes": ("red", "green")}, "'blue' is none of the 2 classes"),
        (squares(12), {"classes": ("red", "green", "blue", "black")}, "class 'black' has no image"),
        (MemoryRows(squares(12).rows[::3]), {}, "all rows have the class 'red'"),
        (MemoryRows([]), {}, "the data set is empty"),
    ],
)
def test_bad_labels_are_refused(source, settings, message):
    with pytest.raises(InputError, match=message):
        read_labels(source, **settings)


def test_a_test_set_may_lack_a_class():
    found = read_labels(MemoryRows(squares(12).rows[::3]), classes=("red", "blue"), need="some")
    assert found.counts() == [4, 0]


def test_too_few_images_are_refused_with_what_was_wanted():
    rows = read_labels(squares(12))
    message = "class 'blue' has 4 different images; expected at least 9: 4 to learn from, 4 to choose settings on, 1 to"
    with pytest.raises(InputError, match=message):
        draw_parts(rows, shots=4, validation=True, test_share=0.25)
    with pytest.raises(InputError, match="shots: expected at least 1"):
        draw_parts(rows, shots=0, validation=False, test_share=0.25)
