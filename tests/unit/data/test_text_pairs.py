"""Text pairs: tables of them, what a batch holds, pairs of captions of one image, and bad input."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tether.core.errors import InputError
from tether.core.types import ImageSpec, Row
from tether.data import open_source
from tether.data.contents import BatchContents
from tether.data.loader import Loader
from tether.data.sources.text_pairs import TextPairsSource
from tether.data.text_pairs import TextPairs
from tether.models.tokenizer import ClipTokenizer

LINES = [
    {"query": f"a thing {i}", "positive": f"thing number {i}", "negatives": [f"no thing {i}", f"thing {i} not"]}
    for i in range(6)
]


def jsonl(folder, lines, name="pairs.jsonl"):
    path = folder / name
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def write(folder, kind):
    if kind == "jsonl":
        return jsonl(folder, LINES)
    path = folder / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(LINES), path, row_group_size=4)
    elif kind == "csv":
        cells = [
            f'{one["query"]},{one["positive"]},"{json.dumps(one["negatives"])}"'.replace('["', '[""') for one in LINES
        ]
        cells = [line.replace('", "', '"", ""').replace('"]', '""]') for line in cells]
        path.write_text("\n".join(["query,positive,negatives", *cells]))
    else:
        rows = ["\t".join([one["query"], one["positive"], *one["negatives"]]) for one in LINES]
        path.write_text("\n".join(["anchor\tpos\tnegative_1\tnegative_2", *rows]))
    return str(path)


def loader(source, **more):
    settings = {"image_spec": ImageSpec((8, 8)), "tokenizer": ClipTokenizer(), "batch_size": 3, "seed": 0}
    return Loader(source, **settings, **more)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_every_kind_of_table_gives_the_same_pairs(tmp_path, kind):
    source = open_source({"name": "text_pairs", "path": write(tmp_path, kind)})
    assert isinstance(source, TextPairsSource)
    assert (len(source), source.negatives) == (6, 2)
    for number, line in enumerate(LINES):
        row = source.row(number)
        assert row.image is None
        assert (row.texts, row.meta["positive_texts"]) == ((line["query"],), (line["positive"],))
        assert row.meta["negative_texts"] == (tuple(line["negatives"]),)


def test_a_text_may_begin_with_a_bracket(tmp_path):
    texts = ("[bold]x[/bold]", "[x", "[1]", '["y"]')
    lines = [{"query": "q", "positive": "p", **{f"negative_{n}": text for n, text in enumerate(texts)}}]
    assert TextPairsSource(jsonl(tmp_path, lines)).row(0).meta["negative_texts"] == (texts,)
    table = tmp_path / "pairs.csv"
    table.write_text("query,positive,negative_0,negative_1\nq,p,[bold]x[/bold],[1]\n")
    assert TextPairsSource(str(table)).row(0).meta["negative_texts"] == (("[bold]x[/bold]", "[1]"),)


def test_a_batch_has_the_positive_and_the_negatives_of_each_query(tmp_path):
    contents = BatchContents(images=False, pairs={"negatives": 2})
    batch = next(loader(TextPairsSource(jsonl(tmp_path, LINES)), contents=contents))
    read = {line["query"]: line for line in LINES}
    tokens = ClipTokenizer()
    for row, query in enumerate(batch.extra["texts"]):
        for name, texts in (("positive_text", [read[query]["positive"]]), ("negative_text", read[query]["negatives"])):
            mine = batch.extra[name].view(3, len(texts), -1)[row]
            wanted = tokens(texts)
            assert {tuple(ids[ids != 0].tolist()) for ids in mine} == {tuple(ids[ids != 0].tolist()) for ids in wanted}


def test_fewer_negatives_than_there_are_differ_from_visit_to_visit():
    row = Row("x", None, ("q",), {"positive_texts": ("p",), "negative_texts": (("a", "b", "c"),)})
    drawn = [TextPairs(negatives=2).texts([row], said=["q"], draws=[draw])["negative_text"] for draw in range(40)]
    assert all(len(set(texts)) == 2 for texts in drawn)
    assert {text for texts in drawn for text in texts} == {"a", "b", "c"}


def test_pairs_of_one_group_are_one_row(tmp_path):
    lines = [{**line, "scene": number // 2} for number, line in enumerate(LINES)]
    source = TextPairsSource(jsonl(tmp_path, lines), group="scene")
    assert [row.texts for row in map(source.row, range(len(source)))] == [
        (lines[n]["query"], lines[n + 1]["query"]) for n in (0, 2, 4)
    ]
    read, seen = {line["query"]: line for line in lines}, set()
    batches = loader(source, contents=BatchContents(images=False, pairs={"negatives": 1}))
    for _ in range(10):
        batch = next(batches)
        assert len({read[query]["scene"] for query in batch.extra["texts"]}) == 3
        seen |= set(batch.extra["texts"])
    assert seen == set(read)


def test_one_query_with_several_answers_has_each_of_them_in_turn(tmp_path):
    lines = [{"query": "q", "positive": f"p{number}"} for number in range(3)]
    row = TextPairsSource(jsonl(tmp_path, lines), group="query").row(0)
    found = {TextPairs().texts([row], said=["q"], draws=[draw])["positive_text"][0] for draw in range(40)}
    assert found == {"p0", "p1", "p2"}


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_two_captions_of_one_image_are_a_pair_and_never_the_same_one():
    source = open_source("scenes:rows=12,captions=both")
    batches = loader(source, contents=BatchContents(images=False, pairs={}))
    captions = {row.key: row.texts for block in source.blocks() for row in source.read(block)}
    tokens = ClipTokenizer()
    for _ in range(4):
        batch = next(batches)
        for row, (key, said) in enumerate(zip(batch.extra["keys"], batch.extra["texts"], strict=True)):
            (other,) = set(captions[key]) - {said}
            mine = batch.extra["positive_text"][row]
            assert tuple(mine[mine != 0].tolist()) == tuple(tokens([other])[0].tolist())


def test_an_image_with_one_caption_is_a_bad_row(tmp_path):
    log = tmp_path / "bad.jsonl"
    rows = [*LINES, {"query": "alone", "positive": "x", "negatives": ["y", "z"]}]
    path = tmp_path / "captions.csv"
    path.write_text(
        "\n".join(["caption,other", *[f"{one['query']},{one['positive']}" for one in rows[:-1]], "alone,alone"])
    )
    source = open_source({"name": "csv", "path": str(path), "image": "none", "caption": ["caption", "other"]})
    batches = loader(source, contents=BatchContents(images=False, pairs={}), on_bad=log)
    said = [text for _ in range(8) for text in next(batches).extra["texts"]]
    assert "alone" not in said
    assert "expected two different captions" in log.read_text()


@pytest.mark.parametrize(
    ("lines", "settings", "said"),
    [
        (
            [*LINES[:2], {"query": " ", "positive": "x", "negatives": ["y", "z"]}],
            {},
            "line 3: query: expected a text, got an",
        ),
        ([{"query": "x", "positive": "", "negatives": []}], {}, "line 1: positive: expected a text, got an empty one"),
        ([{"query": "x", "positive": None}], {}, "line 1: positive: expected a text, got None"),
        ([LINES[0], {"query": "x", "positive": "y"}], {}, "line 2: expected 2 hard negatives, as in .*line 1, got 0"),
        ([LINES[0], {**LINES[1], "negatives": ["y"]}], {}, "line 2: expected 2 hard negatives, as in .*line 1, got 1"),
        ([{**LINES[0], "negatives": ["y", " "]}], {}, "line 1: negatives: expected a text, got an empty one"),
        (
            [{**LINES[0], "negatives": 3.5}, {**LINES[0], "negatives": {"a": 1}}],
            {},
            "line 2: negatives: expected a caption",
        ),
        (LINES, {"group": "scene"}, "no column 'scene' for the text pairs"),
        (LINES, {"negatives": ["wrong"]}, "no column 'wrong'"),
        ([{"a": "b"}], {}, "no column of the query found; say query=NAME; known: a"),
        ([{"query": "b"}], {}, "no column of the positive found; say positive=NAME"),
        ([{**LINES[0], "scene": ""}], {"group": "scene"}, "line 1: scene: expected a text, got an empty one"),
    ],
)
def test_bad_tables_name_the_file_and_the_line(tmp_path, lines, settings, said):
    with pytest.raises(InputError, match=said) as caught:
        TextPairsSource(jsonl(tmp_path, lines), **settings)
    assert "pairs.jsonl" in str(caught.value)


def test_lines_that_are_no_json_and_files_without_lines(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "positive": "b"}\n{"query": \n')
    with pytest.raises(InputError, match=r"pairs\.jsonl: line 2: not JSON"):
        TextPairsSource(str(path))
    (tmp_path / "pairs.csv").write_text("query,positive\n")
    with pytest.raises(InputError, match=r"pairs\.csv: the data set is empty"):
        TextPairsSource(str(tmp_path / "pairs.csv"))


def test_a_batch_that_wants_more_negatives_than_there_are(tmp_path):
    source = TextPairsSource(jsonl(tmp_path, LINES))
    contents = BatchContents(images=False, pairs={"negatives": 3})
    with pytest.raises(InputError, match=r"pairs\.jsonl:.*: expected 3 hard negatives of 'a thing .', got 2"):
        next(loader(source, contents=contents, strict=True))


def test_a_caption_in_other_words_has_no_known_answer(tmp_path):
    from tether.data.captions import SomeSentences

    contents = BatchContents(images=False, pairs={})
    with pytest.raises(InputError, match="pairs: expected caption first, first_often or random, got 'a thing'"):
        next(loader(TextPairsSource(jsonl(tmp_path, LINES)), contents=contents, caption=SomeSentences(most_words=2)))
