"""Small files that ask for much, and which readers they are given to."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from common import MIB

GIB = 2**30
SIDE = 9450  # squared just below the pixels that Pillow and Tether decode
Make = Callable[[Path], object]
MAKERS: dict[str, tuple[str, tuple[str, ...], Make]] = {}
"""Ending of the file (none is a folder), readers, and what makes it, by name."""


def bomb(name: str, ending: str, *readers: str) -> Callable[[Make], Make]:
    """Register what makes a file or folder."""

    def register(make: Make) -> Make:
        MAKERS[name] = ending, readers, make
        return make

    return register


# Images


def _png(path: Path, *, width: int, height: int, bits: int = 8, kind: int = 2, extra: bytes = b"") -> None:
    channels = {0: 1, 2: 3, 6: 4}[kind]
    rows, packer = bytes((1 + width * channels * bits // 8) * 64), zlib.compressobj(9)
    data = b"".join(packer.compress(rows) for _ in range(-(-height // 64))) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


bomb("PNG, 16 bits of grey", ".png", "windowed", "deep", "decode")(
    lambda path: _png(path, width=SIDE, height=SIDE, bits=16, kind=0)
)
bomb("PNG, 268 million values of grey", ".png", "deep")(
    lambda path: _png(path, width=1 << 14, height=1 << 14, bits=16, kind=0)
)
bomb("PNG, with transparency", ".png", "decode")(lambda path: _png(path, width=SIDE, height=SIDE, kind=6))
bomb("PNG, 16 bits of colour", ".png", "decode")(lambda path: _png(path, width=SIDE, height=SIDE, kind=2, bits=16))
bomb("PNG, one row 30 million wide", ".png", "decode")(lambda path: _png(path, width=30_000_000, height=2, kind=6))


@bomb("PNG, text that unpacks to 1 GiB", ".png", "decode")
def _(path: Path) -> None:
    text = b"".join(_chunk(b"zTXt", b"a\0\0" + _zeros(64 * MIB)) for _ in range(16))
    _png(path, width=8, height=8, extra=text + _chunk(b"iCCP", b"p\0\0" + _zeros(256 * MIB)))


def _gif(path: Path, *, side: int, frames: int) -> None:
    """Frames of one pixel on a large screen."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\x00"
    screen = struct.pack("<HHBBB", side, side, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    path.write_bytes(b"GIF89a" + screen + frame * frames + b";")


bomb("GIF, 12,000 frames of 149 x 149", ".gif", "deep", "windowed", "decode")(
    lambda path: _gif(path, side=149, frames=12_000)
)
bomb("GIF, 3 frames of 9,450 x 9,450", ".gif", "deep", "decode")(lambda path: _gif(path, side=SIDE, frames=3))
bomb("WebP, 9,450 x 9,450 with transparency", ".webp", "decode")(
    lambda path: _save(path, "WEBP", "RGBA", lossless=True, method=0)
)
bomb("TIFF, deflated floats", ".tif", "decode", "deep")(
    lambda path: _save(path, "TIFF", "F", compression="tiff_adobe_deflate")
)
bomb("TIFF, CMYK", ".tif", "decode")(lambda path: _save(path, "TIFF", "CMYK", compression="tiff_adobe_deflate"))
bomb("JPEG 2000", ".jp2", "decode")(lambda path: _save(path, "JPEG2000", "L", side=SIDE // 2))


def _save(path: Path, kind: str, mode: str, *, side: int = SIDE, **settings: object) -> None:
    from PIL import Image

    Image.new(mode, (side, side)).save(path, kind, **settings)


@bomb("JPEG, progressive with 5,000 scans", ".jpg", "decode")
def _(path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (9000, 9000)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    start = max(data.rindex(b"\xff\xc4", 0, last), 0)  # the scan with its Huffman table
    path.write_bytes(data[:-2] + data[start:-2] * 5_000 + data[-2:])


def _dicom(path: Path, *, syntax: str, rows: int, columns: int, pixels: bytes, frames: int = 1) -> None:
    """Explicit values in little-endian order; ``pixels`` is the element with the picture."""

    def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", group, number, kind, len(value)) + value

    def short(number: int, value: int) -> bytes:
        return element(0x28, number, b"US", struct.pack("<H", value))

    about = element(2, 0x10, b"UI", syntax.encode())
    meta = element(2, 0, b"UL", struct.pack("<I", len(about))) + about
    body = element(8, 0x60, b"CS", b"CT") + short(2, 1) + element(0x28, 4, b"CS", b"MONOCHROME2")
    body += element(0x28, 8, b"IS", str(frames).encode()) + short(0x10, rows) + short(0x11, columns)
    body += short(0x100, 8) + short(0x101, 8) + short(0x102, 7) + short(0x103, 0)
    body += element(0x28, 0x1052, b"DS", b"0") + element(0x28, 0x1053, b"DS", b"1.5")
    if syntax == DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = packer.compress(body + pixels[:12])
        for size in _pieces(int.from_bytes(pixels[8:12], "little")):
            body += packer.compress(bytes(size))
        path.write_bytes(bytes(128) + b"DICM" + meta + body + packer.flush())
    else:
        path.write_bytes(bytes(128) + b"DICM" + meta + body + pixels)


DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"


def _pieces(size: int) -> Iterator[int]:
    for at in range(0, size, 16 * MIB):
        yield min(16 * MIB, size - at)


@bomb("DICOM, deflated, 16,384 x 16,384", ".dcm", "decode", "deep", "windowed")
def _(path: Path) -> None:
    head = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 1 << 28)
    _dicom(path, syntax=DEFLATED, rows=1 << 14, columns=1 << 14, pixels=head)


@bomb("DICOM, deflated, 2 GiB behind a header of 8 x 8", ".dcm", "decode")
def _(path: Path) -> None:
    head = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 2 * GIB)
    _dicom(path, syntax=DEFLATED, rows=8, columns=8, pixels=head)


@bomb("DICOM, RLE, 16,384 x 16,384", ".dcm", "decode", "deep")
def _(path: Path) -> None:
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * (1 << 21)
    frame = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(frame)) + frame
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF) + frame + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    _dicom(path, syntax=RLE, rows=1 << 14, columns=1 << 14, pixels=pixels)


