"""``tether curate`` on what pools from outside hold: nothing stops it but what must, and nothing is lost in silence."""

from __future__ import annotations

import csv
import json
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tables import encoded, rows_of, tarred
from tether.cli import main
from tether.data import open_source
from tether.data.images import decode
from tether.models import create
from tether.models.save import save

MANY = {
    "arabic": "قطة حمراء صغيرة على العشب",
    "hebrew with marks": "שָׁלוֹם עוֹלָם a red fox",
    "override": "a red \u202efox\u202c in the snow",
    "combining": "un cafe\u0301 rouge a\u0308 c\u0327",
    "stacked": "z" + "\u0321\u0334\u0337\u035c" * 20 + "algo a red fox",
    "hangul jamo": "\u1112\u1161\u11ab\u1100\u1173\u11af a red fox",
    "joined": "family \U0001f468\u200d\U0001f469\u200d\U0001f467 a red fox",
    "astral": "\U0001d4d0 \U0001d4ef\U0001d4f8\U0001d501 and a red fox",
    "newlines": "a red\r\nfox\u2028in\u2029the\x0bsnow",
    "quotes": "a \"red, 'fox'; \t<b>bold</b> &amp; =cmd|x",
    "nul": "a red\x00fox",
    "long": "a red fox " * 104_858,  # a megabyte
    "one word": "x" * (1 << 20),
    "blank": "   ",
    "plain": "a red fox in the snow",
}


def image(number: int = 0, *, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind)


