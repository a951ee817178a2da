"""Tars from anyone: what leads out, is a link, is too large or breaks off."""

import gzip
import json
import tarfile

import pytest

from tables import rows_of, square, tarred
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.in_order import ordered
from tether.data.sources.webdataset import WebDatasetSource


def members(count):
    for number in range(count):
        yield f"d/{number:04d}.jpg", square(5 * number, "JPEG")
        yield f"d/{number:04d}.txt", f"text {number}\nother".encode()
        yield f"d/{number:04d}.json", json.dumps({"caption": f"json {number}", "n": number}).encode()


def test_a_tar_is_grouped_by_name(tmp_path):
    more = [("e.seg.png", square(5)), ("e.cls", b"7"), ("e.npy", b"0"), ("f.json", b"{broken"), ("f.jpg", square())]
    path = tarred(tmp_path / "a.tar", [*members(2), *more])
    one, two, three, broken = rows_of(open_source(str(path)))
    assert (one.key, one.texts, one.meta["n"]) == ("d/0000", ("text 0", "other"), 0)
    assert two.meta["caption"] == "json 1"
    assert (three.key, three.texts, dict(three.meta)) == ("e", (), {"label": 7})
    assert "the .json cannot be read" in broken.bad
    assert rows_of(WebDatasetSource(str(path), text="whole"))[0].texts == ("text 0\nother",)
    assert rows_of(WebDatasetSource(str(path), caption="caption"))[1].texts == ("json 1",)
    assert "no 'captoin' in the .json" in rows_of(WebDatasetSource(str(path), caption="captoin"))[1].bad


@pytest.mark.parametrize("name", ["/etc/evil.jpg", "../evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:/evil.jpg"])
def test_members_that_point_outside_are_refused(tmp_path, name, monkeypatch):
    path = tarred(tmp_path / "a.tar", [*members(1), (name, square()), *((f"z{n}", d) for n, d in members(1))])
    monkeypatch.chdir(tmp_path)
    good, bad, after = rows_of(WebDatasetSource(str(path)))
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
    more = [("x.jpg", bytes(2001)), ("y.jpg", square(0, "JPEG")), ("y.txt", b"after")]
    one, big, after = rows_of(WebDatasetSource(str(tarred(tmp_path / "a.tar", [*members(1), *more]))))
    assert "2001 bytes; more than 2000 are refused" in big.bad
    assert one.texts[0] == "text 0"
    assert after.texts == ("after",)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("where", ["inside", "header", "between", "noise"])
def test_a_broken_tar_gives_the_rows_before_the_break(tmp_path, where, start):
    path = tmp_path / "a.tar"
    tarred(path, members(6))
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
    path = tarred(tmp_path / "a.tar.gz", members(3), mode="w:gz")
    assert len(rows_of(open_source(str(path)))) == 3
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
        tarred(tmp_path / f"{number}.tar", ((f"s{number}/{name}", data) for name, data in members(4)))
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 3])
    bad = tmp_path / "bad.jsonl"
    found = ordered(open_source(str(tmp_path)), image_spec=ImageSpec((6, 6)), batch_size=4, on_bad=bad)
    keys = [row.key for rows, _ in found for row in rows]
    assert keys[:4] == [f"s0/d/{n:04d}" for n in range(4)]
    assert keys[-4:] == [f"s2/d/{n:04d}" for n in range(4)]
    assert [json.loads(line)["key"] for line in bad.read_text().splitlines()] == ["1.tar"]
