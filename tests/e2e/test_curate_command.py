"""``tether curate`` as a person runs it."""

from __future__ import annotations

import json
import os
import signal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from processes import run_tether, tether, wait_for
from tether.core.errors import InputError
from tether.data.curate.engine.plan import Plan

TEXTS = ["a red fox"] * 60 + ["a red owl"] * 4 + ["a red mole"] * 6 + ["IMG 0031"] * 10


@pytest.fixture
def pool(tmp_path):
    pq.write_table(pa.table({"image": [b"x"] * len(TEXTS), "caption": TEXTS}), tmp_path / "pool.parquet")
    (tmp_path / "words.txt").write_text("fox\nowl\nmole\nunicorn\n")
    return tmp_path / "pool.parquet"


def test_curates_with_a_list_of_entries(pool, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "entries.txt").write_text("of an earlier try\n")
    said, _ = run_tether("curate", pool, "--entries", tmp_path / "words.txt", "--t", 10, "--out", tmp_path / "out")
    assert "80 rows with 80 captions; 0 bad rows" in said
    assert "10 refused (no entry of the metadata stands in the caption)" in said
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    kept = pq.read_table(tmp_path / "out" / manifest["shards"][0]["file"])["caption"].to_pylist()
    assert kept.count("a red owl") == 4
    assert kept.count("a red mole") == 6
    assert 0 < kept.count("a red fox") < 30
    assert kept.count("IMG 0031") == 0
    assert (tmp_path / "out" / "entries.txt").read_text().split() == ["fox", "owl", "mole", "unicorn"]


def test_makes_entries_of_the_pool_itself_and_goes_on(pool, tmp_path):
    arguments = ("curate", pool, "--entries", "auto", "--minimum", 4, "--t", 10, "--out", tmp_path / "out")
    said = run_tether(*arguments)
    entries = (tmp_path / "out" / "entries.txt").read_text().split("\n")
    assert {"fox", "owl", "mole", "red", "IMG"} <= set(entries)
    before, _, same = run_tether(*arguments)[0].partition("\n")
    assert before.endswith("this curation was finished before, and nothing was done; it made:")
    assert same == said[0]


def test_entries_of_another_pool_or_other_settings_are_not_taken(pool, tmp_path, call):
    arguments = ["--entries", "auto", "--t", 10, "--workers", 1, "--out"]
    for _ in range(2):
        call("curate", pool, *arguments, tmp_path / "out", "--minimum", 4)
    for more in (("--minimum", 20), ("--minimum", 4, "--limit", 2), ("--minimum", 4, "--minimum-pmi", 1)):
        said = call("curate", pool, *arguments, tmp_path / "out", *more, code=2).err
        assert "entries.txt: made of another pool, by hand, or with another --limit" in said
    pq.write_table(pa.table({"caption": ["a grey cat"] * 30}), tmp_path / "other.parquet")
    (tmp_path / "left").mkdir()
    for name in ("entries.txt", "entries.json"):
        (tmp_path / "left" / name).write_text((tmp_path / "out" / name).read_text())
    (tmp_path / "left" / ".entries.txt.abcdefgh.tmp").write_text("of a killed process")
    (tmp_path / "left" / ".entries.json.abcdefgh.tmp").touch()
    call("curate", tmp_path / "other.parquet", *arguments, tmp_path / "left", "--minimum", 4)
    assert "cat" in (tmp_path / "left" / "entries.txt").read_text().split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--recipe curate (the package's own steps)"),
        (["--entries", "{words}"], "either --t 20 or --tail-share 0.06"),
        (["--entries", "{words}", "--t", "0.5"], "t: expected a number of at least 1, or null, got 0.5"),
        (["--entries", "none.txt", "--t", "5"], "none.txt: no such file"),
        (["--entries", "auto"], "either --t 20 or --tail-share 0.06"),
        (["--entries", "{words}", "--t", "5", "--engine", "spark"], "--engine: expected local or ray, got 'spark'"),
        (["--entries", "auto", "--t", "5", "--minimum-pmi", "nan"], "--minimum-pmi: expected a number"),
        (["--recipe", "{words}", "--t", "5"], "--t and --tail-share belong to --entries"),
        (["--recipe", "{words}"], "expected one key, 'steps'"),
        (["--entries", "{words}", "--t", "5", "--plan"], "--plan writes nothing"),
        (
            ["--entries", "{words}", "--t", "5", "--format", "csv"],
            "--format: expected parquet or webdataset, got 'csv'",
        ),
        (["--entries", "{words}", "--t", "5", "--workers", "0"], "--workers: expected 1 to 1024, got 0"),
    ],
)
def test_says_what_is_wrong(pool, tmp_path, call, arguments, message):
    given = [a.format(words=tmp_path / "words.txt") for a in arguments]
    assert message in call("curate", pool, *given, "--out", tmp_path / "out", code=2).err
    assert not list((tmp_path / "out").glob("part-*"))