BROKEN = {
    "empty": b"",
    "text": b"this is no image",
    "cut": image(1)[:200],
    "header alone": image(2)[:33],
    "cut jpeg": image(3, kind="JPEG")[:300],
    "html": b"<!doctype html><p>404</p>",
    "bomb": image(4)[:16] + (60_000).to_bytes(4, "big") * 2 + image(4)[24:],
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


class Run:
    """One run in this process, with one worker; what it said, kept and dropped."""

    def __init__(self, tmp_path, capsys) -> None:
        self.folder, self.capsys, self.count = tmp_path, capsys, 0

    def _main(self, source, arguments, recipe: str | None) -> tuple[int, str]:
        self.count += 1
        self.out = self.folder / f"out{self.count}"
        if recipe is not None:
            (self.folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
            arguments = ("--recipe", self.folder / "recipe.yaml", *arguments)
        with pytest.raises(SystemExit) as left:
            main(["curate", str(source), "--workers", "1", *map(str, arguments), "--out", str(self.out)])
        return left.value.code, self.capsys.readouterr().err

    def __call__(self, source, *arguments, recipe: str | None = None) -> dict:
        code, said = self._main(source, arguments, recipe)
        assert code == 0, said
        manifest = json.loads((self.out / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["rows"]["good"] >= manifest["rows"]["kept"]
        return manifest

    def refused(self, source, *arguments, recipe: str | None = None) -> str:
        code, said = self._main(source, arguments, recipe)
        assert code == 2, said
        assert "Traceback" not in said
        assert not list(self.out.glob("part-*"))
        return " ".join(said.split())

    def kept(self) -> pa.Table:
        return pa.concat_tables([pq.read_table(file) for file in sorted(self.out.glob("part-*.parquet"))])

    def dropped(self) -> list[dict[str, str]]:
        csv.field_size_limit(1 << 24)
        lines = []
        for file in sorted((self.out / "dropped").glob("*.csv")):
            with file.open(newline="", encoding="utf-8") as opened:
                lines += list(csv.DictReader(opened))
        return lines

    def bad(self) -> dict[str, str]:
        path = self.out / "bad_rows.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return {line["key"]: line["error"] for line in map(json.loads, lines)}


@pytest.fixture
def run(tmp_path, capsys):
    return Run(tmp_path, capsys)


@pytest.fixture
def strange(tmp_path):
    """A Parquet pool whose keys name what is strange about each caption."""
    table = pa.table({"key": list(MANY), "image": [image(n) for n in range(len(MANY))], "caption": list(MANY.values())})
    pq.write_table(table, tmp_path / "strange.parquet", row_group_size=4)
    return tmp_path / "strange.parquet"


ALL = """steps:
- {name: text_rules, characters: [0, 100000000], words: [0, 100000000], letters: 0, run: null, addresses: keep,
   markup: keep, broken: keep}
"""
"""Rules that every caption keeps."""


def test_strange_letters_come_through_as_they_went_in(run, strange):
    manifest = run(strange, recipe=ALL)
    table = run.kept()
    found = dict(zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True))
    assert manifest["rows"]["bad"] == len(MANY) - len(found)
    assert set(MANY) - set(found) <= {"blank"}
    assert found.items() <= MANY.items()


def test_tars_hold_the_same(run, strange):
    run(strange, recipe=ALL)
    wanted = dict(zip(run.kept()["key"].to_pylist(), run.kept()["caption"].to_pylist(), strict=True))
    run(strange, "--format", "webdataset", recipe=ALL)
    source = open_source(str(run.out))
    rows = rows_of(source)
    assert not [row.bad for row in rows if row.bad]
    assert len(rows) == len(wanted)
    assert all(len(row.texts) <= 1 for row in rows)  # a caption of several lines is one caption
    found = {" ".join(text.split()) for row in rows for text in row.texts}
    assert found == {" ".join(text.split()) for text in wanted.values() if text.strip()}
    assert all(decode(row.image).shape == (3, 40, 40) for row in rows)


def test_every_step_without_a_model_takes_them(run, strange):
    recipe = """
steps:
- tidy_text
- {name: language, languages: [en, ar, he], minimum: 0.95, unknown: keep}
- number_mask
- {name: exact_duplicates, of: [text, image], text: folded}
- near_duplicates
- {name: image_size, least_side: 1}
- {name: metaclip, entries: words.txt, t: 100}
- rewrite_captions
"""
    (run.folder / "words.txt").write_text("fox\ncafé\nred\nred fox\nقطة\n", encoding="utf-8")
    run(strange, recipe=recipe.replace("words.txt", str(run.folder / "words.txt")))
    table = run.kept()
    found = {key: texts[0] for key, texts in zip(table["key"].to_pylist(), _captions(table), strict=True)}
    named = {line["key"] for line in run.dropped()}
    assert set(found) | named | set(run.bad()) >= set(MANY)
    assert found["arabic"] == unicodedata.normalize("NFC", MANY["arabic"])
    assert found["combining"] == unicodedata.normalize("NFC", MANY["combining"])


def test_dropped_captions_can_be_read_back(run, strange):
    run(strange, recipe="steps:\n- {name: text_rules, characters: [0, 0], words: [0, 0]}\n")
    lines = {line["key"]: line["text"] for line in run.dropped()}
    assert set(lines) | set(run.bad()) >= set(MANY)
    assert lines["arabic"] == MANY["arabic"]
    assert lines["quotes"].startswith("a \"red, 'fox'; ")


def test_a_megabyte_is_too_long_for_the_rules(run, strange):
    run(strange, recipe="steps:\n- text_rules\n")
    left = set(run.kept()["key"].to_pylist())
    assert {"plain", "arabic", "combining"} <= left
    assert not {"long", "one word", "quotes"} & left
    assert {"long", "one word"} <= {line["key"] for line in run.dropped()}


def test_bytes_in_several_encodings(run):
    texts = ["a red fox", "café rouge".encode("latin-1"), "ein Füchslein".encode(), "“quoted” fox".encode("cp1252")]
    texts += [
        "лиса".encode("koi8-r"),
        "狐".encode("shift_jis"),
        "fox".encode("utf-16"),
        b"\xed\xa0\x80 fox",
        b"\xff\xfe",
    ]
    texts = [text.encode() if isinstance(text, str) else text for text in texts]
    keys = [f"k{number}" for number in range(len(texts))]
    images = [image(n) for n in range(len(texts))]
    filler = [f"a red fox {number}" for number in range(40)]
    table = pa.table(
        {
            "key": [*keys, *(f"f{number}" for number in range(40))],
            "image": [*images, *[images[0]] * 40],
            "caption": pa.array([*texts, *(text.encode() for text in filler)], pa.binary()),
        }
    )
    pq.write_table(table, run.folder / "pool.parquet")
    (run.folder / "sources").mkdir()
    with (run.folder / "sources" / "pool.tsv").open("wb") as file:
        file.write(b"filepath\ttitle\n")
        for number, text in enumerate(texts):
            if b"\n" not in text:
                file.write(f"p{number}.png\t".encode() + text + b"\n")
            (run.folder / "sources" / f"p{number}.png").write_bytes(images[number])
        for number, text in enumerate(filler):
            file.write(f"f{number}.png\t{text}\n".encode())
            (run.folder / "sources" / f"f{number}.png").write_bytes(images[0])
    for source in (run.folder / "pool.parquet", run.folder / "sources" / "pool.tsv"):
        manifest = run(source, recipe=ALL)
        assert manifest["rows"]["good"] == 42
        bad = run.bad()
        assert len(bad) == 7
        assert all("UTF-8" in reason for reason in bad.values())
        kept = json.dumps(
            run.kept().drop(["image"]).to_pylist() if "image" in run.kept().column_names else [], default=str
        )
        assert "\ufffd" not in kept
        said = run.refused(source, "--strict", recipe=ALL)
        assert "UTF-8" in said


def test_sidecars_in_another_encoding(run):
    folder = run.folder / "photos"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.png").write_bytes(image(number))
        text = "a fox in the café"
        (folder / f"{number}.txt").write_bytes(text.encode("cp1252" if number == 3 else "utf-8"))
    manifest = run(folder, recipe=ALL)
    assert (manifest["rows"]["good"], manifest["rows"]["bad"]) == (11, 1)
    assert "not UTF-8" in run.bad()["3.png"]


@pytest.fixture
def broken(tmp_path):
    """A pool in which some images are none, among sound ones."""
    sound = {f"sound {number}": image(number) for number in range(12)}
    files = {**sound, **BROKEN}
    table = pa.table(
        {"key": list(files), "image": list(files.values()), "caption": [f"a red fox, {key}" for key in files]}
    )
    pq.write_table(table, tmp_path / "broken.parquet", row_group_size=5)
    members = [(f"{n:03d}.png", data) for n, data in enumerate(files.values())]
    members += [(f"{n:03d}.txt", f"a red fox, {key}".encode()) for n, key in enumerate(files)]
    tarred(tmp_path / "broken.tar", sorted(members))
    return tmp_path / "broken.parquet"


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_images_that_cannot_be_decoded(run, broken, ending):
    source = broken.with_suffix(ending)
    recipe = "steps:\n- {name: image_size, least_side: 8}\n- {name: near_duplicates, distance: 0}\n"
    run(source, recipe=recipe)
    texts = [text for cell in _captions(run.kept()) for text in cell]
    assert {f"a red fox, sound {number}" for number in range(12)} <= set(texts)
    gone = {line["text"] for line in run.dropped()} | set(run.bad())
    for name in ("text", "html", "svg"):
        assert f"a red fox, {name}" not in texts
        assert any(name in each for each in gone) or run.bad()


def test_copies_are_found_where_images_are_broken(run):
    images = [image(1), image(1), *BROKEN.values(), *BROKEN.values(), image(2)]
    table = pa.table(
        {"image": images, "caption": ["a red fox"] * len(images), "key": [f"{n}" for n in range(len(images))]}
    )
    pq.write_table(table, run.folder / "pool.parquet")
    run(run.folder / "pool.parquet", recipe="steps:\n- {name: exact_duplicates, of: image}\n")
    assert len(run.kept()) in (2 + len(BROKEN), 1 + len(BROKEN))  # an empty image may count as none
    run(run.folder / "pool.parquet", recipe="steps:\n- near_duplicates\n")
    keys = set(run.kept()["key"].to_pylist())
    assert len({"0", "1"} & keys) == 1
    assert str(len(images) - 1) in keys


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save(create("tiny", seed=0), folder)
    return folder


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
@pytest.mark.parametrize(
    "step",
    [
        "{name: clip_score, threshold: 0, model: MODEL}",
        "{name: clip_score, threshold: -1, model: MODEL}",
        "{name: clip_score, fraction: 1, model: MODEL}",
        "{name: embedding_duplicates, threshold: 0, model: MODEL}",
        "{name: safety, threshold: 0.5, model: MODEL}",
    ],
)
def test_steps_with_a_model_take_broken_images_and_strange_captions(run, strange, broken, model, step):
    recipe = f"steps:\n- {step.replace('MODEL', str(model))}\n"
    for source, texts in ((strange, MANY), (broken, [*[f"sound {n}" for n in range(12)], *BROKEN])):
        manifest = run(source, recipe=recipe)
        left = set(run.kept()["key"].to_pylist()) if manifest["rows"]["kept"] else set()
        gone = {line["key"] for line in run.dropped()}
        assert left | gone | set(run.bad()) == set(texts)
        assert not left & gone
        if "threshold: -1" in step or "fraction: 1" in step:
            assert set(texts) - left <= {*BROKEN, "blank"}
            assert not left & {"text", "html", "svg"}


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("{name: clip_score, fraction: 0, model: MODEL}", "fraction"),
        ("{name: clip_score, threshold: .nan, model: MODEL}", "threshold"),
        ("{name: clip_score, model: none/such}", "none/such"),
        ("{name: embedding_duplicates, threshold: -1, model: MODEL}", "threshold: expected a number in (-1, 1]"),
        ("{name: safety, threshold: 0, model: MODEL}", "threshold"),
        ("{name: parrot, coverage: 1}", "coverage: expected a number in [0, 1)"),
        ("{name: parrot, words: weather}", "weather"),
        ("{name: metaclip, entries: WORDS, t: 0}", "t: expected a number of at least 1, or null, got 0"),
        ("{name: text_rules, characters: [5, 0]}", "characters: expected least and most"),
        ("{name: language, languages: []}", "languages: expected at least one code"),
        ("{name: exact_duplicates, of: []}", "of: expected columns"),
        ("{name: exact_duplicates, of: weather}", "weather"),
    ],
)
def test_steps_that_cannot_be(run, strange, model, step, said):
    (run.folder / "words.txt").write_text("fox\n")
    step = step.replace("MODEL", str(model)).replace("WORDS", str(run.folder / "words.txt"))
    assert said in run.refused(strange, recipe=f"steps:\n- {step}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--entries WORDS --t 5 --workers 0", "workers"),
        ("--entries WORDS --t 0", "t: expected a number of at least 1, or null, got 0"),
        ("--entries WORDS --tail-share 2", "--tail-share: expected a number in [0, 1]"),
        ("--entries WORDS --t nan", "t"),
        ("--entries auto --t 1 --limit 0", "limit"),
        ("--recipe RECIPE --plan --sample 0", "sample"),
    ],
)
def test_options_of_zero(run, strange, arguments, said):
    (run.folder / "words.txt").write_text("fox\n")
    (run.folder / "plan.yaml").write_text("steps:\n- tidy_text\n")
    given = arguments.replace("WORDS", str(run.folder / "words.txt")).replace("RECIPE", str(run.folder / "plan.yaml"))
    assert said in run.refused(strange, *given.split())


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("fox\nred\nfox\n", "fox"),
        ("", "no entries"),
        ("\n\n  \n", "entr"),
        ('["fox", "", "red"]', "empty"),
        ('["fox"', "JSON"),
        ("fox\ncaf\xe9\n", "not UTF-8"),
    ],
)
def test_metadata_that_is_no_list_of_entries(run, strange, entries, said):
    path = run.folder / ("words.json" if entries.startswith("[") else "words.txt")
    path.write_text(entries, encoding="latin-1")
    error = run.refused(strange, "--entries", path, "--t", "5")
    assert said in error
    assert path.name in error or "entr" in error