@bomb("PDF, forms within forms", ".pdf", "figure")
def _(path: Path) -> None:
    depth, again = 9, 10
    page = b"/MediaBox [0 0 512 512] /Contents 4 0 R /Resources << /XObject << /F 5 0 R >> >>"
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"]
    objects += [b"<< /Type /Page /Parent 2 0 R " + page + b" >>", _stream(b"/F Do", b"")]
    for level in range(depth):
        inner = b"/Resources << /XObject << /F %d 0 R >> >>" % (6 + level) if level < depth - 1 else b""
        draws = b"/F Do " * again if level < depth - 1 else b"0 0 400 400 re f " * again
        objects.append(_stream(draws, b"/Type /XObject /Subtype /Form /BBox [0 0 512 512] " + inner))
    body, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n" % number + each + b"\nendobj\n"
    size = len(objects) + 1
    listing = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (size, len(body))
    path.write_bytes(body + b"xref\n0 %d\n0000000000 65535 f \n" % size + listing + end)


def _stream(data: bytes, about: bytes) -> bytes:
    return b"<< /Length %d " % len(data) + about + b" >>\nstream\n" + data + b"\nendstream"


bomb("EPS named as a picture", ".jpg", "decode", "deep")(
    lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n%%EOF\n")
)


# Tables and archives


@bomb("CSV, /dev/zero and a pipe as pictures", ".csv", "source")
def _(path: Path) -> None:
    os.mkfifo(path.with_name("pipe.png"))
    path.write_text("filepath,title\n/dev/zero,a\npipe.png,b\n/dev/stdin,c\n", encoding="utf-8")


@bomb("folder with a pipe and a link to /dev/zero", "", "source")
def _(path: Path) -> None:
    path.mkdir()
    _png(path / "a.png", width=8, height=8)
    os.mkfifo(path / "b.png")
    (path / "c.png").symlink_to("/dev/zero")
    (path / "a.txt").symlink_to("/dev/zero")
    os.mkfifo(path / "metadata.csv")


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(each)) for each in _pieces(size)) + packer.flush()


