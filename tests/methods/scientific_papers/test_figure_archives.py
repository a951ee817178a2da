"""Archives of papers from outside: what is found in them, and what they must not be able to do."""

import gzip
import importlib.util
import io
import os
import stat
import sys
import tarfile
import warnings
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tables import encoded, rows_of, tarred
from tether.core import guarded_worker
from tether.core.errors import InputError, MissingExtraError
from tether.data import open_source
from tether.data.images import decode
from tether.methods.scientific_papers import FigureArchive, Limits, as_jpeg, resize_for_clip

TEX = r"\begin{figure}\includegraphics{a.png}\caption{A red square.}\end{figure}"
JATS = (
    '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta>'
    '<article-id pub-id-type="pmc">PMC7</article-id><article-id pub-id-type="doi"> 10.1/x </article-id>'
    '<permissions><license xlink:href="https://creativecommons.org/licenses/by/4.0/"/></permissions>'
    "</article-meta></front><body><fig><caption><title>Growth.</title><p>Over\n time.</p></caption>"
    '<graphic xlink:href="f1"/></fig></body></article>'
)


def image(width: int = 20, height: int = 10, *, kind: str = "PNG", colour=(200, 10, 10), mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, (width, height), colour), kind)


PAPER = {"main.tex": TEX.encode(), "a.png": image()}


def tar(path, files: dict[str, bytes | tarfile.TarInfo], *, mode: str = "w:gz"):
    return tarred(path, files.items(), mode=mode)


def zipped(path, files: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def unpacked(path, files: dict[str, bytes]):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["tar.gz", "tgz", "tar", "tar.bz2", "tar.xz", "zip", "folder"])
def test_every_kind_of_archive(tmp_path, kind):
    modes = {"tar.gz": "w:gz", "tgz": "w:gz", "tar": "w", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
    if kind in modes:
        path = tar(tmp_path / f"2311.04711v1.{kind}", PAPER, mode=modes[kind])
    elif kind == "zip":
        path = zipped(tmp_path / "2311.04711v1.zip", PAPER)
    else:
        path = unpacked(tmp_path / "2311.04711v1", PAPER)
    archive = FigureArchive(path, strict=True)
    assert archive.paper == "2311.04711v1"
    assert [(figure.name, figure.caption, figure.document) for figure in archive.figures()] == [
        ("a.png", "A red square.", "main.tex")
    ]
    assert dict(archive.images()) == {"a.png": PAPER["a.png"]}
    assert dict(archive.images()) == dict(archive.images())
    assert archive.problems == []


def test_documents_of_an_archive_are_joined_and_the_last_wins(tmp_path):
    other = TEX.replace("red", "blue") + TEX.replace("a.png", "sub/b.png")
    files = {"1.tex": TEX.encode(), "2.tex": other.encode(), "a.png": image(), "sub/b.png": image()}
    files["notes.txt"] = b"\\includegraphics{a.png}"
    found = {
        figure.name: figure.caption for figure in FigureArchive(tar(tmp_path / "x.tar", files, mode="w")).figures()
    }
    assert found == {"a.png": "A blue square.", "sub/b.png": "A red square."}
    other_way = {"2.tex": files["2.tex"], **files}
    archive = FigureArchive(tar(tmp_path / "y.tar", other_way, mode="w"))
    assert archive.figures()[0].caption == "A red square."


def test_an_article_with_its_licence(tmp_path):
    files = {"PMC7/p.nxml": JATS.encode(), "PMC7/f1.jpg": image(kind="JPEG"), "PMC7/f1.gif": image(kind="GIF")}
    archive = FigureArchive(tar(tmp_path / "PMC7.tar.gz", files), strict=True)
    assert [(figure.name, figure.caption) for figure in archive.figures()] == [("PMC7/f1.jpg", "Growth. Over time.")]
    assert archive.about == {
        "doi": "10.1/x",
        "pmcid": "PMC7",
        "licence": "https://creativecommons.org/licenses/by/4.0/",
    }
    assert FigureArchive(tmp_path / "PMC7.tar.gz", join="").figures()[0].caption == "Growth.Over time."


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png", "C:/a.png", "..\\a.png"])
def test_names_that_point_outside(tmp_path, name):
    for path in (
        tar(tmp_path / "x.tar", {**PAPER, name: b"x"}, mode="w"),
        zipped(tmp_path / "x.zip", {**PAPER, name: b"x"}),
    ):
        archive = FigureArchive(path)
        assert archive.names == ["a.png"]
        assert "points outside" in archive.problems[0].reason
        with pytest.raises(InputError, match="points outside"):
            FigureArchive(path, strict=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["x.tar", "x.zip"]


def test_links_and_devices_are_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(image())
    link, hard, device = (tarfile.TarInfo(f"{kind}.png") for kind in ("link", "hard", "device"))
    link.type, link.linkname = tarfile.SYMTYPE, "../secret.png"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.png"
    device.type = tarfile.CHRTYPE
    archive = FigureArchive(tar(tmp_path / "x.tar", {**PAPER, "1": link, "2": hard, "3": device}, mode="w"))
    assert archive.names == ["a.png"]
    assert [problem.name for problem in archive.problems] == ["link.png", "hard.png", "device.png"]

    folder = unpacked(tmp_path / "folder", PAPER)
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "in.png").symlink_to(folder / "a.png")
    os.mkfifo(folder / "pipe.png")
    archive = FigureArchive(folder)
    assert archive.names == ["a.png", "in.png"]
    assert [problem.name for problem in archive.problems] == ["out.png", "pipe.png"]

    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zipped(tmp_path / "x.zip", PAPER), "a") as file:
        file.writestr(info, "/etc/hostname")
    assert FigureArchive(tmp_path / "x.zip").problems[0].reason == "'link.png' is a link"


