"""Test sets of others are read as they are, and one that is not whole is named."""

from __future__ import annotations

import io
import json
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tiny_suites
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.in_order import ordered
from tether.data.suites import find_sets

SPEC = ImageSpec(size=(32, 32))


def read(one, split="test"):
    source = one.source(split) if hasattr(one, "source") else one
    return [row for rows, _ in ordered(source, image_spec=SPEC, batch_size=4, strict=True) for row in rows]


@pytest.fixture
def colours(tmp_path):
    return tiny_suites.classification(tmp_path / "suite" / "colours", train=12)


def test_sets_are_found_at_any_depth_by_name(tmp_path, colours):
    tiny_suites.retrieval(tmp_path / "suite" / "vtab" / "found")
    tiny_suites.multilabel(tmp_path / "suite" / "marks")
    found = find_sets(tmp_path / "suite")
    assert [(one.name, one.kind) for one in found] == [
        ("colours", "classification"),
        ("marks", "multilabel"),
        ("vtab/found", "retrieval"),
    ]
    assert find_sets(colours)[0].name == "colours"
    assert found[0].has("train")
    assert not found[1].has("train")


def test_rows_come_in_order_over_tars(tmp_path, colours):
    rows = read(find_sets(colours)[0])
    assert [row.meta["label"] for row in rows] == [i % 6 for i in range(24)]
    assert rows[0].key == "test/0.tar:s0000000"
    assert rows[-1].key == "test/1.tar:s0000023"
    marks = read(find_sets(tiny_suites.multilabel(tmp_path / "marks"))[0])
    assert marks[0].meta["labels"].dtype == bool
    assert marks[0].meta["labels"].shape == (6,)
    assert [len(row.texts) for row in read(find_sets(tiny_suites.retrieval(tmp_path / "found"))[0])][:4] == [1, 2, 3, 1]


def test_layouts_of_choices(tmp_path):
    sugar = find_sets(tiny_suites.sugarcrepe(tmp_path / "sugar"))[0]
    assert (sugar.name, len(sugar.choices)) == ("sugar/swap_obj", 12)
    assert len(read(sugar)) == 8  # each image once, however many questions it has
    pairs = find_sets(tiny_suites.winoground(tmp_path / "wino"))[0]
    assert pairs.choices[1].images == ("ex_1_img_0.png", "ex_1_img_1.png")
    asked = find_sets(tiny_suites.aro(tmp_path / "aro"))[0]
    assert asked.choices[0].right == 1
    assert asked.choices[0].captions == ("the mat 0", "the red cat is on the mat")


def test_aro_knows_which_kinds_count(tmp_path):
    folder = tiny_suites.aro(tmp_path / "aro")
    relations = find_sets(folder)[0]
    assert {choice.group for choice in relations.choices} == {"on", "under", ""}  # near: its notebook leaves it out
    assert relations.least == 1
    asked = json.loads((folder / "visual_genome_relation.json").read_text())
    rows = [row | {"attributes": ["white", "near"]} for row in asked]
    (folder / "visual_genome_attribution.json").write_text(json.dumps(rows))
    attributes = find_sets(folder)[1]
    assert {choice.group for choice in attributes.choices} == {"white near"}
    assert attributes.least == 25


def test_orders_of_words_are_read_as_aros_loader_keeps_them(tmp_path):
    folder = tiny_suites.aro_order(tmp_path / "orders")
    one = find_sets(folder)[0]
    assert one.name == "orders/coco_order"
    assert one.choices[1].captions[:2] == ("green cat is on mat 1 the", "cat is on mat 1 the green")
    assert {(choice.right, len(choice.captions)) for choice in one.choices} == {(0, 5)}
    assert len(read(one)) == 4
    asked = json.loads((folder / "coco_order.json").read_text())
    for spoilt, message in (
        ({"caption_options": asked[2]["caption_options"][:4]}, "question 2: 4 captions; question 0 has 5"),
        ({"caption_options": ["one"]}, "question 2: expected at least two captions in 'caption_options'"),
        ({"caption_options": ["a", " ", "b", "c", "d"]}, "question 2: expected text in 1, got ' '"),
        ({"image": 3}, "question 2: expected text in 'image', got 3"),
    ):
        (folder / "coco_order.json").write_text(json.dumps([*asked[:2], asked[2] | spoilt]))
        with pytest.raises(InputError, match=rf"coco_order\.json: {message}"):
            find_sets(folder)


