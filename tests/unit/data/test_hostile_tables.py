"""Tables and archives from anyone: a bad row is skipped and named, a bad file is refused by name, nothing else."""

import bz2
import contextlib
import gzip
import json
import lzma
import os
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tether
from tables import Listed, rows_of, square, tarred
from tether.core.errors import InputError
from tether.core.types import ImageSpec, Row
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.curate.pools.opening import open_pool
from tether.data.in_order import ordered
from tether.data.loader import Loader
from tether.data.shuffle import reason_against
from tether.data.sources import caption_table
from tether.data.sources.parquet_pages import Pages
from tether.data.sources.webdataset import WebDatasetSource
from tether.models import create
from tether.tasks.retrieve.embed import embed


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("told", ["no", "0", ""])
def test_a_column_called_bad_is_a_column_like_others(tmp_path, kind, told):
    (tmp_path / "a.png").write_bytes(square())
    columns = {"image": ["a.png"], "caption": ["a cat"], "bad": [told]}
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        path.write_text(f"image,caption,bad\na.png,a cat,{told}\n")
    else:
        pq.write_table(pa.table(columns), path)
    (row,) = rows_of(open_source(str(path)))
    assert (row.texts, dict(row.meta), row.bad) == (("a cat",), {"bad": told}, "")
    assert reason_against(row, need_text=True) is None
    assert len(list(ordered(open_source(str(path)), image_spec=ImageSpec((8, 8)), batch_size=1))) == 1
    pool = open_pool(str(path))
    (rows,) = pool.read(0, columns="all", extra=["bad"])
    assert (rows.extra["bad"].to_pylist(), rows.bad) == ([told], ())
    assert "bad" in pool.column_names()


def packed(path, *parts, mode="gz"):
    """A compressed tar: a whole row, then headers with what follows them."""
    opener = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[mode]
    with opener(path, "wb") as file:
        for name, kind, data in (("a.png", b"0", square()), ("a.txt", b"0", b"a cat"), *parts):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(10240))
    return str(path)