def test_a_small_file_that_unpacks_without_end(tmp_path):
    limits = Limits(total_bytes=1 << 20, member_bytes=1 << 19)
    bomb = tmp_path / "bomb.tar.gz"
    with gzip.open(bomb, "wb") as file:
        info = tarfile.TarInfo("big.dat")
        info.size = 1 << 26
        with tarfile.open(fileobj=file, mode="w|") as archive:
            for name, data in PAPER.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
            archive.addfile(info, io.BytesIO(bytes(1 << 26)))
    assert bomb.stat().st_size < 1 << 17
    archive = FigureArchive(bomb, limits=limits)
    assert "unpacks to more than" in archive.problems[-1].reason
    assert [figure.name for figure in archive.figures()] == ["a.png"]

    archive = FigureArchive(zipped(tmp_path / "bomb.zip", {**PAPER, "big.png": bytes(1 << 26)}), limits=limits)
    assert "more than 524288 are refused" in archive.problems[0].reason
    files = {f"{number}.png": bytes(1 << 18) for number in range(8)}
    archive = FigureArchive(zipped(tmp_path / "many.zip", {**PAPER, **files}), limits=limits)
    assert "unpacks to more than" in archive.problems[0].reason
    with pytest.raises(InputError, match="more than 3 files"):
        FigureArchive(zipped(tmp_path / "count.zip", {**PAPER, **files}), limits=Limits(members=3), strict=True)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        FigureArchive(
            unpacked(tmp_path / "folder", {**PAPER, "b.png": bytes(1000)}), limits=Limits(total_bytes=1000), strict=True
        )