def test_winoground_as_parquet_is_the_same(tmp_path):
    lines = find_sets(tiny_suites.winoground(tmp_path / "wino"))[0]
    images = [
        (tmp_path / "wino" / "images" / choice.images[side]).read_bytes() for choice in lines.choices for side in (0, 1)
    ]
    cells = {f"image_{side}": [{"bytes": each, "path": "x.png"} for each in images[side::2]] for side in (0, 1)}
    cells |= {f"caption_{side}": [choice.captions[side] for choice in lines.choices] for side in (0, 1)}
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table(cells), tmp_path / "table" / "test-00000.parquet", row_group_size=4)
    table = find_sets(tmp_path / "table")[0]
    assert [one.captions for one in table.choices] == [one.captions for one in lines.choices]
    assert [row.image for row in read(table)] == images


def test_a_box_past_the_edge_is_black_there(tmp_path):
    one = find_sets(tiny_suites.aro(tmp_path / "aro"))[0]
    row = next(row for row in one.read(one.blocks()[0]) if row.key.endswith("(6, 2, 38, 20)"))
    assert row.image.shape == (20, 38, 3)
    assert not row.image[:, 34:].any()
    assert row.image[:, :34].any()


def spoil_shard(folder):
    (folder / "test" / "1.tar").unlink()


def spoil_count(folder):
    (folder / "test" / "nshards.txt").write_text("two")


def spoil_no_count(folder):
    (folder / "test" / "nshards.txt").unlink()


def spoil_kind(folder):
    (folder / "dataset_type.txt").write_text("segmentation\n")


def spoil_one_class(folder):
    (folder / "classnames.txt").write_text("red\n")


def spoil_no_classes(folder):
    (folder / "classnames.txt").unlink()


def spoil_empty_class(folder):
    (folder / "classnames.txt").write_text("red\n\nblue\n")


def spoil_template(folder):
    (folder / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na photo of a {}.\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_shard, r"test/1\.tar: no such file, but .*nshards\.txt says 2 shards"),
        (spoil_count, r"nshards\.txt: expected the number of tars.*got 'two'"),
        (spoil_no_count, r"nshards\.txt: no such file"),
        (spoil_kind, r"dataset_type\.txt: expected classification, multilabel or retrieval, got 'segmentation'"),
        (spoil_one_class, r"classnames\.txt: 1 class; expected at least 2"),
        (spoil_no_classes, r"classnames\.txt: no such file"),
        (spoil_empty_class, r"classnames\.txt: line 2 is empty"),
        (spoil_template, r"templates\.txt: line 2 has no \{c\}"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_set_that_is_not_whole_is_refused_at_once(colours, spoil, message):
    spoil(colours)
    with pytest.raises(InputError, match=message):
        find_sets(colours.parent)


@pytest.mark.parametrize(
    ("ending", "data", "message"),
    [
        ("cls", b"6", r"test/0\.tar:s0000000.*label 6 is out of range: classnames\.txt has 6 classes, so 0 to 5"),
        ("cls", b"-1", "label -1 is out of range"),
        ("cls", b"red", "its .cls holds 'red', expected the number of a class"),
        ("json", b"{}", "no .cls, which every row of a classification set has"),
    ],
)
def test_labels_that_do_not_fit(colours, ending, data, message):
    tiny_suites.shards(colours, "test", [(tiny_suites.png(0), ending, data)], count=1)
    with pytest.raises(InputError, match=message):
        read(find_sets(colours)[0])


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "its .txt holds no caption"), (b"one\n \nthree", "caption 2 of 3 in its .txt is empty")]
)
def test_empty_captions(tmp_path, data, message):
    folder = tiny_suites.retrieval(tmp_path / "found")
    tiny_suites.shards(folder, "test", [(tiny_suites.png(0), "txt", data)], count=1)
    with pytest.raises(InputError, match=message):
        read(find_sets(folder)[0])


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        (np.zeros(5), r"its .npy holds \(5,\), expected \(6,\) numbers"),
        (np.full(6, 2), "neither 0 nor 1"),
        (np.array([{}] * 6, dtype=object), "its .npy cannot be read"),
    ],
)
def test_marks_that_do_not_fit(tmp_path, marks, message):
    folder = tiny_suites.multilabel(tmp_path / "marks")
    file = io.BytesIO()
    np.save(file, marks, allow_pickle=True)
    tiny_suites.shards(folder, "test", [(tiny_suites.png(0), "npy", file.getvalue())], count=1)
    with pytest.raises(InputError, match=message):
        read(find_sets(folder)[0])


