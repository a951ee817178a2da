"""``tether.norms``: a head is trained, measured beside chance, and judges a file; what it must refuse."""

from __future__ import annotations

import csv
import json
import shutil

import pytest

import tether
from tether.core.errors import InputError
from tether.data.sets.norms.made_conflicts import made_conflicts
from tether.data.sets.norms.made_egonormia import made_egonormia
from tether.data.sets.norms.made_normbank import made_normbank
from tether.data.sets.norms.made_stream import made_stream
from tether.evaluate.norms.report import NO_AUTHORITY

HEAD = "setting,behavior,constraints,norm,split\n"
ROLE = "[PERSON]'s role is 'cook'"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norms")
    made_normbank(folder / "bank.csv", rows=300)
    return folder, tether.norms("normbank", folder / "bank.csv", out=folder / "head")


def test_a_head_is_measured_beside_chance_and_without_its_context(trained):
    folder, run = trained
    assert list(run.report.arms) == ["behaviour", "behaviour, constraints"]
    assert run.report.flips["behaviour"][0] == 0
    assert {path.name for path in run.files} == {
        "head.safetensors",
        "learnt.json",
        "judged.csv",
        "report.json",
        "report.md",
    }
    page = (folder / "head" / "report.md").read_text()
    assert NO_AUTHORITY in page
    assert "the file does not say (--judged-by does); in the set as published: crowd workers" in page
    told = json.loads((folder / "head" / "report.json").read_text())
    assert told["arms"]["behaviour"]["macro_f1"]["chance"] < 0.5
    rows = list(csv.DictReader((folder / "head" / "judged.csv").open()))
    assert [int(row["row"]) for row in rows] == list(run.rows)
    assert [row["judged"] for row in rows] == list(run.said)


def test_a_head_judges_a_file_and_no_figure_counts_what_was_learnt_from(trained, tmp_path):
    folder, run = trained
    again = tether.norms("normbank", folder / "bank.csv", trained=folder / "head", out=tmp_path / "judged")
    held = [place for place, row in enumerate(again.rows) if row in set(run.rows)]
    assert tuple(again.said[place] for place in held) == run.said
    assert again.report.arms["behaviour, constraints"].n == len(run.rows)
    assert "learnt from; no figure counts them" in again.remarks[-1]
    new = tmp_path / "new.csv"
    new.write_text(HEAD.replace(",split", "") + f"a boat,sing,{ROLE},\n")
    judged = tether.norms("normbank", new, trained=folder / "head", out=tmp_path / "new")
    assert judged.report is None
    assert len(judged.said) == 1
    new.write_text(f"setting,behavior,constraints\na boat,sing,{ROLE}\n")  # no column of labels at all
    assert tether.norms("normbank", new, trained=folder / "head").said == judged.said
    with pytest.raises(InputError, match="expected a column norm or label"):
        tether.norms("normbank", new)
    with pytest.raises(InputError, match="expected a head on norm-conflicts, got one on 'normbank'"):
        tether.norms("norm-conflicts", made_conflicts(tmp_path / "c", pairs=8), trained=folder / "head")