def _tgz(path: Path, members: list[tuple[str, bytes, bytes, int, bytes]], *, kind: bytes = tarfile.REGTYPE) -> None:
    """Members, each a beginning, a piece that comes so many times, and an end."""
    with gzip.open(path, "wb", compresslevel=6) as file:
        for name, head, piece, times, tail in members:
            info = tarfile.TarInfo(name)
            info.size, info.type = len(head) + len(piece) * times + len(tail), kind
            file.write(info.tobuf(tarfile.GNU_FORMAT) + head)
            for _ in range(times):
                file.write(piece)
            file.write(tail + bytes(-info.size % 512))
        file.write(bytes(1024))


bomb("tgz, text of 125 million lines", ".tgz", "source", "pool")(
    lambda path: _tgz(path, [("a.png", b"x", b"", 0, b""), ("a.txt", b"", b"a\n" * 500_000, 250, b"")])
)
bomb("tgz, JSON of 60 million numbers", ".tgz", "source", "pool")(
    lambda path: _tgz(path, [("a.json", b'{"a":[', b"1.5,2," * 200_000, 150, b"0]}")])
)
bomb("tgz, a GNU name of 1.5 GiB", ".tgz", "source", "figures")(
    lambda path: _tgz(path, [("././@LongLink", b"", b"a" * MIB, 1536, b"")], kind=tarfile.GNUTYPE_LONGNAME)
)
bomb("tgz, a PAX header of 1.5 GiB", ".tgz", "source", "figures")(
    lambda path: _tgz(path, [("pax", b"1610612745 path=", b"a" * MIB, 1536, b"\n")], kind=tarfile.XHDTYPE)
)
bomb("tgz, LaTeX of 100 MB", ".tar.gz", "figures")(
    lambda path: _tgz(path, [("f.png", b"x", b"", 0, b""), ("a.tex", b"", b"{\\a[" * 250_000, 100, b"")])
)
bomb("tgz, LaTeX nested 100,000 deep", ".tar.gz", "figures")(
    lambda path: _tgz(path, [("f.png", b"x", b"", 0, b""), ("a.tex", b"", b"{\\begin{a}", 100_000, b"")])
)


@bomb("zip, JATS with entities", ".zip", "figures")
def _(path: Path) -> None:
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("f.jpg", "x")
        archive.writestr("a.nxml", f"<!DOCTYPE article [{entities}]><article><fig>&a9;</fig></article>")


@bomb("zip, JATS nested 500,000 deep", ".zip", "figures")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("f.jpg", "x")
        archive.writestr("a.nxml", "<article>" + "<fig>" * 500_000 + "</fig>" * 500_000 + "</article>")


@bomb("Parquet, 400 rows of one text of 16 MB", ".parquet", "source", "pool", "index")
def _(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def repeated(value: object) -> pa.Array:
        return pa.DictionaryArray.from_arrays(pa.array([0] * 400, pa.int32()), pa.array([value]))

    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 800, pa.float32()), 2)
    rows = {"key": [f"{n}" for n in range(400)], "text": repeated("a" * (16 * MIB)), "embedding": vectors}
    found = pa.table(rows | {"image": repeated(b"\xff\xd8" + bytes(16 * MIB))})
    pq.write_table(found, path, compression="zstd", dictionary_pagesize_limit=64 * MIB, write_statistics=False)


