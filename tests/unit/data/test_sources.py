"""Data as other people leave it: columns, encodings, text files beside images, URLs."""

import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables import rows_of, square, tarred
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.images import decode
from tether.data.opening import plain
from tether.data.paths import files
from tether.data.sources.columns import Reach, make_row
from tether.data.sources.csv import CsvSource
from tether.data.sources.hf import HuggingFaceSource
from tether.data.sources.images import ImageFolderSource
from tether.data.sources.parquet import ParquetSource

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of datasets' own files


def some_png(number=0, kind="PNG"):
    return square(number * 5, kind)


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


# Parquet


def test_parquet_takes_bytes_structs_and_paths(tmp_path):
    (tmp_path / "p.png").write_bytes(some_png(3))
    structs = [{"bytes": some_png(3), "path": None}, {"bytes": None, "path": "p.png"}]
    for name, image in (
        ("image", structs),
        ("jpg", [some_png(3)] * 2),
        ("filepath", ["p.png", str(tmp_path / "p.png")]),
    ):
        path = write(tmp_path / f"{name}.parquet", **{name: image, "title": ["a", "b"], "score": [1, 2]})
        rows = rows_of(open_source(path))
        assert [row.texts for row in rows] == [("a",), ("b",)]
        assert [dict(row.meta) for row in rows] == [{"score": 1}, {"score": 2}]
        assert all(decode(row.image)[0, 0, 0] == 15 for row in rows)
        assert [row.key for row in rows] == [f"{name}.parquet:0", f"{name}.parquet:1"]


def test_parquet_takes_lists_and_several_columns_of_captions(tmp_path):
    path = write(tmp_path / "a.parquet", image=[some_png()], captions=[["one", "two"]], alt=["three"], key=["k"])
    assert rows_of(ParquetSource(path))[0].texts == ("one", "two")
    row = rows_of(ParquetSource(path, caption=("alt", "captions"), columns=()))[0]
    assert (row.texts, row.key, dict(row.meta)) == (("three", "one", "two"), "k", {})
    assert rows_of(ParquetSource(path, image="none"))[0].image is None


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"image": "imgae"}, "did you mean 'image'"),
        ({"caption": "capion"}, "did you mean 'caption'"),
        ({"key": "idd"}, "no column 'idd' for the key"),
        ({"columns": ("scroe",)}, "did you mean 'score'"),
    ],
)
def test_a_misspelt_column_lists_what_is_there(tmp_path, settings, what):
    path = write(tmp_path / "a.parquet", image=[some_png()], caption=["a"], score=[1])
    with pytest.raises(InputError, match=what) as caught:
        ParquetSource(path, **settings)
    assert "caption, image, score" in str(caught.value)


def test_parquet_without_images_rows_or_sense(tmp_path):
    with pytest.raises(InputError, match=r"no column of images.*image=NAME.*known: a, b"):
        ParquetSource(write(tmp_path / "a.parquet", a=[1], b=[2]))
    with pytest.raises(InputError, match="empty"):
        ParquetSource(write(tmp_path / "b.parquet", image=pa.array([], pa.binary())))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"c\.parquet: not a Parquet file"):
        ParquetSource(str(tmp_path / "c.parquet"))
    write(tmp_path / "d.parquet", image=[some_png()], caption=["a"])
    write(tmp_path / "e.parquet", image=[some_png()])
    with pytest.raises(InputError, match=r"e\.parquet: columns \['caption'\]"):
        ParquetSource(str(tmp_path / "[de].parquet"))


def test_parquet_texts_that_are_not_utf8_are_bad_rows(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    for name, column in (("text", text), ("caption", raw)):
        path = write(tmp_path / f"{name}.parquet", **{"image": [some_png()] * 2, name: column})
        good, bad = rows_of(ParquetSource(path))
        assert good.texts == ("fine",)
        assert "not UTF-8" in bad.bad
        assert bad.key.endswith(":1")


def test_a_damaged_row_group_is_named_and_the_others_are_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 500), dtype=np.uint8)
    table = pa.table({"image": [row.tobytes() for row in noise], "caption": ["x"] * 40})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=20, compression="zstd")
    data = bytearray(path.read_bytes())
    data[20:6000] = bytes(5980)
    path.write_bytes(data)
    source = ParquetSource(str(path))
    with pytest.raises(InputError, match="row group 0 breaks"):
        list(source.read(source.blocks()[0]))
    assert len(list(source.read(source.blocks()[1]))) == 20