@pytest.mark.parametrize(
    "recipe",
    [
        "- {name: language, languages: [en], minimum: 0}",
        "- {name: near_duplicates, distance: 0, colour: 0}",
        "- {name: text_rules, letters: 0, characters: [0, 0], words: [0, 0]}",
        "- {name: metaclip, entries: %s, tail_share: 0}",
        "- {name: metaclip, entries: %s, tail_share: 1}",
    ],
)
def test_thresholds_of_zero_that_mean_something(run, strange, recipe):
    (run.folder / "words.txt").write_text("fox\nred\n")
    manifest = run(strange, recipe=f"steps:\n{recipe.replace('%s', str(run.folder / 'words.txt'))}\n")
    assert manifest["pairs"]["kept"] + len(run.dropped()) == manifest["pairs"]["good"]


def test_entries_that_overlap_all_count(run):
    texts = ["a hot dog stand", "a dog", "hot dogs", "hot", "a hot dog and a dog"]
    pq.write_table(pa.table({"image": [image(n) for n in range(5)], "caption": texts}), run.folder / "pool.parquet")
    (run.folder / "words.txt").write_text("dog\nhot dog\nhot\nhot dog stand\n")
    manifest = run(run.folder / "pool.parquet", "--entries", run.folder / "words.txt", "--t", "100")
    report = manifest["by_step"][0]["report"]
    assert report["most_frequent"] == {"hot": 4, "dog": 3, "hot dog": 2, "hot dog stand": 1}
    assert manifest["pairs"]["kept"] == 5


