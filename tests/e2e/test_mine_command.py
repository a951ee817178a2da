"""``tether mine`` as a user types it, and ``tether eval`` among the captions of one image."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from tether.core.errors import LockedError
from tether.models import create
from tether.models.save import save
from tether.workflows.mine import mine


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine")
    lines = [f"{number}.jpg,{word} {number}" for number in range(6) for word in ("photo", "image")]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *lines, "6.jpg,alone"]))
    save(create("tiny", seed=0, context=160).eval(), folder / "model")
    return folder


def test_mine_writes_a_table_and_says_what_is_in_it(place, call, tmp_path):
    out = tmp_path / "pairs.jsonl"
    asked = ["mine", place / "captions.csv", "--model", place / "model", "--out", out, "--negatives", 2]
    said = call(*asked)
    assert "12 pairs of 6 rows, each with 2 hard negatives" in said.out
    assert "1 rows gave no pair" in said.err
    assert all(len(json.loads(line)["negatives"]) == 2 for line in out.read_text().splitlines())
    assert "is there already" in call(*asked, code=2).err
    for negatives, said in ((20, "as different documents, 12, got 20"), (12, "expected 12 hard negatives, only")):
        asked[-1] = negatives
        assert said in call(*asked, "--existing", "replace", code=2).err
    assert len(out.read_text().splitlines()) == 12


def test_the_second_writer_of_a_table_is_refused(place, tmp_path):
    lines, out = f"{place}/captions.csv", tmp_path / "pairs.jsonl"

    def second(done, total):
        if not refused:
            with pytest.raises(LockedError) as caught:
                mine(lines, model=str(place / "model"), out=out, negatives=2)
            refused.append(str(caught.value))

    refused: list[str] = []
    assert mine(lines, model=str(place / "model"), out=out, negatives=2, on_progress=second).pairs == 12
    assert f"process {os.getpid()} on" in refused[0]
    assert "(tether mine) is writing there" in refused[0]
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_no_file_to_write_is_said_once(place, call):
    said = call("mine", place / "captions.csv", "--model", place / "model", "--out", "/dev/full", code=2).err
    assert said.strip() == "tether: --out: expected the name of a file, got '/dev/full'"


def test_rows_that_cannot_be_read_are_named(place, call, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (folder / "0.png").symlink_to(tmp_path / "0.png")
    (folder / "captions.csv").write_text("image,caption\n0.png,a\n0.png,b\n")
    said = call("mine", folder, "--model", place / "model", "--out", tmp_path / "pairs.jsonl", code=2)
    assert "1 rows are left out, the first that cannot be read: 0.png" in said.err


def test_eval_reports_text_to_text_where_it_is_asked_for(place, call):
    said = call(
        "eval", place / "model", "scenes:rows=8,size=64,captions=both", "--measure", "text_retrieval", "--json", "-"
    )
    found = json.loads(said.out)
    assert 0 <= found["text_to_text_r1"] <= 1
    assert "text_to_image_r1" not in found
    shown = call("eval", place / "model", "scenes:rows=8,size=64,captions=both", "--measure", "text_retrieval").out
    assert "text to text R@1" in shown