def test_a_damaged_member_and_an_unsafe_one_are_named(colours):
    tiny_suites.tar(colours / "test" / "0.tar", [("s1.png", tiny_suites.png(0)[:60]), ("s1.cls", b"1")])
    with pytest.raises(InputError, match=r"test/0\.tar:s1"):
        read(find_sets(colours)[0])
    tiny_suites.tar(colours / "test" / "0.tar", [("../s1.png", tiny_suites.png(0)), ("../s1.cls", b"1")])
    with pytest.raises(InputError, match="points outside of it"):
        read(find_sets(colours)[0])
    tiny_suites.classification(colours)
    whole = (colours / "test" / "1.tar").read_bytes()
    (colours / "test" / "1.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"1\.tar: the tar is broken after \d+ rows"):
        read(find_sets(colours)[0])


def test_choices_that_do_not_fit(tmp_path):
    folder = tiny_suites.sugarcrepe(tmp_path / "sugar")
    asked = json.loads((folder / "swap_obj.json").read_text())
    asked["3"]["negative_caption"] = " "
    (folder / "swap_obj.json").write_text(json.dumps(asked))
    with pytest.raises(InputError, match=r"swap_obj\.json: question '3': expected text in 'negative_caption', got ' '"):
        find_sets(folder)
    asked["3"] |= {"negative_caption": "x", "filename": "../../secret.png"}
    (folder / "swap_obj.json").write_text(json.dumps(asked))
    with pytest.raises(InputError, match="outside"):
        read(find_sets(folder)[0])
    shutil.rmtree(folder / "val2017")
    with pytest.raises(InputError, match="expected its images in val2017/ or images/"):
        find_sets(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04garbage",
        *(
            b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
            for head in (
                b"{'descr'\n",
                b"  1\n 2\n",
                b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}\n",
            )
        ),
    ],
)
def test_bytes_that_are_no_array_are_a_bad_row(tmp_path, data):
    folder = tiny_suites.multilabel(tmp_path / "marks")
    tiny_suites.shards(folder, "test", [(tiny_suites.png(0), "npy", data)], count=1)
    with pytest.raises(InputError, match=r"its \.npy (cannot be read|is shorter than its header says)"):
        read(find_sets(folder)[0])


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400])
def test_a_box_beyond_all_numbers_is_named(tmp_path, number):
    folder = tiny_suites.aro(tmp_path / "aro", rows=2)
    file = folder / "visual_genome_relation.json"
    asked = json.loads(file.read_text())
    asked[1]["bbox_x"] = number
    file.write_text(json.dumps(asked))
    with pytest.raises(InputError, match=r"question 1: expected numbers in bbox_x.{,400}$"):
        find_sets(folder)


def test_thousands_of_orders_are_read_at_once(tmp_path):
    folder = tiny_suites.aro_order(tmp_path / "order", rows=1)
    file = folder / "coco_order.json"
    asked = json.loads(file.read_text())
    asked[0]["caption_options"] = ["a cat"] * 20_000
    file.write_text(json.dumps(asked))
    start = time.process_time()
    assert len(find_sets(folder)[0].choices[0].captions) == 20_000
    assert time.process_time() - start < 5  # minutes where each caption costs a walk over all


def test_other_images_of_the_same_names_are_another_version(tmp_path):
    folder = tiny_suites.sugarcrepe(tmp_path / "crepe")
    before = find_sets(folder)[0].version
    assert find_sets(folder)[0].version == before
    (folder / "val2017" / "0.png").write_bytes(tiny_suites.png(999, size=(50, 50)))
    assert find_sets(folder)[0].version != before


def test_a_folder_is_looked_into_once_and_two_sets_of_one_name_are_refused(tmp_path, colours):
    suite = tmp_path / "suite"
    for number in range(3):
        (suite / f"link{number}").symlink_to(".")
    assert [one.name for one in find_sets(suite)] == ["colours"]
    tiny_suites.sugarcrepe(suite / "x")
    tiny_suites.classification(suite / "x" / "swap_obj")
    with pytest.raises(InputError, match="2 test sets are called x/swap_obj"):
        find_sets(suite)


def test_a_folder_without_a_set(tmp_path):
    with pytest.raises(InputError, match=r"no test set in it; expected folders with test/nshards\.txt"):
        find_sets(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        find_sets(tmp_path / "nowhere")