def test_a_language_without_metadata(run):
    texts = ["a small red fox sleeps in the snow today", "ein kleiner roter Fuchs schläft heute im Schnee"]
    texts += ["un petit renard roux dort dans la neige", "小さな赤い狐が雪の中で眠っている"]
    pq.write_table(pa.table({"image": [image(n) for n in range(4)], "caption": texts}), run.folder / "pool.parquet")
    (run.folder / "lists").mkdir()
    (run.folder / "lists" / "en.txt").write_text("fox\nsnow\n")
    (run.folder / "lists" / "de.txt").write_text("Fuchs\n")
    recipe = f"steps:\n- {{name: metaclip2, entries: {run.folder / 'lists'}, t: 10}}\n"
    manifest = run(run.folder / "pool.parquet", recipe=recipe)
    assert manifest["pairs"]["kept"] == 2
    assert {line["text"] for line in run.dropped()} == set(texts[2:])


def test_papers_that_mean_harm(run):
    papers = run.folder / "papers"
    papers.mkdir()
    figure = r"\begin{figure}\includegraphics{a.png}\caption{A red fox.}\end{figure}"
    bomb = "<!DOCTYPE a [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;'>]><article><fig><caption>&b;</caption></fig></article>"
    outside = '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/hostname">]><article><p>&f;</p></article>'
    files = {"main.tex": rf"\input{{main}}\include{{main}}{figure}", "bomb.xml": bomb, "out.nxml": outside}
    files |= {"deep.tex": r"\a{\begin{x}" * 60, "dollar.tex": "$" + figure}
    for number in range(3):
        members = {name: text.encode() for name, text in files.items()}
        members |= {"a.png": image(number), "../up.png": b"x"}
        tarred(papers / f"{number}.tar.gz", members.items(), mode="w:gz")
    (papers / "junk.tar.gz").write_bytes(b"junk")
    manifest = run(f"figures:path={papers}", recipe=ALL)
    assert manifest["rows"]["kept"] == 3
    bad = run.bad()
    assert sum("declares entities" in reason for reason in bad.values()) == 6
    assert sum("points outside" in reason for reason in bad.values()) == 3
    assert sum("levels deep" in reason for reason in bad.values()) == 3
    assert sum("not closed" in reason for reason in bad.values()) == 3
    assert "cannot be read" in bad["junk"]
    assert not (papers.parent / "up.png").exists()


def _captions(table: pa.Table) -> list[list[str]]:
    name = "texts" if "texts" in table.column_names else "caption"
    return [cell if isinstance(cell, list) else [cell] for cell in table[name].to_pylist()]
