"""The datasheet of a curated set: figures, examples, images, and what must not show."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.cli import main
from tether.core.errors import InputError
from tether.data.curate import ExactDuplicates, ImageSize, LanguageRule, TextRules, TidyText
from tether.data.curate.engine.run import curate
from tether.data.curate.engine.step import FLAG_SCHEMA
from tether.data.curate.metaclip.metaclip import MetaClipCurator
from tether.data.curate.pools.opening import open_pool
from tether.evaluate.datasheet import write_datasheet
from tether.evaluate.datasheet.cloud import HEIGHT, WIDTH, cloud
from tether.evaluate.datasheet.concepts import concepts, languages, word_counts
from tether.evaluate.datasheet.sample import Captions
from tether.evaluate.datasheet.thumbnails import thumbnail


class FlagFoxes:
    """Flags captions with a fox."""

    columns = ()
    settings = {"model": "some/model", "weights_digest": "abc123"}  # noqa: RUF012

    def flag(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        found = ["a fox" if text and "fox" in text else None for text in rows.column("text").to_pylist()]
        return pa.record_batch([pa.array(found, pa.string()), pa.array([0.5] * len(found))], schema=FLAG_SCHEMA)


def encoded(seed: int, side: int = 48) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


HOSTILE = '<script>alert("x")</script> fox | **bold** [a](b)'


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasheet")
    texts = [
        ["a red fox sleeps in the garden", "ein roter Fuchs im Garten"],
        ["IMG_0001.jpg"],
        [HOSTILE],
        ["a blue owl"],
    ]
    rows = [(f"row {i}", encoded(i), texts[i % 4], ["CC0", None][i % 2]) for i in range(40)]
    rows += [("tiny", encoded(99, 8), ["a tiny fox"], "CC0"), ("broken", b"no image", ["a fox"], "CC0")]
    rows += [("copy", rows[3][1], rows[3][2], "<b>own</b>")]
    keys, images, captions, licences = zip(*rows, strict=True)
    table = pa.table({"key": keys, "image": images, "texts": captions, "license": licences})
    pq.write_table(table, folder / "pool.parquet")
    pool = open_pool(str(folder / "pool.parquet"))
    steps = [
        ("tidy_text", TidyText(markup="keep")),
        ("text_rules", TextRules(markup="keep")),
        ("image_size", ImageSize()),
        ("exact_duplicates", ExactDuplicates()),
        ("foxes", FlagFoxes()),
    ]
    manifest = curate(pool, steps=steps, out=folder / "out")
    write_datasheet(folder / "out", pool=pool)
    return folder / "out", pool, manifest


def test_figures_are_those_of_the_manifest(curated):
    out, _, manifest = curated
    page, text = (out / "datasheet.html").read_text(), (out / "datasheet.md").read_text()
    for said in (page, text):
        assert manifest["digest"] in said
        assert manifest["recipe_sha256"] in said
        assert manifest["rows_sha256"] in said
        assert "abc123" in said
        assert "some/model" in said
    assert f"| text\\_rules | {manifest['by_step'][1]['in']} | 10 | 0 |" in text
    assert f"| image\\_size | {manifest['by_step'][2]['in']} | 2 | 0 |" in text
    assert "| CC0 | 22 |" in text
    assert f"<b>{manifest['pairs']['kept']}</b>" in page


def test_it_is_the_same_each_time_and_whole(curated):
    out, pool, _ = curated
    before = [(out / name).read_bytes() for name in ("datasheet.html", "datasheet.md")]
    write_datasheet(out, pool=pool)
    assert [(out / name).read_bytes() for name in ("datasheet.html", "datasheet.md")] == before
    page = before[0].decode()
    assert not re.search(r"""(src|href)=["']?(?!#|data:)[^"'>]""", page)  # loads nothing


def test_nothing_in_a_caption_becomes_markup(curated):
    out, _, _ = curated
    page, text = (out / "datasheet.html").read_text(), (out / "datasheet.md").read_text()
    assert "<script>alert" not in page
    assert "<b>own</b>" not in page
    assert "<script>" not in text
    assert "**bold**" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 8)


def test_examples_say_what_was_dropped(curated):
    out, _, _ = curated
    page = (out / "datasheet.html").read_text()
    section = page[page.index('id="dropped"') : page.index('id="flagged"')]
    assert section.count("IMG_0001.jpg") == 8
    assert "a tiny fox" in section
    assert "cannot be opened" in section
    assert section.count('class="thumb"') == 8 + 1 + 1  # file names, the tiny one, and one of the copies


def test_flags_are_counts_and_words_without_images(curated):
    out, _, manifest = curated
    page = (out / "datasheet.html").read_text()
    section = page[page.index('id="flagged"') : page.index('id="kept"')]
    assert f"{manifest['by_step'][4]['flagged']} pairs" in section
    assert ">fox</text>" in section
    assert "thumb" not in section