def test_the_version_follows_the_content_and_the_settings(tmp_path):
    path = write(tmp_path / "a.parquet", image=[some_png()], caption=["a"], other=["b"])
    first = ParquetSource(path).version
    assert ParquetSource(path).version == first
    assert ParquetSource(path, caption="other").version != first
    write(tmp_path / "a.parquet", image=[some_png()] * 2, caption=["a"] * 2, other=["b"] * 2)
    assert ParquetSource(path).version != first


# CSV


@pytest.mark.parametrize(("name", "mark"), [("a.csv", "\t"), ("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
def test_csv_as_open_clip_reads_it(tmp_path, name, mark):
    (tmp_path / "p.png").write_bytes(some_png(2))
    lines = [
        ("filepath", "title", "n"),
        ("p.png", '"a ""quoted"" name"', "1"),
        ("q.png", "b", "2"),
        ("p.png", "c", "3"),
    ]
    (tmp_path / name).write_text("\ufeff" + "\n".join(mark.join(line) for line in lines) + "\n", encoding="utf-8")
    rows = rows_of(open_source(str(tmp_path / name)))
    assert [(row.key, row.texts, row.meta["n"]) for row in rows] == [
        ("p.png", ('a "quoted" name', "c"), "1"),
        ("q.png", ("b",), "2"),
    ]
    assert decode(rows[0].image)[0, 0, 0] == 10
    alone = rows_of(CsvSource(str(tmp_path / name), group="none"))
    assert [(row.key, row.texts) for row in alone] == [
        (f"{name}:2", ('a "quoted" name',)),
        (f"{name}:3", ("b",)),
        (f"{name}:4", ("c",)),
    ]


def test_csv_paths_may_start_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "p.png").write_bytes(some_png(2))
    (tmp_path / "lists" / "a.csv").write_text("filepath,title\np.png,a\n")
    monkeypatch.chdir(tmp_path)
    assert decode(rows_of(CsvSource("lists/a.csv", root="."))[0].image).shape == (3, 6, 6)
    assert decode(rows_of(CsvSource("lists/a.csv", root=str(tmp_path)))[0].image).shape == (3, 6, 6)


def test_csv_lines_that_do_not_fit_are_bad_rows(tmp_path):
    data = b"filepath,title\na.png,fine\nb.png\nc.png,x,y\nd.png,caf\xe9\n\ne.png,\n\xff.png,z\n"
    (tmp_path / "a.csv").write_bytes(data)
    rows = rows_of(CsvSource(str(tmp_path / "a.csv")))
    assert [row.bad or row.texts for row in rows[:3]] == [
        ("fine",),
        "line 3 has 1 columns, the header has 2",
        "line 4 has 3 columns, the header has 2",
    ]
    assert "not UTF-8" in rows[3].bad
    assert rows[4].texts == ("",)
    assert "not UTF-8" in rows[5].bad
    account = BadRows("csv", path=tmp_path / "bad.jsonl")
    account.add(rows[5].key, rows[5].bad)
    assert json.loads((tmp_path / "bad.jsonl").read_text())["key"] == "a.csv:8"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "the file is empty"),
        ("filepath,title\n", "the data set is empty"),
        ("a,b\n1,2\n", r"no column of images.*known: a, b"),
    ],
)
def test_csv_without_header_rows_or_images(tmp_path, text, what):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=what):
        rows_of(CsvSource(str(tmp_path / "a.csv")))


def test_usual_names_of_columns_in_other_languages(tmp_path):
    (tmp_path / "p.png").write_bytes(some_png())
    for header in ("file;caption;place", "Foto;Beschreibung;Ort", "bild;Titel;Ort", "imagen;descripción;lugar"):
        (tmp_path / "a.csv").write_text(f"{header}\np.png;a cat;here\n", encoding="utf-8")
        (row,) = rows_of(CsvSource(str(tmp_path / "a.csv")))
        assert (row.texts, row.bad, row.image) == (("a cat",), "", tmp_path / "p.png")


