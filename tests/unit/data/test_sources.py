"""Data as other people leave it: columns, encodings, sidecars, broken and malicious tars."""

import gzip
import io
import json
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tables import rows_of, square
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.images import decode
from tether.data.loader import ordered
from tether.data.paths import files
from tether.data.sources.csv import CsvSource
from tether.data.sources.hf import HuggingFaceSource
from tether.data.sources.images import ImageFolderSource
from tether.data.sources.parquet import ParquetSource
from tether.data.sources.webdataset import WebDatasetSource

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of datasets' own files


def picture(number=0, kind="PNG"):
    return square(number * 5, kind)


def write(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


# Parquet


def test_parquet_takes_bytes_structs_and_paths(tmp_path):
    (tmp_path / "p.png").write_bytes(picture(3))
    structs = [{"bytes": picture(3), "path": None}, {"bytes": None, "path": "p.png"}]
    for name, image in (
        ("image", structs),
        ("jpg", [picture(3)] * 2),
        ("filepath", ["p.png", str(tmp_path / "p.png")]),
    ):
        path = write(tmp_path / f"{name}.parquet", **{name: image, "title": ["a", "b"], "score": [1, 2]})
        rows = rows_of(open_source(path))
        assert [row.texts for row in rows] == [("a",), ("b",)]
        assert [dict(row.meta) for row in rows] == [{"score": 1}, {"score": 2}]
        assert all(decode(row.image)[0, 0, 0] == 15 for row in rows)
        assert [row.key for row in rows] == [f"{name}.parquet:0", f"{name}.parquet:1"]


def test_parquet_takes_lists_and_several_columns_of_captions(tmp_path):
    path = write(tmp_path / "a.parquet", image=[picture()], captions=[["one", "two"]], alt=["three"], key=["k"])
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
    path = write(tmp_path / "a.parquet", image=[picture()], caption=["a"], score=[1])
    with pytest.raises(InputError, match=what) as caught:
        ParquetSource(path, **settings)
    assert "caption, image, score" in str(caught.value)


def test_parquet_without_pictures_rows_or_sense(tmp_path):
    with pytest.raises(InputError, match=r"no column of images.*image=NAME.*known: a, b"):
        ParquetSource(write(tmp_path / "a.parquet", a=[1], b=[2]))
    with pytest.raises(InputError, match="empty"):
        ParquetSource(write(tmp_path / "b.parquet", image=pa.array([], pa.binary())))
    (tmp_path / "c.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"c\.parquet: not a Parquet file"):
        ParquetSource(str(tmp_path / "c.parquet"))
    write(tmp_path / "d.parquet", image=[picture()], caption=["a"])
    write(tmp_path / "e.parquet", image=[picture()])
    with pytest.raises(InputError, match=r"e\.parquet: columns \['caption'\]"):
        ParquetSource(str(tmp_path / "[de].parquet"))


def test_parquet_texts_that_are_not_utf8_are_bad_rows(tmp_path):
    raw = pa.array([b"fine", b"caf\xe9"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    for name, column in (("text", text), ("caption", raw)):
        path = write(tmp_path / f"{name}.parquet", **{"image": [picture()] * 2, name: column})
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
    path = write(tmp_path / "a.parquet", image=[picture()], caption=["a"], other=["b"])
    first = ParquetSource(path).version
    assert ParquetSource(path).version == first
    assert ParquetSource(path, caption="other").version != first
    write(tmp_path / "a.parquet", image=[picture()] * 2, caption=["a"] * 2, other=["b"] * 2)
    assert ParquetSource(path).version != first


# CSV


@pytest.mark.parametrize(("name", "mark"), [("a.csv", "\t"), ("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";")])
def test_csv_as_open_clip_reads_it(tmp_path, name, mark):
    (tmp_path / "p.png").write_bytes(picture(2))
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
    (tmp_path / "p.png").write_bytes(picture(2))
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
def test_csv_without_header_rows_or_pictures(tmp_path, text, what):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=what):
        rows_of(CsvSource(str(tmp_path / "a.csv")))


# Folders


def test_links_out_of_a_folder_are_not_followed(tmp_path):
    secret, folder = tmp_path / "secret", tmp_path / "photos"
    secret.mkdir()
    folder.mkdir()
    (secret / "s.txt").write_text("secret words")
    (secret / "s.png").write_bytes(picture(0))
    (folder / "a.png").write_bytes(picture(0))
    (folder / "a.txt").symlink_to(secret / "s.txt")
    (folder / "b.png").symlink_to(secret / "s.png")
    source = open_source(str(folder))
    rows = [row for block in source.blocks() for row in source.read(block)]
    assert [bool(row.bad) for row in rows] == [True, True]
    assert all("outside" in row.bad and "root=FOLDER" in row.bad for row in rows)
    source = open_source({"name": "images", "path": str(folder), "root": str(secret)})
    assert [row.texts for block in source.blocks() for row in source.read(block)] == [("secret words",), ()]
    (folder / "metadata.csv").symlink_to(secret / "s.txt")
    with pytest.raises(InputError, match=r"metadata\.csv: outside"):
        open_source(str(folder))


def test_a_template_is_no_format_string(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(picture(0))
    source = open_source({"name": "images", "path": str(tmp_path), "template": "a {label} {x.__class__}"})
    assert [row.texts for block in source.blocks() for row in source.read(block)] == [("a cat {x.__class__}",)]


@pytest.mark.parametrize("pattern", ["x{0..300000000}.tar", f"x{{0..{'9' * 5000}}}.tar"])
def test_a_range_of_shards_is_bounded(pattern):
    with pytest.raises(InputError, match="at most"):
        files(pattern)


def test_a_folder_with_sidecars_classes_and_hidden_files(tmp_path):
    for name in ("cat/a.png", "cat/b.JPG", "dog/c.png", "top.webp", ".hidden.png", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture())
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
        (tmp_path / name).write_bytes(picture())
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


def test_a_folder_without_pictures(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="empty"):
        open_source(str(tmp_path))


# Tars


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def members(count):
    for number in range(count):
        yield f"d/{number:04d}.jpg", picture(number, "JPEG")
        yield f"d/{number:04d}.txt", f"text {number}\nother".encode()
        yield f"d/{number:04d}.json", json.dumps({"caption": f"json {number}", "n": number}).encode()


def test_a_tar_is_grouped_by_name(tmp_path):
    more = [("e.seg.png", picture(1)), ("e.cls", b"7"), ("e.npy", b"0"), ("f.json", b"{broken"), ("f.jpg", picture())]
    path = tar(tmp_path / "a.tar", [*members(2), *more])
    one, two, three, broken = rows_of(open_source(path))
    assert (one.key, one.texts, one.meta["n"]) == ("d/0000", ("text 0", "other"), 0)
    assert two.meta["caption"] == "json 1"
    assert (three.key, three.texts, dict(three.meta)) == ("e", (), {"label": 7})
    assert "the .json cannot be read" in broken.bad
    assert rows_of(WebDatasetSource(path, text="whole"))[0].texts == ("text 0\nother",)
    assert rows_of(WebDatasetSource(path, caption="caption"))[1].texts == ("json 1",)
    assert "no 'captoin' in the .json" in rows_of(WebDatasetSource(path, caption="captoin"))[1].bad


@pytest.mark.parametrize("name", ["/etc/evil.jpg", "../evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
def test_members_that_point_outside_are_refused(tmp_path, name, monkeypatch):
    path = tar(tmp_path / "a.tar", [*members(1), (name, picture()), *((f"z{n}", d) for n, d in members(1))])
    monkeypatch.chdir(tmp_path)
    good, bad, after = rows_of(WebDatasetSource(path))
    assert good.texts
    assert after.texts
    assert "points outside" in bad.bad
    assert bad.image is None
    assert [each.name for each in tmp_path.iterdir()] == ["a.tar"]


def test_links_and_giants_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("a.jpg", tarfile.SYMTYPE), ("b.jpg", tarfile.LNKTYPE), ("c.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert all("link or device" in row.bad for row in rows_of(WebDatasetSource(str(tmp_path / "a.tar"))))
    info = tarfile.TarInfo("big.jpg")
    for size, what in ((1 << 29, "broken after 0 rows"), (1 << 50, "claims to have")):
        info.size = size
        (tmp_path / "b.tar").write_bytes(info.tobuf() + bytes(2048))
        with pytest.raises(InputError, match=what):
            rows_of(WebDatasetSource(str(tmp_path / "b.tar")))


def test_a_large_member_makes_its_row_bad(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.data.sources.webdataset.MAX_BYTES", 2000)
    more = [("x.jpg", bytes(2001)), ("y.jpg", picture(0, "JPEG")), ("y.txt", b"after")]
    one, big, after = rows_of(WebDatasetSource(tar(tmp_path / "a.tar", [*members(1), *more])))
    assert "2001 bytes; more than 2000 are refused" in big.bad
    assert one.texts[0] == "text 0"
    assert after.texts == ("after",)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("where", ["inside", "header", "between", "noise"])
def test_a_broken_tar_gives_the_rows_before_the_break(tmp_path, where, start):
    path = tmp_path / "a.tar"
    tar(path, members(6))
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        fifth = archive.getmember("d/0004.jpg")
    cut = {"inside": fifth.offset_data + 100, "header": fifth.offset + 100, "between": fifth.offset}
    data = data[: fifth.offset] + b"\xa5" * 512 + data[fifth.offset + 512 :] if where == "noise" else data[: cut[where]]
    path.write_bytes(data)
    source = WebDatasetSource(str(path))
    rows = []
    with pytest.raises(InputError, match=r"a\.tar: the tar is broken after"):
        rows.extend(source.read(source.blocks()[0], start=start))
    keys = [row.key for row in rows]
    assert keys == [f"d/{number:04d}" for number in range(start, 4)]


def test_compressed_tars_and_what_only_looks_like_one(tmp_path):
    path = tar(tmp_path / "a.tar.gz", members(3), "w:gz")
    assert len(rows_of(open_source(path))) == 3
    data = (tmp_path / "a.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.tar").write_text("not a tar at all" * 100)
    (tmp_path / "zero.tar").write_bytes(b"")
    (tmp_path / "zip.tar").write_bytes(gzip.compress(b"hello"))
    for name in ("cut.tar.gz", "text.tar", "zero.tar", "zip.tar"):
        with pytest.raises(InputError, match=name):
            rows_of(WebDatasetSource(str(tmp_path / name)))


def test_a_pool_with_one_broken_tar_loses_only_what_was_broken(tmp_path):
    for number in range(3):
        tar(tmp_path / f"{number}.tar", ((f"s{number}/{name}", data) for name, data in members(4)))
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 3])
    bad = tmp_path / "bad.jsonl"
    found = ordered(open_source(str(tmp_path)), image_spec=ImageSpec((6, 6)), batch_size=4, on_bad=bad)
    keys = [row.key for rows, _ in found for row in rows]
    assert keys[:4] == [f"s0/d/{n:04d}" for n in range(4)]
    assert keys[-4:] == [f"s2/d/{n:04d}" for n in range(4)]
    assert [json.loads(line)["key"] for line in bad.read_text().splitlines()] == ["1.tar"]


# URLs


def test_everything_reads_from_urls(tmp_path):
    memory = fsspec.filesystem("memory")
    tar(tmp_path / "a.tar", members(3))
    write(tmp_path / "a.parquet", image=["p/x.png"] * 2, caption=["a", "b"])
    (tmp_path / "a.csv").write_text("filepath,title\np/x.png,a\nmemory://all/p/x.png,b\np/none.png,c\n")
    for name in ("a.tar", "a.parquet", "a.csv"):
        memory.pipe(f"/all/{name}", (tmp_path / name).read_bytes())
    memory.pipe("/all/p/x.png", picture(4))
    memory.pipe("/all/p/x.txt", b"named")
    try:
        assert [row.texts[0] for row in rows_of(open_source("memory://all/a.tar"))] == ["text 0", "text 1", "text 2"]
        assert len(rows_of(open_source("memory://all/*.tar"))) == 3
        assert decode(rows_of(open_source("memory://all/a.parquet"))[1].image)[0, 0, 0] == 20
        one, two, gone = rows_of(open_source("memory://all/a.csv"))
        assert one.image == two.image == picture(4)
        assert "none.png" in gone.bad
        (row,) = rows_of(open_source("memory://all/p"))
        assert (row.key, row.texts, row.image) == ("x.png", ("named",), picture(4))
        for name in ("none.tar", "none.parquet", "none.csv", "no*.tar"):
            with pytest.raises(InputError, match="no"):
                open_source(f"memory://all/{name}")
    finally:
        memory.rm("/all", recursive=True)


# Hugging Face


def test_hugging_face_on_disk_and_streaming(tmp_path):
    import datasets

    columns = {
        "image": [{"bytes": picture(i), "path": None} for i in range(5)],
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