MANY = bytes(5 << 20)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize(
    ("part", "why"),
    [
        (("././@LongLink", b"L", MANY[: 2 << 20]), "a header of more than"),
        (("././@PaxHeader", b"x", MANY[: 2 << 20]), "a header of more than"),
        (("b.bin", b"0", MANY), "unpacks to more than 100 times its size"),
    ],
)
def test_a_small_tar_does_not_unpack_without_end(tmp_path, part, why, mode, monkeypatch):
    monkeypatch.setattr("tether.data.archives.FREE_BYTES", 4 << 20)
    source = WebDatasetSource(packed(tmp_path / "a.tgz", part, mode=mode))
    rows = source.read(source.blocks()[0])
    assert next(rows).texts == ("a cat",)
    with pytest.raises(InputError, match=rf"a\.tgz: the tar is broken after . rows: {why}"):
        list(rows)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("b.txt", MANY[: 5 << 20], "more than 4194304 are refused"),
        ("b.json", MANY[: 5 << 20], "more than 4194304 are refused"),
        ("b.json", b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
        ("b.json", b"[" * 100_000, "nested too deeply"),
        ("b.json", b'{"\\ud83d": 1}', "not Unicode"),
        ("b.json", b"\xff", "not Unicode"),
    ],
)
def test_a_member_that_cannot_be_used_makes_its_row_bad(tmp_path, name, data, why):
    path = packed(tmp_path / "a.tgz", ("b.png", b"0", square()), (name, b"0", data), ("c.cls", b"0", b"9" * 5000))
    good, bad, number = rows_of(WebDatasetSource(path))
    assert (good.texts, good.bad) == (("a cat",), "")
    assert why in bad.bad
    assert number.meta["label"] == "9" * 5000


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xfei\x00m\x00a\x00g\x00e\x00,\x00t\x00\n\x00", "not a table in UTF-8"),
        (bytes(range(256)) * 8, "not a table in UTF-8"),
        (b"image,caption\na.png," + b"x" * (17 << 20), "a row of more than"),
        (b"image," * 20_000, "20001 columns"),
    ],
    ids=["utf-16", "binary", "long", "wide"],
)
def test_what_is_no_csv_is_refused_by_name(tmp_path, data, why):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"t\.csv.*{why}"):
        rows_of(open_source(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("line", [b"b.png,a\xff", b"\xff.png,a", b"b.png,a,b", b"a\x00.png", b'b.png,"never closed\nb'])
def test_one_bad_line_of_a_csv_is_one_bad_row(tmp_path, line):
    (tmp_path / "t.csv").write_bytes(b"image,caption\na.png,a cat\n" + line)
    good, bad = rows_of(open_source(str(tmp_path / "t.csv")))
    assert (good.texts, good.bad) == (("a cat",), "")
    assert bad.bad or bad.texts == ("never closed\nb",)


JSONL = (
    b'{"file_name": "a.png", "text": "a cat"}\n',
    b'{"file_name": "a.png", "n": ' + b"9" * 5000 + b"}\n",
    b"[" * 100_000 + b"\n",
    b'{"file_name": "\\ud83d"}\n',
    b'{"file_name": "a.png", "text": "\\ud83d"}\n',
    b'{"file_name": "\xff"}\n',
    b'{"file_name": "a.png", "text": {"deep": 1}}\n',
)


def test_one_bad_line_of_metadata_is_one_bad_row(tmp_path):
    (tmp_path / "a.png").write_bytes(square())
    (tmp_path / "metadata.jsonl").write_bytes(b"".join(JSONL))
    good, *bad = rows_of(open_source(str(tmp_path)))
    assert (good.texts, good.bad) == (("a cat",), "")
    assert [row.key for row in bad] == [f"metadata.jsonl:{number}" for number in range(2, 8)]
    (tmp_path / "metadata.jsonl").unlink()
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text,more\na.png,a cat,x\na.png,\xff,x\na.png,x,\xff\n,\x00,\n")
    good, *bad = rows_of(open_source(str(tmp_path)))
    assert (good.texts, len(bad)) == (("a cat",), 3)


def captions(folder, text, *, name="captions.csv"):
    """The rows of a folder with one image ``a.png`` and a table."""
    (folder / "a.png").write_bytes(square())
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return rows_of(open_source(str(folder)))


@pytest.mark.parametrize(
    ("lines", "where", "what"),
    [
        ('a.png,"two\na.png,three\n', 3, "a quote is not closed"),
        ('a.png,"two\na.png,three\na.png,"four"\n', 3, "expected after"),
        ("a.png," + "x" * (17 << 20) + "\na.png,three\n", 3, "a row of more than 16,777,216 characters"),
        ('a.png,"' + "x" * (17 << 20) + "\na.png,three\n", 3, "a row of more than 16,777,216 characters"),
        ('a.png,"x\n' + "y" * (17 << 20) + "\na.png,three\n", 3, "a row of more than 16,777,216 characters"),
    ],
)
def test_a_quote_that_is_not_closed_is_one_bad_line(tmp_path, lines, where, what):
    good, first, *_ = captions(tmp_path, f"image,caption\na.png,one\n{lines}")
    assert (good.texts[0], "three" in good.texts) == ("one", True)
    assert (first.key, what in first.bad) == (f"captions.csv:{where}", True)


def test_a_caption_of_several_lines_and_a_long_one_are_read(tmp_path):
    (row,) = captions(tmp_path, f'image,caption\na.png,"one\ntwo"\n\na.png,{"x" * 200_000}\n')
    assert [len(text) for text in row.texts] == [7, 200_000]


def test_quotes_that_are_never_closed_are_not_read_over_and_over(tmp_path, monkeypatch):
    text = "image,caption\n" + 'a.png,"x\na.png,b\n' * 200 + 'a.png,"end'
    good, *bad = captions(tmp_path, text)
    assert (good.texts, len(bad)) == (("b",) * 200, 201)
    monkeypatch.setattr(caption_table, "_MOST_AGAIN", 100)
    good, *bad = captions(tmp_path, text)
    assert len(bad) < 110


def test_quotes_within_a_cell_are_read(tmp_path):
    (row,) = captions(tmp_path, 'image,caption\na.png,"a "red" cat"\na.png,a 3" nail\na.png,"say ""cat"""\n')
    assert row.texts == ('a red" cat"', 'a 3" nail', 'say "cat"')


def test_many_bad_lines_are_named_up_to_a_number_and_counted(tmp_path):
    good, *bad = captions(tmp_path, "image,caption\na.png,x\n" + "a,\n" * 200_000)
    assert good.texts == ("x",)
    assert len(bad) == 1001
    assert bad[0].bad.endswith("captions.csv: line 3: it names 'a', which is not there")
    assert bad[-1].bad == "199,000 lines more of the metadata files cannot be used"


def test_more_lines_or_columns_than_are_read_are_refused(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"captions\.csv: more than 10,000 columns"):
        captions(tmp_path, ",".join(f"c{at}" for at in range(10_001)) + "\n" + "x\n" * 100)
    (tmp_path / "captions.csv").unlink()
    with pytest.raises(InputError, match=r"metadata\.jsonl: more than 10,000 columns"):
        captions(tmp_path, "".join(f'{{"c{at}": 1}}\n' for at in range(10_001)), name="metadata.jsonl")
    monkeypatch.setattr(caption_table, "_MOST_LINES", 100)
    with pytest.raises(InputError, match=r"metadata\.jsonl: more than 100 lines"):
        captions(tmp_path, "{}\n" * 101, name="metadata.jsonl")


def test_deep_cells_of_metadata_are_bad_rows(tmp_path):
    deep = "[" * 900 + "]" * 900
    lines = ['"text": "fine", "n": [[1]]', f'"text": {deep}', f'"text": "b", "more": {deep}']
    text = "".join(f'{{"file_name": "a.png", {line}}}\n' for line in lines)
    good, *bad = captions(tmp_path, text, name="metadata.jsonl")
    assert (good.texts, good.meta) == (("fine",), {"n": [[1]]})
    assert ["line 2" in bad[0].bad, "line 3: column 'more': lists in more than 16" in bad[1].bad] == [True, True]


def test_deep_json_of_a_tar_is_a_bad_row(tmp_path):
    deep = b'{"caption": "a", "more": ' + b"[" * 200 + b"]" * 200 + b"}"
    files = [("a.png", square()), ("a.json", deep), ("b.png", square()), ("b.json", b'{"caption": "b"}')]
    bad, good = rows_of(open_source(str(tarred(tmp_path / "a.tar", files))))
    assert ("the .json holds lists in more than 16 levels" in bad.bad, good.texts) == (True, ("b",))


def test_a_column_without_a_name_is_one(tmp_path):
    (row,) = captions(tmp_path, ",file_name,caption\n0,a.png,one\n1,a.png,two\n")
    assert (row.texts, row.meta) == (("one", "two"), {"": "1"})


def test_long_cells_are_cut_in_messages(tmp_path):
    _, bad = captions(tmp_path, f"image,caption\n{'x' * 100_000},one\n")
    assert len(bad.bad) < 400 + len(str(tmp_path))
    with pytest.raises(InputError, match=r"no column of images found.*csv:path=.*captions.csv,image=NAME") as caught:
        captions(tmp_path, f"{'x' * 100_000},one\na,b\n")
    assert len(str(caught.value)) < 600 + 2 * len(str(tmp_path))


def test_a_file_whose_name_is_not_utf8_is_used_under_a_name_that_is(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xfe")
    try:
        (folder / os.fsdecode(b"caf\xe9")).mkdir(parents=True)
        for name in (b"a.png", b"caf\xe9/\xff.png"):
            (folder / os.fsdecode(name)).write_bytes(square(9))
    except OSError:  # a file system that knows no such names
        return
    (folder / os.fsdecode(b"caf\xe9/\xff.txt")).write_text("a cat")
    source, escaped = open_source(str(folder)), "caf\\udce9/\\udcff.png"
    rows = {row.key: row for row in rows_of(source)}
    assert (rows[escaped].texts, rows[escaped].meta["label"]) == (("a cat",), "caf\\udce9")
    (((row, _), pixels),) = ordered(source, image_spec=ImageSpec((8, 8)), batch_size=2)
    assert (row.key, int(pixels[1].max())) == ("a.png", 9)
    model = create("tiny", seed=0)
    batch = next(Loader(source, tokenizer=model.tokenizer, image_spec=model.image_spec, batch_size=1, seed=0))
    assert batch.extra["keys"] == [escaped]
    table = next(iter(open_pool(str(folder)).read(0, columns="all"))).table
    assert table.column("image").to_pylist()[1] == {"bytes": square(9), "path": "\\udcff.png"}
    found = embed(source, model=model, model_name="tiny", out=tmp_path / "e.parquet")
    assert pq.read_table(found.path)["key"].to_pylist() == ["a.png", escaped]
    tether.classify(source, ["cat", "dog"], model=model, top=1).save(tmp_path / "l.csv")
    assert escaped in (tmp_path / "l.csv").read_text(encoding="utf-8")


def test_bad_rows_are_named_in_valid_json(tmp_path):
    account = BadRows("caf\udce9", path=tmp_path / "bad.jsonl")
    account.add("k\udcff\n\x1b", "why \ud83d")
    (line,) = (tmp_path / "bad.jsonl").read_bytes().decode().splitlines()
    assert json.loads(line) == {"source": "caf\\udce9", "key": "k\\udcff\n\x1b", "error": "why \\ud83d"}
    account.add("a\u2028b", "a line break that JSON leaves as it is")
    assert BadRows("x", path=tmp_path / "bad.jsonl").count == 2


def parquet(path, rows=3, **columns):
    table = {"image": pa.array([square()] * rows), "caption": ["a cat"] * rows, **columns}
    pq.write_table(pa.table(table), path, compression="zstd", write_statistics=False)
    return str(path)


def repeated(text, times):
    """A column of one text, which costs next to nothing in a file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([text]))


@pytest.mark.parametrize("kind", ["cells", "list"])
@pytest.mark.parametrize("stored", ["dictionary", "text"])
def test_a_small_parquet_file_does_not_unpack_without_end(tmp_path, kind, stored):
    """300 texts of a mebibyte in a kilobyte, one in each row or all in the first."""
    texts = repeated("a" * (1 << 20), 300)
    column = texts if kind == "cells" else pa.ListArray.from_arrays(pa.array([0] + [300] * 300, pa.int32()), texts)
    path = parquet(tmp_path / "t.parquet", rows=300, caption=column)
    if stored == "text":  # as other programs write it, without Arrow's own schema
        table = pq.read_table(path)
        pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False)
    source = open_source(path)
    with pytest.raises(InputError, match=r"t\.parquet: row group 0 breaks after \d+ of 300 rows: "):
        rows_of(source)


def test_a_page_too_large_for_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = parquet(tmp_path / "t.parquet", caption=["a" * (1 << 22)] * 3)
    assert len(rows_of(open_source(path))) == 3
    monkeypatch.setattr("tether.data.sources.parquet_file._MOST_PAGES", 1 << 20)
    with pytest.raises(InputError, match=r"t\.parquet: row group 0 .*pages that unpack to 4,"):
        rows_of(open_source(path))


def test_what_the_pages_say_bounds_what_neighbouring_rows_hold():
    pages = Pages(10, 0, ((5, 10), (1, 7), (5, 10), (0, 3)))
    assert [pages.most_bytes(count) for count in (1, 2, 3, 11)] == [10, 17, 27, 30]
    assert Pages(10, 4, ((5, 10),)).most_bytes(3, width=8) == 34


def test_any_damage_to_a_parquet_file_is_told_by_its_name(tmp_path):
    """A small part of a longer search; errors of any other kind than ours end it."""
    whole = tmp_path / "t.parquet"
    parquet(
        whole, rows=20, n=list(range(20)), tags=[["a", "b"]] * 20, when=pa.array([0] * 20, pa.timestamp("ms", "UTC"))
    )
    data, rng = whole.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in rng.integers(len(data) - 700 if rng.random() < 0.5 else 0, len(data), rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(8)
        whole.write_bytes(damaged[: rng.integers(len(data))] if rng.random() < 0.1 else damaged)
        for read in (lambda: rows_of(open_source(str(whole))), lambda: [*open_pool(str(whole)).read(0, columns="all")]):
            with contextlib.suppress(InputError):
                read()


@pytest.mark.parametrize("name", ["x" * 5000, "a\0.png"])
def test_a_name_that_no_file_can_have_is_a_bad_row(tmp_path, name):
    (tmp_path / "t.csv").write_text(f"image,caption\n{name},a cat\n")
    (rows,) = open_pool(str(tmp_path / "t.csv")).read(0, columns="all")
    assert (len(rows.keys), len(rows.bad)) == (0, 1)


def test_a_paper_of_more_latex_than_anyone_writes_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.methods.scientific_papers.tex.CAPTIONS", 2000)
    figure = rb"\begin{figure}\includegraphics{a.png}\caption{A cat}\end{figure}"
    long = figure.replace(b"A cat", b"words " * 200) * 3
    for name, text in (("one.tar", figure), ("two.tar", figure + b" " * (1 << 21)), ("three.tar", long)):
        tarred(tmp_path / name, (("a.png", square()), ("a.tex", text)))
    rows = rows_of(open_source({"name": "figures", "path": str(tmp_path)}))
    assert [(row.texts, row.bad.partition(" (")[0]) for row in rows] == [
        (("A cat",), ""),
        ((), "caption of 'a.png': more than 2000 characters in all captions of the file"),
        ((), "more than 2,097,152 bytes of LaTeX, or four times that of XML"),
    ]


def test_the_name_of_a_negative_image_is_not_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(square())
    (tmp_path / "t.csv").write_text(f"image,caption,negative_image\na.png,a cat,{tmp_path / 'a.png'}\n")
    model, source = create("tiny", seed=0), open_source(str(tmp_path / "t.csv"))
    batches = Loader(source, tokenizer=model.tokenizer, image_spec=model.image_spec, batch_size=1, seed=0)
    with pytest.raises(InputError, match="no good row"):
        next(batches)
    assert "got a text" in batches.bad.latest


def test_what_a_row_holds_beside_its_image_counts_as_memory():
    source = Listed([Row(f"k{n}", b"x", ("a cat",), {"n": [[]] * 1000}) for n in range(100)])
    settings = {"tokenizer": create("tiny", seed=0).tokenizer, "image_spec": ImageSpec((8, 8)), "seed": 0}
    assert Loader(source, batch_size=1, **settings).rows == 100
    assert Loader(source, batch_size=1, memory=100_000, **settings).rows is None


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
def test_a_saved_data_set_with_compressed_batches_is_refused(tmp_path, compression, dictionary):
    datasets = pytest.importorskip("datasets")
    pixels, texts = square(), pa.array(["a cat"] * 3)
    datasets.Dataset.from_dict({"image": [pixels] * 3, "caption": ["a cat"] * 3}).save_to_disk(str(tmp_path / "d"))
    (file,) = (tmp_path / "d").glob("*.arrow")
    table = pa.table({"image": [pixels] * 3, "caption": texts.dictionary_encode() if dictionary else texts})
    with pa.ipc.new_stream(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as out:
        out.write_table(table)
    if compression is None:
        assert len(rows_of(open_source(f"hf:{tmp_path}/d"))) == 3
    else:
        with pytest.raises(InputError, match=r"arrow: its batches are compressed"):
            open_source(f"hf:{tmp_path}/d")
    file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2])
    with pytest.raises(InputError, match=r"arrow"):
        open_source(f"hf:{tmp_path}/d")


def test_a_damaged_saved_data_set_is_refused_and_neither_crashes_nor_hangs(tmp_path):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [square()] * 3, "text": ["one", "two", "three"]}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.arrow")
    sound = file.read_bytes()
    offsets = struct.pack("<4i", 0, 3, 6, 11)
    assert sound.count(offsets) == 1
    file.write_bytes(
        sound.replace(offsets, struct.pack("<4i", 0, 8_034_561, 6, 11))
    )  # Arrow would read beyond the file
    source = open_source(f"hf:{tmp_path / 'saved'}")
    with pytest.raises(InputError, match="block 000000000000 breaks after 0 rows"):
        list(source.read(source.blocks()[0]))
    file.write_bytes(b"")
    with pytest.raises(InputError, match="empty, not an Arrow stream"):
        open_source(f"hf:{tmp_path / 'saved'}")