def test_archives_that_are_none(tmp_path):
    for name, data in {
        "text.tar.gz": b"\\documentclass",
        "empty.tar": b"",
        "one.tar.gz": gzip.compress(TEX.encode()),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}.*cannot be read"):
            FigureArchive(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        FigureArchive(tmp_path / "missing.tar")
    whole = tar(tmp_path / "x.tar.gz", {**PAPER, "noise.dat": os.urandom(1 << 16)}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    archive = FigureArchive(tmp_path / "cut.tar.gz")
    assert [figure.name for figure in archive.figures()] == ["a.png"]
    assert "cannot be read after" in archive.problems[-1].reason


def broken_inside(folder):
    """Archives whose second file cannot be read, each in its own way."""
    files = {"a.png": PAPER["a.png"], "m.tex": TEX.encode() + os.urandom(1 << 16)}
    whole = tar(folder / "cut.tar.gz", files).read_bytes()
    (folder / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    whole = tar(folder / "cut.tar", files, mode="w").read_bytes()
    (folder / "cut.tar").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(folder / "crc.zip", "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    whole = (folder / "crc.zip").read_bytes()
    (folder / "crc.zip").write_bytes(whole.replace(b"A red square.", b"A red squere.", 1))
    return ["cut.tar.gz", "cut.tar", "crc.zip"]


def test_a_file_cut_in_its_middle_is_a_problem_and_a_bad_row(tmp_path):
    for name in broken_inside(tmp_path):
        archive = FigureArchive(tmp_path / name)
        assert archive.names == ["a.png"]
        (problem,) = archive.problems
        assert f"{name}: m.tex: cannot be read: " in problem.reason
        with pytest.raises(InputError, match=r"m\.tex"):
            FigureArchive(tmp_path / name, strict=True)
    tar(tmp_path / "whole.tar.gz", PAPER)
    source = open_source({"name": "figures", "path": str(tmp_path)})
    rows = rows_of(source)
    assert [row.key for row in rows if row.image] == ["whole/a.png"]
    assert len(rows) == 4


def test_headers_that_are_made_to_break_the_reader(tmp_path):
    zipped(tmp_path / "name.zip", {"a.png": b"", "\u00e9\u00e9.png": b""})
    data = (tmp_path / "name.zip").read_bytes()
    (tmp_path / "name.zip").write_bytes(data.replace("\u00e9\u00e9".encode(), b"\xff\xfe\xff\xfe"))
    sparse = tarfile.TarInfo("b.png")
    sparse.pax_headers = {"GNU.sparse.map": "abc", "GNU.sparse.size": "3"}
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        archive.addfile(sparse)
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 2
    with tarfile.open(tmp_path / "chain.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
        for _ in range(3000):
            archive.addfile(long, io.BytesIO(b"x\0"))
    for name, whole in (("name.zip", True), ("sparse.tar", False), ("chain.tar", False)):
        if whole:
            with pytest.raises(InputError, match=f"{name}: cannot be read after 0 files"):
                FigureArchive(tmp_path / name)
        else:
            archive = FigureArchive(tmp_path / name)
            assert archive.names == ["a.png"]
            assert f"{name}: cannot be read after 1 files" in archive.problems[-1].reason


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_names_that_begin_with_this_folder(tmp_path, kind):
    make = tar if kind == "tar.gz" else zipped
    archive = FigureArchive(make(tmp_path / f"x.{kind}", {f"./{name}": data for name, data in PAPER.items()}))
    assert [(figure.name, figure.document) for figure in archive.figures()] == [("a.png", "main.tex")]
    assert dict(archive.images()) == {"a.png": PAPER["a.png"]}
    assert archive.problems == []


def test_a_paper_that_cannot_be_read_costs_only_its_documents(tmp_path):
    bomb = '<!DOCTYPE a [<!ENTITY a "x">]>' + JATS
    files = {
        **PAPER,
        "bad.tex": b"$",
        "bomb.xml": bomb.encode(),
        "self.tex": rb"\input{self}",
        "f1.jpg": image(kind="JPEG"),
    }
    archive = FigureArchive(tar(tmp_path / "x.tar.gz", files))
    assert [figure.name for figure in archive.figures()] == ["a.png"]
    assert [problem.name for problem in archive.problems] == ["bad.tex", "bomb.xml"]


def test_rows_of_a_source(tmp_path):
    (tmp_path / "in").mkdir()
    tar(tmp_path / "in" / "2.tar.gz", PAPER)
    files = {"p.nxml": JATS.encode(), "f1.jpg": image(600, 1200, kind="JPEG"), "bad.tex": b"$"}
    tar(tmp_path / "in" / "1.tar.gz", files)
    source = open_source(f"figures:path={tmp_path / 'in'}")
    (tmp_path / "in" / "0.tar.gz").write_bytes(b"junk")
    source = open_source(f"figures:path={tmp_path / 'in'}")
    (block,) = source.blocks()
    broken, one, bad, two = source.read(block)
    assert broken.key == "0"
    assert "cannot be read" in broken.bad
    assert [row.key for row in source.read(block, start=2)] == [bad.key, two.key]
    assert (one.key, one.texts) == ("1/f1.jpg", ("Growth. Over time.",))
    assert one.meta == {
        "paper": "1",
        "figure": "f1.jpg",
        "document": "p.nxml",
        "doi": "10.1/x",
        "pmcid": "PMC7",
        "licence": "https://creativecommons.org/licenses/by/4.0/",
    }
    assert decode(one.image).shape == (3, 512, 256)
    assert bad.key == "1/bad.tex#0"
    assert "LaTeX that cannot be read" in bad.bad
    assert two.meta["licence"] == ""
    assert decode(two.image).shape == (3, 10, 20)
    original = open_source({"name": "figures", "path": str(tmp_path / "in"), "images": "original"})
    assert list(original.read(block))[1].image == files["f1.jpg"]
    assert original.version != source.version


def test_unpacked_papers_and_splits(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.methods.scientific_papers.source._BLOCK_PAPERS", 16)
    for number in range(60):
        unpacked(tmp_path / f"{number:04d}", PAPER)
    parts = {}
    for split in ("train", "validation", "test", "all"):
        source = open_source({"name": "figures", "path": str(tmp_path), "papers": "folders", "split": split})
        parts[split] = {row.meta["paper"] for block in source.blocks() for row in source.read(block)}
    assert len(parts["all"]) == 60
    assert parts["train"] | parts["validation"] | parts["test"] == parts["all"]
    assert len(parts["train"]) + len(parts["validation"]) + len(parts["test"]) == 60
    assert 0.7 < len(parts["train"]) / 60 < 0.95
    for settings, match in (({"split": "dev"}, "split"), ({"size": 0}, "size"), ({"postscript": "run"}, "postscript")):
        with pytest.raises(InputError, match=match):
            open_source({"name": "figures", "path": str(tmp_path), "papers": "folders", **settings})
    with pytest.raises(InputError, match="one folder for each paper"):
        open_source({"name": "figures", "path": str(tmp_path / "0000"), "papers": "folders"})


def test_images_as_a_model_wants_them():
    tall = resize_for_clip(image(100, 2000))
    assert (tall.shape, tall.dtype) == ((512, 26, 3), np.uint8)
    assert resize_for_clip(image(30, 20)).shape == (20, 30, 3)
    assert resize_for_clip(image(30, 20), size=15).shape == (10, 15, 3)
    clear = resize_for_clip(image(4, 4, colour=(0, 0, 0, 0), mode="RGBA"))
    assert clear.min() == 255
    assert decode(as_jpeg(tall)).shape == (3, 512, 26)
    for broken in (b"", b"%PDX", image()[:40]):
        with pytest.raises(InputError):
            resize_for_clip(broken, name="fig")


def test_the_first_page_of_a_pdf(monkeypatch):
    data = image(300, 100, kind="PDF")
    if importlib.util.find_spec("pypdfium2"):
        pixels = resize_for_clip(data, size=200)
        assert pixels.shape == (67, 200, 3)
        assert np.abs(pixels.mean((0, 1)) - (200, 10, 10)).max() < 8
        with pytest.raises(InputError, match="fig: broken PDF"):
            resize_for_clip(b"%PDF-1.4 and nothing else", name="fig")
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MissingExtraError, match=r"pypdfium2.*tether-clip\[figures\]"):
        resize_for_clip(data)


def test_pages_are_rendered_to_fit(monkeypatch):
    """With a stand-in for the library: how large a page is asked for, and that the document is closed."""
    asked, closed = [], []

    class Page:
        def get_size(self):
            return 1000.0, 250.0

        def render(self, *, scale, rev_byteorder):
            asked.append((scale, rev_byteorder))
            return SimpleNamespace(to_numpy=lambda: np.full((int(250 * scale), int(1000 * scale), 4), 7, np.uint8))

    class Document(list):
        def __init__(self, data):
            super().__init__([Page()])

        def close(self):
            closed.append(True)

    monkeypatch.setitem(sys.modules, "pypdfium2", SimpleNamespace(PdfDocument=Document))
    monkeypatch.setattr(guarded_worker, "_limit", lambda memory: None)
    assert guarded_worker._first_page(b"", memory=0, size=500)[0] == {"shape": (125, 500, 3)}
    assert (asked, closed) == ([(0.5, True)], [True])
    monkeypatch.setattr(Page, "get_size", lambda self: (1.0, 1.0))
    guarded_worker._first_page(b"", memory=0, size=500)
    assert asked[-1] == (8.0, True)


def test_postscript_is_not_run_unasked(monkeypatch):
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"
    with pytest.raises(InputError, match="PostScript, which is a program and is not run"):
        resize_for_clip(data, name="fig")
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", False)  # as on a machine without Ghostscript
    with pytest.raises(InputError, match="fig: PostScript that cannot be rendered"):
        resize_for_clip(data, postscript="ghostscript", name="fig")
    large = data.replace(b"10 10", b"10000 10000")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match="10000 x 10000 pixels are refused"):
            resize_for_clip(large, postscript="ghostscript")
    vast = data.replace(b"10 10", b"90000 90000")
    with pytest.raises(InputError, match="8100000000 pixels"):
        resize_for_clip(vast, postscript="ghostscript")