def test_the_report_has_who_judged_as_told_and_as_published_without(trained, tmp_path):
    folder, _ = trained
    told = tether.norms("normbank", folder / "bank.csv", judged_by="two  of\nus", out=tmp_path / "told")
    assert told.report.judged == "two of us"
    page = (tmp_path / "told" / "report.md").read_text()
    assert "| who judged | two of us |" in page
    assert "crowd workers" not in page
    again = tether.norms("normbank", folder / "bank.csv", trained=folder / "head", judged_by="me")
    assert again.report.judged == "me"
    scenes = made_egonormia(tmp_path / "scenes.json", items=40)
    assert tether.norms("egonormia", scenes, judged_by="me").report.judged == "me"
    unsaid = tether.norms("egonormia", scenes).report.judged
    assert unsaid.startswith("the file does not say (--judged-by does); in the set as published: crowd workers")
    with pytest.raises(InputError, match="--judged-by: sentences of ours have their labels by a grammar"):
        tether.norms("normbank", "made", judged_by="me")
    with pytest.raises(InputError, match="--judged-by: expected who judged, got ' '"):
        tether.norms("normbank", folder / "bank.csv", judged_by=" ")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([f"bus,a,{ROLE},taboo,train", f"bus,b,{ROLE},taboo,test"], "all 2 rows have the label 'taboo'"),
        ([f"bus,a,{ROLE},taboo,train", f"bus,a,{ROLE},normal,test"], r"in train and test \(rows 2, 3\)"),
        ([f"bus,a,{ROLE},taboo,", f"bus,b,{ROLE},normal,"], "split: expected train, dev, test, got '' in rows 2, 3"),
        ([f"bus,a,{ROLE},,train"], "no row has a label"),
    ],
)
def test_files_that_cannot_be_learnt_from(tmp_path, lines, message):
    (tmp_path / "bank.csv").write_text(HEAD + "\n".join(lines) + "\n")
    with pytest.raises(InputError, match=message):
        tether.norms("normbank", tmp_path / "bank.csv", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_misspelt_encoder_is_told_those_without_a_model(tmp_path):
    (tmp_path / "bank.csv").write_text(HEAD + f"bus,a,{ROLE},taboo,train\nbus,b,{ROLE},normal,test\n")
    with pytest.raises(InputError, match=r"--encoder: tfdf: no such model.*without a model: tfidf, tfidf-letters or"):
        tether.norms("normbank", tmp_path / "bank.csv", encoder="tfdf")


def test_scenes_are_answered_without_a_head(tmp_path):
    run = tether.norms("egonormia", "made", encoder="tfidf", out=tmp_path / "out")
    assert list(run.report.choices) == ["blind", "scene", "scene and answers of scenes alike"]
    assert "ours" in run.report.judged
    with pytest.raises(InputError, match="without a head"):
        tether.norms("egonormia", "made", fields=["desc"])


def test_a_head_on_a_model_asks_for_it_and_judges_by_the_one_given(tmp_path):
    model = tether.load("tiny", random_weights=True).resized(context=64)
    bank = made_normbank(tmp_path / "bank.csv", rows=60)
    learnt = tether.norms("normbank", bank, encoder=model, out=tmp_path / "head")
    again = tether.norms("normbank", bank, trained=tmp_path / "head", encoder=model)
    assert (
        dict(zip(again.rows, again.said, strict=True)).items()
        >= dict(zip(learnt.rows, learnt.said, strict=True)).items()
    )
    with pytest.raises(InputError, match="give that model as the encoder"):
        tether.norms("normbank", bank, trained=tmp_path / "head")
    with pytest.raises(InputError, match="was fitted on"):
        tether.norms("normbank", bank, trained=tmp_path / "head", encoder="tfidf")
    with pytest.raises(InputError, match="--fields: a trained head"):
        tether.norms("normbank", bank, trained=tmp_path / "head", encoder=model, fields=["behaviour"])


def test_a_head_and_what_it_learnt_from_belong_together(trained, tmp_path):
    folder, _ = trained
    assert tether.norms("normbank", folder / "bank.csv", trained=folder / "head", encoder="tfidf").said
    for change, message in (({"groups": [[1]]}, "expected a list of texts"), ({"head": "0"}, "with another head")):
        shutil.copytree(folder / "head", tmp_path / message)
        told = json.loads((tmp_path / message / "learnt.json").read_text())
        (tmp_path / message / "learnt.json").write_text(json.dumps(told | change))
        with pytest.raises(InputError, match=message):
            tether.norms("normbank", folder / "bank.csv", trained=tmp_path / message)


def test_the_digest_covers_what_was_said_in_the_chat(tmp_path):
    from tether.workflows.norms import _digest

    root = made_stream(tmp_path / "s", chats=2, channels=1)
    before = _digest(root)
    file = next(root.rglob("bad_utterance.jsonl"))
    file.write_text(file.read_text().replace("message", "massage", 1))
    assert _digest(root) != before


def test_context_left_out_field_by_field(tmp_path):
    from tether.data.sets.norms import chat_table, group_test_rows, load_stream_norms
    from tether.workflows.norms import ablate_context

    table = chat_table(load_stream_norms(made_stream(tmp_path / "s", chats=60, channels=8))).judged_only()
    held = group_test_rows(table)
    train, test = (table.taken((held == side).nonzero()[0]) for side in (0, 1))
    found = ablate_context(train, test)
    assert list(found) == ["message", "message, user_context"]
    assert all(0 < one.macro_f1.chance < 1 for one in found.values())
    with pytest.raises(InputError, match="which is learnt from"):
        ablate_context(train, train)