def test_long_names_and_many_columns_are_cut_in_errors(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"{at}{'x' * 300}" for at in range(50)) + "\n")
    with pytest.raises(InputError, match=r"a\.csv,image=NAME,.*; known: 0x+\.\.\., .*and 10 more") as caught:
        CsvSource(str(path))
    assert "x" * 201 not in str(caught.value)
    path.write_text(f"image,caption\n../{'y' * 3000},a\n{'z' * 100_000},b\n")
    for row in rows_of(CsvSource(str(path))):
        assert row.bad
        assert len(row.bad) < 400 + len(str(tmp_path))


def test_a_column_of_lists_in_lists_is_a_bad_row():
    deep = []
    for _ in range(900):
        deep = [deep]
    for captions, meta in (([deep], {}), (["a"], {"deep": deep}), (["a"], {"deep": {"er": deep}})):
        row = make_row("k", image=None, captions=captions, meta=meta, reach=Reach(("",)))
        assert "lists in more than 16 levels" in row.bad
    assert make_row("k", image=None, captions=[[["a"], "b"]], meta={"n": [[1]]}, reach=Reach(("",))).texts == ("a", "b")


# Folders


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "photos"
    secret.mkdir()
    folder.mkdir()
    (secret / "s.txt").write_text("secret words")
    (secret / "s.png").write_bytes(some_png(0))
    (folder / "a.png").write_bytes(some_png(0))
    (folder / "a.txt").symlink_to(secret / "s.txt")
    (folder / "b.png").symlink_to(secret / "s.png")
    source = open_source(str(folder))
    rows = rows_of(source)
    assert [bool(row.bad) for row in rows] == [True, True]
    assert all("outside" in row.bad and "root=FOLDER" in row.bad for row in rows)
    source = open_source({"name": "images", "path": str(folder), "root": str(secret)})
    assert [row.texts for row in rows_of(source)] == [("secret words",), ()]
    (folder / "metadata.csv").symlink_to(secret / "s.txt")
    with pytest.raises(InputError, match=r"metadata\.csv: outside"):
        open_source(str(folder))