@bomb("Parquet, one cell of 1.5 GB", ".parquet", "source", "pool")
def _(path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = 1_500_000_000
    ends, data = pa.py_buffer(np.array([0, size], np.int32)), pa.py_buffer(np.zeros(size, np.uint8))
    cell = pa.Array.from_buffers(pa.binary(), 1, [None, ends, data])
    pq.write_table(pa.table({"image": cell, "text": ["a"]}), path, compression="zstd", use_dictionary=False,
                   write_statistics=False)  # fmt: skip


@bomb("Arrow folder, one cell of 1.5 GB", "", "hf")
def _(path: Path) -> None:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    Dataset.from_dict({"image": ["a"], "text": ["a"]}).save_to_disk(str(path))
    size = 1_500_000_000
    ends, data = pa.py_buffer(np.array([0, size], np.int32)), pa.py_buffer(np.zeros(size, np.uint8))
    cells = {"image": pa.Array.from_buffers(pa.string(), 1, [None, ends, data]), "text": pa.array(["a"])}
    file = next(path.glob("*.arrow"))
    with pa.ipc.open_stream(file) as old:
        schema = old.schema
    with pa.ipc.new_stream(file, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as new:
        new.write_table(pa.table(cells).cast(schema))


# Models, settings, states


def _model(path: Path, **changes: object) -> Path:
    import tether
    from tether.models import create

    tether.save(create("tiny", text={"layers": 1}), path)
    values = json.loads((path / "model.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        part, _, name = key.partition("__")
        values["model"][part][name] = value
    (path / "model.json").write_text(json.dumps(values), encoding="utf-8")
    return path / "model.safetensors"


bomb("model, a billion layers", "", "model")(lambda path: _model(path, vision__layers=10**9))
bomb("model, a million wide", "", "model")(lambda path: _model(path, vision__width=10**6, vision__hidden=4 * 10**6))
bomb("model, a vocabulary of a billion", "", "model")(lambda path: _model(path, text__vocabulary=10**9))


@bomb("safetensors, a header of 100 GB", "", "model")
def _(path: Path) -> None:
    file = _model(path)
    file.write_bytes(struct.pack("<Q", 10**11) + file.read_bytes()[8:])


@bomb("safetensors, a header of 90 MB", "", "model")
def _(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[' + b"0," * 45_000_000 + b'0],"data_offsets":[0,0]}}'
    _model(path).write_bytes(struct.pack("<Q", len(header)) + header)


def _clip_folder(path: Path, name: str, values: dict) -> None:
    from safetensors.numpy import save_file

    path.mkdir()
    (path / name).write_text(json.dumps(values), encoding="utf-8")
    for weights in ("model.safetensors", "open_clip_model.safetensors"):
        save_file({}, path / weights)


@bomb("CLIP and SigLIP of transformers, a billion layers", "", "model")
def _(path: Path) -> None:
    tower = {"num_hidden_layers": 10**9, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    _clip_folder(path, "config.json", {"model_type": "siglip", "text_config": tower, "vision_config": tower})


@bomb("CLIP of open_clip, a billion layers", "", "model")
def _(path: Path) -> None:
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_model_pretrained": False, "image_size": 224}
    text = {"layers": 10**9, "width": 8, "heads": 1, "context_length": 8, "vocab_size": 8}
    values = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}, "preprocess_cfg": {}}
    _clip_folder(path, "open_clip_config.json", values)


@bomb("JSON, nested 100,000 deep", "", "model", "report")
def _(path: Path) -> None:
    _model(path)
    for name in ("model.json", "summary.json", "metrics.jsonl"):
        (path / name).write_text("[" * 100_000, encoding="utf-8")


@bomb("JSON, 300 MB", "", "model")
def _(path: Path) -> None:
    _model(path)
    with (path / "model.json").open("wb") as file:
        for piece in (b'{"a": [', b"1.5,2," * (50 * MIB), b"0]}"):
            file.write(piece)


@bomb("YAML, aliases of aliases", ".yaml", "recipe", "curate_recipe", "lexicon")
def _(path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    keys = "data: *a11\nsteps: *a11\nsynonyms: *a11\n"
    path.write_text("\n".join(lines) + "\n" + keys, encoding="utf-8")


bomb("YAML, nested 100,000 deep", ".yaml", "recipe", "curate_recipe", "lexicon")(
    lambda path: path.write_text("data: " + "[" * 100_000, encoding="utf-8")
)


@bomb("npz, 4 GiB of zeros", ".npz", "decomposition")
def _(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in (("facts", (0,)), ("attention", (1 << 30, 1, 1, 1, 1)), ("mlp", (1, 1, 1))):
            head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode())
                for size in _pieces(4 * max(shape[0], 0)):
                    file.write(bytes(size))