RECIPE = """steps:
- {name: text_rules, characters: [3, 40]}
- number_mask
- {name: exact_duplicates, of: text}
- {name: metaclip, entries: auto, t: 10}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    texts = [f"a {colour} fox on day {day}" for colour in ("red", "blue") for day in range(60)] + ["IMG_001.jpg"] * 5
    pq.write_table(pa.table({"image": [b"x"] * len(texts), "caption": texts}), tmp_path / "pool.parquet")
    return tmp_path / "recipe.yaml"


def test_plan_shows_and_writes_nothing(recipe, tmp_path, call):
    before = sorted(tmp_path.rglob("*"))
    said = call("curate", tmp_path / "pool.parquet", "--recipe", recipe, "--plan", "--sample", "125").out
    assert "what would happen to 125 rows" in said
    assert "text_rules: 125 in, 5 refused" in said
    assert "refused: pool.parquet:120: 'IMG_001.jpg'" in said
    assert "number_mask: 120 in, 120 rewritten" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recipe_goes_from_pool_to_tars_and_can_be_resumed(recipe, tmp_path, call, monkeypatch):
    arguments = ["curate", tmp_path / "pool.parquet", "--recipe", recipe, "--format", "webdataset", "--out"]
    out = tmp_path / "out"
    said = call(*arguments, out, "--resume", code=2)
    assert said == ("", f"tether: --resume: {out} holds no run that could go on\n")
    work = Plan.work

    def stopped(self, number, piece):
        if number == len(self.passes) - 1:
            raise InputError("the pool went away")
        return work(self, number, piece)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "work", stopped)
        call(*arguments, out, code=2)
    assert "going on where an interrupted run stopped: 2 of 3 pieces are done" in call(*arguments, out, "--resume").err
    call(*arguments, tmp_path / "whole")
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (out, tmp_path / "whole")]
    assert manifests[0] == manifests[1]
    assert [step["name"] for step in manifests[0]["by_step"]] == [
        "text_rules", "number_mask", "exact_duplicates", "metaclip"
    ]  # fmt: skip
    assert manifests[0]["by_step"][2]["kept"] == 2
    assert (out / "recipe.yaml").read_text() == RECIPE
    assert (out / "part-000000.tar").read_bytes() == (tmp_path / "whole" / "part-000000.tar").read_bytes()


def test_it_tells_of_row_groups_that_are_too_large(tmp_path, call, monkeypatch):
    monkeypatch.setattr("tether.cli.curate._LARGE", 50)
    (tmp_path / "recipe.yaml").write_text("steps: [text_rules]")
    for rows, told in ((51, 1), (50, 0)):
        pq.write_table(pa.table({"caption": ["a red fox"] * 100}), tmp_path / "pool.parquet", row_group_size=rows)
        monkeypatch.setattr(
            "tether.data.curate.pools.parquet.group", lambda sizes: [(i, i + 1) for i in range(len(sizes))]
        )
        arguments = ["--recipe", tmp_path / "recipe.yaml", "--workers", 1, "--out", tmp_path / f"out {rows}"]
        said = call("curate", tmp_path / "pool.parquet", *arguments)
        assert said.err.count("holds 51 rows and is one piece") == told


def test_strict_stops_at_a_bad_row(tmp_path, call):
    pq.write_table(pa.table({"caption": pa.array([b"fox", b"\xff"])}), tmp_path / "pool.parquet")
    (tmp_path / "words.txt").write_text("fox\n")
    command = ["curate", tmp_path / "pool.parquet", "--entries", tmp_path / "words.txt", "--t", "5", "--out"]
    refused = call(*command, tmp_path / "strict", "--strict", code=2).err
    assert "bad row 'pool.parquet:1': a caption is not UTF-8" in refused
    assert "1 bad rows skipped" in call(*command, tmp_path / "out").out
    assert "pool.parquet:1" in (tmp_path / "out" / "bad_rows.jsonl").read_text()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGKILL, id="kill"),
        pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.nightly),
    ],
)
def test_stopped_it_goes_on_to_the_same_rows(tmp_path, number):
    texts = [f"a red {'fox' if index % 3 else 'owl'} {index}" for index in range(30_000)]
    pq.write_table(pa.table({"caption": texts}), tmp_path / "pool.parquet", row_group_size=1_000)
    (tmp_path / "words.txt").write_text("fox\nowl\n")
    command = ["curate", tmp_path / "pool.parquet", "--entries", tmp_path / "words.txt", "--t", 7_500, "--out"]
    child = tether(*command, tmp_path / "out")
    wait_for(lambda: list((tmp_path / "out").glob("part-*")), child)
    os.kill(child.pid, number)
    _, stderr = child.communicate()
    assert child.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), stderr
    assert "Traceback" not in stderr
    run_tether(*command, tmp_path / "out")
    run_tether(*command, tmp_path / "whole")
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("out", "whole")]
    assert manifests[0] == manifests[1]
    for shard in manifests[0]["shards"]:
        files = [(tmp_path / name / shard["file"]).read_bytes() for name in ("out", "whole")]
        assert files[0] == files[1]


def photos(folder, captions):
    """Eight images with these captions, if any."""
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (64, 64), (20 * number, 0, 0)).save(folder / f"{number}.png")
    if captions is not None:
        rows = "".join(f"{captions.format(number)}\n" for number in range(8))
        (folder / "captions.csv").write_text(f"image,caption\n{rows}")
    return folder


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        (None, "none of 8 rows that can be used has a caption"),
        ("gone{}.png,a red tile", "none of 8 rows that can be used has a caption; of rows that"),
        ("{0}.png,tile{0}", "no word of the captions stands in them 5 times; so few need no balancing"),
    ],
)
def test_words_are_not_blamed_for_missing_captions(call, tmp_path, captions, said):
    made = photos(tmp_path / "photos", captions)
    err = call("curate", made, "--recipe", "curate", "--out", tmp_path / "out", "--workers", 1, code=2).err
    assert said in err
    assert ("gone" in err) == bool(captions and "gone" in captions)


def test_a_curation_that_keeps_nothing_names_the_step(call, tmp_path):
    made = photos(tmp_path / "photos", "{}.png,Ein kleiner Hund läuft heute über die grüne Wiese im Garten")
    out = call("curate", made, "--recipe", "curate", "--out", tmp_path / "out", "--workers", 1).out
    assert "nothing is left: language dropped 8 of 8: the caption is not in en" in out


def test_captions_beside_images_are_opened_by_their_folder(call, tmp_path):
    made = photos(tmp_path / "photos", "{}.png,a red tile")
    (made / "captions.txt").write_text("0.png\ta red tile\n")
    err = call("curate", made / "captions.txt", "--recipe", "curate", "--plan", code=2).err
    assert f"name the folder: {made}" in err
    words = tmp_path / "words.txt"
    words.write_text("0.png\ta red tile\n")
    err = call("curate", made, "--entries", words, "--t", 20, "--out", tmp_path / "out", "--workers", 1, code=2).err
    assert r"the first entry is '0.png\ta red tile'" in err
