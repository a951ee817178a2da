"""Files of norms as people have them: marks, numbers of rows, labels that are none, groups on both sides."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tether.core.errors import InputError
from tether.data.sets.norms import (
    MultipleChoice,
    NormConstraint,
    NormItem,
    NormTable,
    chat_numbers,
    chat_table,
    check_apart,
    check_disjoint,
    consolidate,
    format_constraints,
    group_split,
    group_test_rows,
    leave_one_out,
    load_egonormia,
    load_norm_conflicts,
    load_normbank,
    load_normdial,
    load_stream_norms,
    parse_constraints,
    parse_labelled_dialogue,
    read_table,
    turn_table,
)
from tether.data.sets.norms.made_conflicts import made_conflicts
from tether.data.sets.norms.made_egonormia import made_egonormia
from tether.data.sets.norms.made_normbank import made_normbank
from tether.data.sets.norms.made_normdial import made_normdial
from tether.data.sets.norms.made_stream import made_stream

HEAD = "setting,behavior,constraints,norm\n"
ROLE = "[PERSON]'s role is 'cook'"


def table(**changes: object) -> NormTable:
    whole = NormTable(
        "mine.csv", {"text": ("a", "b", "c")}, ("x", "y", "x"), ("x", "y"), ("g", "g", "h"), (2, 3, 4), "one person"
    )
    return replace(whole, **changes)


def bank(folder: Path, *lines: str, head: str = HEAD, mark: bytes = b"") -> Path:
    path = folder / "bank.csv"
    path.write_bytes(mark + (head + "\n".join(lines) + "\n").encode())
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("x", "z", "z")}, r"mine.csv: label: expected x, y, got 'z' in rows 3, 4"),
        ({"fields": {"text": ("a", " ", "c")}}, r"mine.csv: text: no text in row 3"),
        ({"ids": ("1", "2", "1")}, r"mine.csv: expected ids that differ, got '1' in rows 2, 4"),
        ({"split": ("train", "test", "valid")}, r"split: expected train, dev, test, got 'valid' in row 4"),
        ({"groups": ("g", "h")}, r"groups: expected 3 values, got 2"),
        ({"labels": (), "fields": {"text": ()}, "groups": (), "rows": ()}, r"mine.csv: no rows"),
    ],
)
def test_a_table_says_which_rows_are_wrong(changes, message):
    with pytest.raises(InputError, match=message):
        table(**changes)


def test_rows_without_a_label_are_judged_and_not_learnt_from():
    some = table(labels=("x", "", "y"))
    assert some.codes.tolist() == [0, -1, 1]
    assert some.judged_only().rows == (2, 4)
    with pytest.raises(InputError, match="no row has a label"):
        table(labels=("", "", "")).judged_only()
    with pytest.raises(InputError, match="fields: expected some of text, got 'context'"):
        some.named(["context"])


def test_a_group_on_both_sides_is_named():
    check_disjoint(table(split=("train", "train", "test")))
    with pytest.raises(InputError, match=r"group 'g' is in train and test \(rows 2, 3\)"):
        check_disjoint(table(split=("train", "test", "test")))
    whole = table()
    check_apart(whole.taken([0, 1]), whole.taken([2]))
    with pytest.raises(InputError, match=r"row 3: group 'g' is also in mine.csv"):
        check_apart(whole.taken([0]), whole.taken([1]))


def test_splits_keep_groups_together_and_do_not_depend_on_order():
    keys = [f"key {number % 40}" for number in range(120)]
    sides = group_split(keys)
    assert {side: len({key for key, s in zip(keys, sides, strict=True) if s == side}) for side in set(sides)} == {
        "train": 32, "dev": 4, "test": 4,
    }  # fmt: skip
    with pytest.raises(InputError, match="below 1 together"):
        group_split(keys, sizes=(0.7, 0.3))
    big = NormTable("big", {"t": tuple(keys)}, ("x", "y") * 60, ("x", "y"), tuple(keys), tuple(range(120)), "nobody")
    held = group_test_rows(big, seed=3)
    turned = group_test_rows(big.taken(range(119, -1, -1)), seed=3)
    assert 20 <= held.sum() <= 40
    assert {key for key, h in zip(keys, held, strict=True) if h}.isdisjoint(
        k for k, h in zip(keys, held, strict=True) if not h
    )
    assert {k for k, h in zip(keys[::-1], turned, strict=True) if h} == {
        k for k, h in zip(keys, held, strict=True) if h
    }
    with pytest.raises(InputError, match="at least two groups"):
        group_test_rows(table(groups=("g", "g", "g")))


def test_normbank_with_a_mark_wide_marks_and_numbers(tmp_path):
    path = bank(
        tmp_path, f"bus,sing,{ROLE},expected", "bus,sing,［PERSON］＇s role is ＇cook＇,0", "bus,sing,,",
        mark=b"\xef\xbb\xbf",
    )  # fmt: skip
    found = load_normbank(path)
    assert found.labels == ("expected", "taboo", "")
    assert found.fields["constraints"] == ("the person's role is cook", "the person's role is cook", "")
    assert found.rows == (2, 3, 4)
    assert found.groups == ("bus [BEHAVIOR] sing",) * 3


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"bus,sing,{ROLE},fine", f"bus,hum,{ROLE},normal", f"bus,hum,{ROLE},odd"], "got 'fine' in rows 2, 4"),
        ([f"bus,sing,{ROLE},normal", "bus,sing,role cook,normal"], "row 3: constraint: expected"),
        ([f"bus,sing,{ROLE}"], r"expected 4 cells as in the header, got more or fewer in row 2"),
        ([f",sing,{ROLE},normal"], "setting: no text in row 2"),
    ],
)
def test_normbank_names_the_rows(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        load_normbank(bank(tmp_path, *lines))


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(InputError, match="expected a column norm or label"):
        load_normbank(bank(tmp_path, "a,b,c", head="setting,behavior,constraints\n"))
    with pytest.raises(InputError, match="column 'norm' comes twice"):
        load_normbank(bank(tmp_path, f"a,b,{ROLE},normal,normal", head="setting,behavior,constraints,norm,norm\n"))
    with pytest.raises(InputError, match="a header without rows"):
        load_normbank(bank(tmp_path, head=HEAD.rstrip("\n")))
    (tmp_path / "latin.csv").write_bytes(HEAD.encode() + b"caf\xe9,a,b,normal\n")
    with pytest.raises(InputError, match=r"latin\.csv"):
        load_normbank(tmp_path / "latin.csv")


def test_constraints_keep_apostrophes_and_refuse_what_they_cannot_write():
    text = "[OTHER]'s role is not 'the owner's son' [AND] noise is less than or equal to 'a cat's'"
    found = parse_constraints(text)
    assert found[1] == NormConstraint("environment", "noise", "is less than or equal to", "a cat's")
    assert format_constraints(found) == text
    with pytest.raises(InputError, match="known relation"):
        format_constraints((NormConstraint("person", "role", "was", "cook"),))


def test_made_normbank_is_read_back(tmp_path):
    found = load_normbank(made_normbank(tmp_path / "made.csv", rows=80, seed=1))
    assert len(found) == 80
    assert set(found.labels) == set(found.classes)
    again = load_normbank(made_normbank(tmp_path / "again.csv", rows=80, seed=1))
    assert again.fields == found.fields
    assert again.labels == found.labels


CONFLICTS = "conflict_id,contract_id,norm_id_1,norm_id_2,norm1,norm2,conf_type\n"


def test_clauses_by_contract_and_kind(tmp_path):
    found = load_norm_conflicts(made_conflicts(tmp_path / "made", pairs=80, seed=2))
    assert [found.labels.count(name) for name in found.classes] == [40, 10, 10, 10, 10]
    assert any("later" in remark for remark in found.remarks)
    path = tmp_path / "conflicts.csv"
    path.write_text(CONFLICTS + "1,7,1,2,a shall,b may,1\n2,8,3,4,c shall,d may,9\n")
    with pytest.raises(InputError, match="conf_type: expected 1 to 4, or 0 for none, got '9' in row 3"):
        load_norm_conflicts(path)
    path.write_text(CONFLICTS + "1,7,1,2,a shall,b may,１\n1,8,3,4,c shall,d may,2\n")
    with pytest.raises(InputError, match=r"conf_type: .* got '１' in row 2"):
        load_norm_conflicts(path)
    path.write_text(CONFLICTS + "1,7,1,2,a shall,b may,1\n1,8,3,4,c shall,d may,2\n")
    with pytest.raises(InputError, match="expected ids that differ, got '1' in rows 2, 3"):
        load_norm_conflicts(path)
    path.write_text(CONFLICTS + "1,7,1,2,a shall,,1\n")
    with pytest.raises(InputError, match="second: no text in row 2"):
        load_norm_conflicts(path)


def test_as_many_clauses_without_conflict_as_with(tmp_path):
    made_conflicts(tmp_path, pairs=40)
    lines = (tmp_path / "conflicts.csv").read_text().splitlines()
    (tmp_path / "conflicts.csv").write_text("\n".join(lines[:6]) + "\n")
    found = load_norm_conflicts(tmp_path)
    assert found.labels.count("none") == 5
    assert load_norm_conflicts(tmp_path, balanced=False).labels.count("none") == 20
    assert load_norm_conflicts(tmp_path, seed=1).ids != found.ids


def dialogue(folder: Path, text: str, *, column: str = "Labeled_Dialogue") -> Path:
    path = folder / "Chinese" / "adherence" / "thanks" / "cleaned_dialogue.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'\ufeff,Norm,Situation,{column}\n0,be kind,here,"{text}"\n', encoding="utf-8")
    return folder


def test_dialogues_with_wide_marks_and_labels_that_are_none(tmp_path):
    text = "(李：谢谢。)：Adhered ｜ 道谢\n(门开了。)\nAnn: fine. Ahdered | it is"
    with pytest.raises(InputError, match=r"cleaned_dialogue.csv: label: expected .* got 'Ahdered' in row 2"):
        load_normdial(dialogue(tmp_path, text))
    (found,) = load_normdial(tmp_path, unknown="skip")
    assert (found.language, found.stance, found.category, found.actors) == ("Chinese", "adherence", "thanks", ())
    assert [(turn.speaker, turn.text, turn.label) for turn in found.parsed.turns] == [("李", "谢谢。", "adhered")]
    assert found.parsed.other_lines == ("(门开了。)", "Ann: fine. Ahdered | it is")
    with pytest.raises(InputError, match="expected a column Labeled_Dialogue"):
        load_normdial(dialogue(tmp_path, text, column="Dialogue"))
    with pytest.raises(InputError, match="no dialogue has a turn"):
        load_normdial(dialogue(tmp_path, "nothing here"))
    with pytest.raises(InputError, match="below it"):
        load_normdial(tmp_path / "Chinese", language="American")


def test_a_label_glued_to_letters_is_none_and_the_first_one_counts():
    assert parse_labelled_dialogue("A: isAdhered | no").turns == ()
    (turn,) = parse_labelled_dialogue("A: yes: Adhered | he said Violated | twice").turns
    assert (turn.text, turn.label, turn.reason) == ("yes", "adhered", "he said Violated | twice")


def test_turns_carry_no_reason_and_no_stance(tmp_path):
    dialogues = load_normdial(made_normdial(tmp_path / "made", each=1))
    assert len(dialogues) == 40
    found = turn_table(dialogues, window=1)
    assert set(found.fields) == {"norm", "history", "turn", "speaker"}
    assert not any("keeps it" in text or "adherence" in text for column in found.fields.values() for text in column)
    assert all(text.count(" / ") == 0 for text in found.fields["history"])
    assert found.fields["history"][0] == ""
    assert set(found.facets["stance"]) == {"adherence", "violation"}


def annotator(label: str, **more: object) -> dict[str, object]:
    return {f"step_{step}": [label] for step in (1, 2, 3)} | {f"target_{step}": None for step in (1, 2, 3)} | more


def test_chats_without_names_and_without_the_message_itself(tmp_path):
    root = made_stream(tmp_path / "made", chats=6, channels=3)
    (first, *_) = sorted((root / "data").glob("*.json"))
    name = json.loads(first.read_text("utf-8-sig"))["data"]["id"]
    folder = root / "original_data" / name
    said = {"timestamp": "2022-01-02 20:00:09", "user": "somebody", "message": "hey @Peter stop"}
    (folder / "bad_utterance.jsonl").write_text("\ufeff" + json.dumps(said))
    lines = [{**said, "message": "first"}, {"user": "x", "action": "ban"}, said]
    (folder / "single_user_context.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "channel_setting.jsonl").unlink()
    items = load_stream_norms(root, max_context=5)
    (found,) = [item for item in items if item.message == "hey @user stop"]
    assert found.user_context == ("first",)
    assert len(found.chat_context) == 5
    assert found.channel.startswith("channel")
    assert "somebody" not in repr(found)
    assert "user0" not in found.id_hash
    assert items.remarks == ("1 of 6 items have no channel_setting.jsonl: their group is the name in their id",)
    table = chat_table(items)
    assert table.numbers["mention"].sum() == 1
    assert chat_numbers(replace(found, language="es", message="the cat is on the map"))["other_language"] == 1
    (folder / "bad_utterance.jsonl").unlink()
    with pytest.raises(InputError, match=r"bad_utterance.jsonl: expected a message"):
        load_stream_norms(root)


def test_annotations_that_are_wrong(tmp_path):
    root = made_stream(tmp_path / "made", chats=2)
    first, second = sorted((root / "data").glob("*.json"))
    text = first.read_text("utf-8")
    second.write_text(text, "utf-8")
    with pytest.raises(InputError, match=r"also stands in .*\.json"):
        load_stream_norms(root)
    told = json.loads(text.removeprefix("\ufeff"))
    told["data"]["labels"][0]["step_2"] = ["Shouting"]
    first.write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"\.json: step_2: expected a known category, got 'Shouting'"):
        load_stream_norms(root)
    with pytest.raises(InputError, match="expected data"):
        load_stream_norms(tmp_path)


def test_fewer_than_three_annotators_and_broken_ones():
    assert consolidate([annotator("Begging")])["step_3"] == "Begging"
    assert consolidate([annotator("Begging"), annotator("NSFW")])["step_1"] is None
    assert consolidate([annotator("판단불가"), annotator("Incivility")])["step_1"] == "Incivility"
    assert consolidate([annotator("Begging"), annotator("Begging", step_1=["data_error"])]) is None
    kept = consolidate([annotator("Begging"), annotator("Begging", step_2=["data_error"])])
    assert kept is not None
    with pytest.raises(InputError, match="step_1: expected a list"):
        consolidate([{"step_1": None}])


def scene(**changes: object) -> dict[str, object]:
    whole = {"id": "a", "behaviors": ["go", "stay"], "justifications": ["x", "y"], "correct": 0, "sensibles": [0]}
    return whole | {"taxonomy": {"0": ["Safety"]}, "desc": "a door"} | changes


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"a": scene(correct=2)}, r"a: correct: expected 0 to 1, got 2"),
        ({"a": scene(sensibles=[0, 5])}, r"a: sensibles: expected numbers from 0 to 1"),
        ({"a": scene(justifications=["x"])}, "expected as many justifications as behaviors"),
        ({"a": scene(), "b": scene()}, "expected ids that differ, got 'a' in 2 items"),
        ({"a": scene(behaviors="go")}, "behaviors: expected a list of texts"),
        ({}, "expected items by id"),
    ],
)
def test_scenes_that_are_wrong(tmp_path, items, message):
    (tmp_path / "scenes.json").write_text(json.dumps(items))
    with pytest.raises(InputError, match=message):
        load_egonormia(tmp_path / "scenes.json")


def test_a_key_that_comes_twice(tmp_path):
    (tmp_path / "twice.json").write_text(f'{{"a": {json.dumps(scene())}, "a": {json.dumps(scene())}}}')
    with pytest.raises(InputError, match=r"twice\.json"):
        load_egonormia(tmp_path / "twice.json")


def test_made_scenes_are_read_back(tmp_path):
    items = load_egonormia(made_egonormia(tmp_path / "made.json", items=20))
    assert all(item.behaviors[4] == "" and item.correct in item.sensibles and item.norm_kinds for item in items)
    with pytest.raises(InputError, match="position: expected 0 to 1"):
        MultipleChoice(NormItem("a", ("x", "y"), ("1", "2"), 0, (0,), ((), ()), ""), (1, 0)).to_original(2)


@pytest.mark.parametrize("make", [made_stream, made_normdial, made_conflicts])
def test_a_folder_that_holds_something_is_never_replaced(tmp_path, make):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(InputError, match="is there already"):
        make(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_columns_by_other_names_in_other_case_and_all_that_is_missing(tmp_path):
    with pytest.raises(InputError, match="expected columns setting, behavior, norm or label, got place, wh"):
        load_normbank(bank(tmp_path, "a,b,c", head="place,what,Constraints\n"))
    names = {"setting": "place", "behavior": "what", "norm": "no"}
    theirs = bank(tmp_path, f"bus,sing,{ROLE},taboo,x,test", head="place,what,Constraints,no,setting,SPLIT\n")
    table = load_normbank(theirs, columns=names)
    assert (table.fields["behaviour"], table.labels, table.split) == (("bus: sing",), ("taboo",), ("test",))
    swapped = load_normbank(bank(tmp_path, f"a,b,{ROLE},1"), columns={"setting": "behavior", "behavior": "setting"})
    assert swapped.fields["behaviour"] == ("b: a",)
    theirs = bank(tmp_path, f"bus,sing,{ROLE},taboo", head="place,what,constraints,no\n")
    for odd, message in (
        (names | {"norm": "yes"}, "columns: no column yes in place, what, constraints, no"),
        (
            names | {"verdict": "no"},
            "columns: expected some of setting, behavior, constraints, norm, label, split, got",
        ),
        (names | {"norm": "what"}, "columns: expected each column of the file once"),
        ({"setting": "place"}, "expected columns behavior, norm or label, got setting, what"),
    ):
        with pytest.raises(InputError, match=message):
            load_normbank(theirs, columns=odd)
    with pytest.raises(InputError, match="column 'setting' comes twice"):
        load_normbank(bank(tmp_path, "a,b,c,,1", head="Setting,SETTING,behavior,constraints,norm\n"))
    same = bank(tmp_path, "a,b,,1,z", head="setting,behavior,constraints,norm,Setting\n")
    assert load_normbank(same).fields["behaviour"] == ("a: b",)


def test_a_table_of_more_rows_than_are_read_is_refused_whole(tmp_path, monkeypatch):
    assert read_table._ROWS == 5_000_000
    monkeypatch.setattr(read_table, "_ROWS", 3)
    rows = [f"bus,{what},{ROLE},normal" for what in ("sing", "hum", "shout")]
    assert len(load_normbank(bank(tmp_path, *rows[:2]))) == 2
    with pytest.raises(InputError, match=r"bank.csv: expected fewer than 3 rows"):
        load_normbank(bank(tmp_path, *rows))


def test_many_columns_and_many_items_take_no_time(tmp_path):
    (tmp_path / "wide.csv").write_text(",".join(f"c{number}" for number in range(200_000)) + "\n")
    with pytest.raises(InputError, match="expected columns setting, behavior, constraints, norm or label, got c0"):
        load_normbank(tmp_path / "wide.csv")
    (tmp_path / "wide.csv").write_text(HEAD.replace("norm", "norm,norm") + "a,b,,taboo,taboo\n")
    with pytest.raises(InputError, match="column 'norm' comes twice"):
        load_normbank(tmp_path / "wide.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_1": 5}, "target_1: expected a list of texts, got 5"),
        ({"target_2": [[1]]}, "target_2: expected a list of texts"),
    ],
)
def test_targets_that_are_none(change, message):
    labels = {f"step_{step}": ["HIB"] for step in (1, 2, 3)} | {"target_1": None}
    with pytest.raises(InputError, match=message):
        consolidate([labels | change])


@pytest.mark.parametrize("name", ["..", "x" * 5000, "a/../b", ""])
def test_an_id_is_the_name_of_a_folder(tmp_path, name):
    made_stream(tmp_path / "s", chats=1, channels=1)
    file = next((tmp_path / "s" / "data").glob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text("utf-8-sig")) | {"data": {"id": name, "labels": [{}]}}))
    with pytest.raises(InputError, match="id: expected the name of a folder"):
        load_stream_norms(tmp_path / "s")


def test_tags_are_a_list(tmp_path):
    made_stream(tmp_path / "s", chats=1, channels=1)
    file = next((tmp_path / "s").rglob("channel_setting.jsonl"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tag_names": 5}))
    with pytest.raises(InputError, match="tag_names: expected a list"):
        load_stream_norms(tmp_path / "s")


def test_a_second_user_who_says_the_same_stays_in_the_chat(tmp_path):
    made_stream(tmp_path / "s", chats=1, channels=1)
    folder = next((tmp_path / "s" / "original_data").iterdir())
    said = json.loads((folder / "bad_utterance.jsonl").read_text())
    lines = [said | {"user": f"u{number}", "message_id": str(number)} for number in range(3)]
    for own, kept in (("1", 2), ("9", 2), (None, 2)):
        (folder / "bad_utterance.jsonl").write_text(json.dumps(said | {"message_id": own}))
        (folder / "multi_user_context.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert len(load_stream_norms(tmp_path / "s")[0].chat_context) == kept


def test_the_folds_of_the_release(tmp_path):
    root = made_conflicts(tmp_path / "c", pairs=8)
    whole = load_norm_conflicts(root, balanced=False)
    ids = [int("2" + name.split(":")[1]) for name in whole.ids[:4]] + [10, 11, 12, 13]
    file = tmp_path / "folds.json"
    file.write_text(json.dumps({"0": {"train": ids[:4], "test": ids[4:6]}, "test": ids[6:]}))
    (fold,) = load_norm_conflicts(root, file)
    assert fold.split == ("train",) * 4 + ("dev",) * 2 + ("test",) * 2
    assert fold.ids == (*whole.ids[:4], *whole.ids[4:])
    (root / "non_conflicts.csv").unlink()
    with pytest.raises(InputError, match=r"pair 10 and 1 more are not in .*non_conflicts.csv is not beside"):
        load_norm_conflicts(root, folds=file)


def test_one_category_is_left_out(tmp_path):
    found = turn_table(load_normdial(made_normdial(tmp_path / "made", each=1)), fields=("turn", "norm"))
    assert list(found.fields) == ["turn", "norm"]
    sides = list(leave_one_out(found))
    assert len(sides) == 10
    assert all(set(test.facets["category"]) == {name} for name, _, test in sides)
    assert all(name not in train.facets["category"] for name, train, _ in sides)
    with pytest.raises(InputError, match="facet: expected one of category"):
        list(leave_one_out(found, "mood"))


def test_labels_that_pandas_wrote_and_categories_of_constraints(tmp_path):
    path = bank(tmp_path, f"bus,sing,{ROLE} [AND] noise is 'loud',1.0", "bus,hum,[OTHER]'s age is 'child',2.0")
    found = load_normbank(path)
    assert found.labels == ("normal", "expected")
    assert found.facets["constraints"] == ("environment + person role", "other attribute")


def test_a_view_comes_apart_into_itself_and_its_order():
    item = NormItem("1", ("a", "b", ""), ("c", "d", ""), 1, (1,), ((), (), ()), "")
    view, order = MultipleChoice.shuffle(item, np.random.default_rng(0))
    assert [view.to_original(place) for place in range(3)] == list(order)
    assert group_split(["a", "b", "c"], (0.4, 0.3), 1) == group_split(["a", "b", "c"], sizes=(0.4, 0.3), seed=1)


def test_cannot_tell_with_a_space_is_a_label_of_its_own_as_in_the_release():
    labels = [{f"step_{step}": [name] for step in (1, 2, 3)} for name in ("판단 불가", "판단불가", "Incivility")]
    assert consolidate(labels)["step_1"] == "Incivility"
    assert consolidate([labels[0], labels[0], labels[2]])["step_1"] == "판단 불가"
