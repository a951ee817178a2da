"""Tables and archives from anyone: a bad row is skipped and named, a bad file is refused by name, nothing else."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.curate.pool import open_pool
from tether.data.loader import ordered
from tether.data.shuffle import reason_against
from tether.data.sources.webdataset import WebDatasetSource


def picture(value=0):
    buffer = io.BytesIO()
    Image.fromarray(np.full((6, 6, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(source):
    return [row for block in source.blocks() for row in source.read(block)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("told", ["no", "0", ""])
def test_a_column_called_bad_is_a_column_like_others(tmp_path, kind, told):
    (tmp_path / "a.png").write_bytes(picture())
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
        for name, kind, data in (("a.png", b"0", picture()), ("a.txt", b"0", b"a cat"), *parts):
            info = tarfile.TarInfo(name)
            info.type, info.size = kind, len(data)
            file.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(bytes(10240))
    return str(path)


MANY = bytes(70 << 20)


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
@pytest.mark.parametrize(
    ("part", "why"),
    [
        (("././@LongLink", b"L", MANY[: 2 << 20]), "a header of more than"),
        (("././@PaxHeader", b"x", MANY[: 2 << 20]), "a header of more than"),
        (("b.bin", b"0", MANY), "unpacks to more than 100 times its size"),
    ],
)
def test_a_small_tar_does_not_unpack_without_end(tmp_path, part, why, mode):
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
    path = packed(tmp_path / "a.tgz", ("b.png", b"0", picture()), (name, b"0", data), ("c.cls", b"0", b"9" * 5000))
    good, bad, number = rows_of(WebDatasetSource(path))
    assert (good.texts, good.bad) == (("a cat",), "")
    assert why in bad.bad
    assert number.meta["label"] == "9" * 5000