def sprite_of(page: str) -> np.ndarray:
    found = re.search(r"data:image/webp;base64,([^\"]+)", page)
    with Image.open(io.BytesIO(base64.b64decode(found.group(1)))) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def test_images_are_blurred_in_their_own_pixels(curated, tmp_path):
    out, pool, _ = curated
    blurred = sprite_of((out / "datasheet.html").read_text())
    saved = (out / "datasheet.html").read_bytes()
    try:
        write_datasheet(out, pool=pool, images="clear")
        clear = sprite_of((out / "datasheet.html").read_text())
        write_datasheet(out, pool=pool, images="none")
        assert "data:image/webp" not in (out / "datasheet.html").read_text()
    finally:
        (out / "datasheet.html").write_bytes(saved)
    assert clear.shape == blurred.shape
    detail = [np.abs(np.diff(each, axis=0)).mean() for each in (clear, blurred)]
    assert detail[1] < 0.2 * detail[0]


def test_a_broken_image_has_no_thumbnail():
    assert thumbnail(b"no", images="clear") is None
    assert thumbnail(encoded(1), images="blurred").shape == (3, 64, 64)


def test_other_forms_and_nothing_left(tmp_path):
    table = pa.table({"key": [str(i) for i in range(6)], "caption": ["a fox", "an owl"] * 3})
    pq.write_table(table, tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    for name, steps, written_as in (
        ("tars", [("rules", TextRules())], "webdataset"),
        ("none", [("rules", TextRules(characters=(90, 99)))], "parquet"),
        ("entries", [("metaclip", MetaClipCurator(entries=["fox", "owl"], t=1))], "parquet"),
    ):
        out = tmp_path / name
        manifest = curate(pool, steps=steps, out=out, written_as=written_as)
        page, text = write_datasheet(out, pool=pool)
        assert "Terms of use are unknown" in page.read_text()
        assert f"| kept | {manifest['rows']['kept']} | {manifest['pairs']['kept']} |" in text.read_text()
    (tmp_path / "entries" / "entries.txt").write_text("fox\nowl\n")
    page, _ = write_datasheet(tmp_path / "entries", pool=pool)
    assert "Entries of the metadata list (2 of them)" in page.read_text()
    with pytest.raises(InputError, match="no such file"):
        write_datasheet(tmp_path / "nowhere", pool=pool)


def test_large_pools_are_sampled_and_say_so(tmp_path):
    table = pa.table({"key": [str(i) for i in range(3000)], "caption": [f"a fox {i}" for i in range(3000)]})
    pq.write_table(table, tmp_path / "pool.parquet", row_group_size=500)
    pool = open_pool(str(tmp_path / "pool.parquet"))
    curate(pool, steps=[("rules", TextRules())], out=tmp_path / "out")
    page, _ = write_datasheet(tmp_path / "out", pool=pool, most=400)
    assert "Estimated on the captions of 400 rows" in page.read_text()


def test_captions_with_line_ends_commas_and_nulls_are_read_back(tmp_path):
    odd = ['a "quoted", fox\nand owl.jpg', "x.png,", None, "1.jpg", "," * 30]
    pq.write_table(pa.table({"key": ["007", "b", "c", "d", "e"], "caption": odd}), tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    curate(pool, steps=[("rules", TextRules())], out=tmp_path / "out")
    text = write_datasheet(tmp_path / "out", pool=pool)[1].read_text()
    assert '- a "quoted", fox and owl.jpg' in text
    assert "- (no caption)" in text


def captions(*texts: str) -> Captions:
    return Captions(pa.array(texts, pa.string()), len(texts), True)


def test_words_are_counted_once_a_caption():
    counts = word_counts(pa.array(["A fox, the fox!", "FOX 42 狐狸", "it is of a", None, ""]))
    assert counts == {"fox": 2, "狐狸": 1}


def test_concepts_are_shares_of_each_side():
    before, after = captions(*["red fox"] * 8, "owl", "owl"), captions("red fox", "owl")
    found = concepts(before, after, entries=None)
    assert [(one.name, one.before, one.after) for one in found.frequent] == [
        ("fox", 8000, 5000),
        ("red", 8000, 5000),
        ("owl", 2000, 5000),
    ]
    assert found.even_before < found.even_after == pytest.approx(3)
    assert found.gained == []  # the owl stood in two captions only, too few to say
    assert concepts(captions(), captions(), entries=["fox"]).even_before == 0


def test_languages_are_shares_of_each_side():
    english, german = "a small red fox sleeps in the garden", "ein kleiner roter Fuchs schläft im Garten"
    found = languages(captions(english, english, german, "42"), captions(english))
    assert [(each.code, each.before, each.after) for each in found] == [
        ("en", 0.5, 1.0),
        ("de", 0.25, 0),
        ("und", 0.25, 0),
    ]


def test_words_of_a_cloud_do_not_overlap():
    words = [(f"word{'s' * (i % 7)}", 100 - i) for i in range(60)] + [("狐狸", 1), ("x" * 200, 1)]
    placed = cloud(words)
    assert len(placed) > 40
    assert placed[0].word == "word"
    assert "x" * 200 not in [one.word for one in placed]
    boxes = [(one.x - 0.29 * one.size * len(one.word), one.y - 0.59 * one.size,
              one.x + 0.29 * one.size * len(one.word), one.y + 0.59 * one.size) for one in placed]  # fmt: skip
    for index, a in enumerate(boxes):
        assert 0 <= a[0] <= a[2] <= WIDTH
        assert 0 <= a[1] <= a[3] <= HEIGHT
        assert all(a[2] <= b[0] or a[0] >= b[2] or a[3] <= b[1] or a[1] >= b[3] for b in boxes[:index])
    assert cloud([]) == []


def test_a_language_rule_shows_in_the_sheet(tmp_path):
    texts = ["a small red fox sleeps in the garden", "ein kleiner roter Fuchs schläft im Garten"] * 4
    pq.write_table(pa.table({"key": [str(i) for i in range(8)], "caption": texts}), tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    curate(pool, steps=[("language", LanguageRule(languages="de"))], out=tmp_path / "out")
    text = write_datasheet(tmp_path / "out", pool=pool)[1].read_text()
    assert "| de | 50.0 % | 100.0 % |" in text
    assert "| en | 50.0 % | 0.0 % |" in text
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["by_step"][0]["kept"] == 4


def command(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(list(map(str, arguments)))
    return left.value.code


def test_the_command_writes_it_and_leaves_it(tmp_path, capsys):
    table = pa.table({"image": [encoded(1)] * 4, "caption": ["a fox", "an owl", "1.jpg", "a fox"]})
    pq.write_table(table, tmp_path / "pool.parquet")
    (tmp_path / "recipe.yaml").write_text("steps: [text_rules, {name: language, languages: [en], unknown: keep}]")
    arguments = ["curate", str(tmp_path / "pool.parquet"), "--recipe", str(tmp_path / "recipe.yaml"), "--workers", "1"]
    out = tmp_path / "out"
    assert command(*arguments, "--out", out) == 0
    assert str(out / "datasheet.html") in capsys.readouterr().out
    assert "steps: [text_rules" in (out / "datasheet.md").read_text()
    page = (out / "datasheet.html").read_text()
    assert "data:image/webp" in page
    (out / "datasheet.html").write_text("mine")
    assert command(*arguments, "--out", out) == 0
    assert (out / "datasheet.html").read_text() == "mine"
    assert command(*arguments, "--out", out, "--images", "blurred") == 0
    assert (out / "datasheet.html").read_text() == page
    assert command(*arguments, "--out", out, "--images", "yes")
    assert "--images: expected blurred, clear, none, got 'yes'" in capsys.readouterr().err
    assert command(*arguments, "--plan") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "pool.parquet", "recipe.yaml"]


def test_columns_named_by_hand_and_odd_folders(tmp_path, capsys):
    table = pa.table({"bild": [encoded(i) for i in range(4)], "satz": ["a fox", "an owl", "1.jpg", "a fox"]})
    pq.write_table(table, tmp_path / "pool.parquet")
    (tmp_path / "recipe.yaml").write_text("steps: [text_rules]")
    source = f"parquet:path={tmp_path / 'pool.parquet'},image=bild,caption=satz"
    pages = []
    for out, written_as in (("out", "parquet"), ("a[b]*? {0..3}{c}", "parquet"), ("t[b]*? {0..3}{c}", "webdataset")):
        arguments = ["--recipe", tmp_path / "recipe.yaml", "--workers", 1, "--format", written_as]
        assert command("curate", source, *arguments, "--out", tmp_path / out) == 0, capsys.readouterr().err
        pages.append((tmp_path / out / "datasheet.html").read_text())
    for page in pages:
        assert sprite_of(page).shape == sprite_of(pages[0]).shape
    assert sprite_of(pages[0]).shape[0] * sprite_of(pages[0]).shape[1] >= 4 * 64 * 64


def test_a_flag_on_what_is_dropped_later_is_not_among_the_kept(tmp_path):
    pq.write_table(pa.table({"caption": ["a fox", "a fox on a hill in the snow"]}), tmp_path / "pool.parquet")
    pool = open_pool(str(tmp_path / "pool.parquet"))
    steps = [("foxes", FlagFoxes()), ("rules", TextRules(characters=(10, 99)))]
    manifest = curate(pool, steps=steps, out=tmp_path / "out")
    assert manifest["by_step"][0]["flagged"] == 2
    text = write_datasheet(tmp_path / "out", pool=pool)[1].read_text()
    assert "**foxes**: 1 pairs" in text