def test_a_template_is_no_format_string(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(some_png(0))
    source = open_source({"name": "images", "path": str(tmp_path), "template": "a {label} {x.__class__}"})
    assert [row.texts for row in rows_of(source)] == [("a cat {x.__class__}",)]


@pytest.mark.parametrize("pattern", ["x{0..300000000}.tar", f"x{{0..{'9' * 5000}}}.tar"])
def test_a_range_of_shards_is_bounded(pattern):
    with pytest.raises(InputError, match="at most"):
        files(pattern)


def test_a_folder_with_sidecars_classes_and_hidden_files(tmp_path):
    for name in ("cat/a.png", "cat/b.JPG", "dog/c.png", "top.webp", ".hidden.png", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(some_png())
    (tmp_path / "cat/a.txt").write_text("first\n\n second \n", encoding="utf-8")
    (tmp_path / "dog/c.txt").write_bytes(b"caf\xe9")
    (tmp_path / "notes.md").write_text("nothing")
    rows = {row.key: row for row in rows_of(open_source(str(tmp_path)))}
    assert list(rows) == ["cat/a.png", "cat/b.JPG", "dog/c.png", "top.webp"]
    assert rows["cat/a.png"].texts == ("first", "second")
    assert rows["cat/b.JPG"].meta["label"] == "cat"
    assert "not UTF-8" in rows["dog/c.png"].bad
    assert "label" not in rows["top.webp"].meta
    named = ImageFolderSource(str(tmp_path / "*" / "*.JPG"), template="a photo of a {label}")
    assert [(row.key, row.texts) for row in rows_of(named)] == [("cat/b.JPG", ("a photo of a cat",))]
    with pytest.raises(InputError, match="label"):
        ImageFolderSource(str(tmp_path), template="a photo")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_as_hugging_face_lays_it(tmp_path, kind):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(some_png())
    lines = [{"file_name": "a.png", "text": "one", "n": "1"}, {"file_name": "gone.png", "text": "x", "n": "2"}]
    lines.append({"file_name": "a.png", "text": "two", "n": "3"})
    if kind == "csv":
        text = "file_name,text,n\n" + "\n".join(",".join(line.values()) for line in lines) + "\nb.png,short\n"
    else:
        text = "\n".join(map(json.dumps, lines)) + "\n{broken\n"
    (tmp_path / f"metadata.{kind}").write_text(text)
    a, b, gone, broken = rows_of(ImageFolderSource(str(tmp_path)))
    assert a.texts == ("one", "two")
    assert b.texts == ()
    assert "'gone.png', which is not there" in gone.bad
    assert broken.bad
    with pytest.raises(InputError, match="did you mean 'text'"):
        ImageFolderSource(str(tmp_path), caption="txet")


@pytest.mark.parametrize("path", ["memory://bucket//a/", "https://x.org/a/./b/"])
def test_urls_stay_as_they_were_typed(path):
    assert plain(path) == path


def test_a_folder_without_images(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="empty"):
        open_source(str(tmp_path))


# URLs


def test_everything_reads_from_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    tarred(tmp_path / "a.tar", [(f"d/{n}.txt", f"text {n}".encode()) for n in range(3)])
    write(tmp_path / "a.parquet", image=["p/x.png"] * 2, caption=["a", "b"])
    (tmp_path / "a.csv").write_text("filepath,title\np/x.png,a\nmemory://all/p/x.png,b\np/none.png,c\n")
    for name in ("a.tar", "a.parquet", "a.csv"):
        memory.pipe(f"/all/{name}", (tmp_path / name).read_bytes())
    memory.pipe("/all/p/x.png", some_png(4))
    memory.pipe("/all/p/x.txt", b"named")
    try:
        assert [row.texts[0] for row in rows_of(open_source("memory://all/a.tar"))] == ["text 0", "text 1", "text 2"]
        assert len(rows_of(open_source("memory://all/*.tar"))) == 3
        assert decode(rows_of(open_source("memory://all/a.parquet"))[1].image)[0, 0, 0] == 20
        one, two, gone = rows_of(open_source("memory://all/a.csv"))
        assert one.image == two.image == some_png(4)
        assert "none.png" in gone.bad
        (row,) = rows_of(open_source("memory://all/p"))
        assert (row.key, row.texts, row.image) == ("x.png", ("named",), some_png(4))
        for name in ("none.tar", "none.parquet", "none.csv", "no*.tar"):
            with pytest.raises(InputError, match="no"):
                open_source(f"memory://all/{name}")
    finally:
        memory.rm("/all", recursive=True)


# Hugging Face


def test_hugging_face_on_disk_and_streaming(tmp_path):
    import datasets

    columns = {
        "image": [{"bytes": some_png(i), "path": None} for i in range(5)],
        "text": list("abcde"),
        "label": [0, 1, 0, 1, 0],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    data = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([4])}).save_to_disk(tmp_path / "saved")
    rows = rows_of(open_source(str(tmp_path / "saved")))
    labels = ["cat", "dog", "cat", "dog", "cat"]
    assert [(row.texts, row.meta["label"]) for row in rows] == [((x,), y) for x, y in zip("abcde", labels, strict=True)]
    assert decode(rows[3].image)[0, 0, 0] == 15
    assert len(rows_of(open_source(f"hf:{tmp_path / 'saved'}:split=test"))) == 1
    with pytest.raises(InputError, match="no split 'valid'"):
        HuggingFaceSource(str(tmp_path / "saved"), split="valid")
    with pytest.raises(InputError, match="did you mean 'text'"):
        HuggingFaceSource(str(tmp_path / "saved"), caption="txt")
    with pytest.raises(InputError, match="cannot open it"):
        HuggingFaceSource(str(tmp_path / "nothing" / "here"))
    data.to_parquet(tmp_path / "a.parquet")
    stream = HuggingFaceSource("parquet", data_files=str(tmp_path / "a.parquet"), streaming=True)
    assert [row.texts for row in rows_of(stream)] == [(x,) for x in "abcde"]
    block = stream.blocks()[0]
    assert [row.key for row in stream.read(block, start=3)] == [row.key for row in stream.read(block)][3:]
