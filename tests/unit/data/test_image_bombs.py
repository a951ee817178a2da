"""Small files that would cost gigabytes or minutes, formats that are not meant, damaged files: each an InputError."""

import contextlib
import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import EpsImagePlugin, Image, ImageOps

from tables import encoded
from tether.core.errors import InputError
from tether.data.curate.steps.image_size import image_size
from tether.data.curate.steps.phash import fingerprints
from tether.data.dicom import read_dicom
from tether.data.images import decode
from tether.data.intensity_window import WindowLevel
from tether.methods.medical_survey.high_bit_depth import read_deep

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
EXPLICIT, DEFLATED = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99"
RLE, JPEG_2000 = b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.90"


def element(group, number, kind, value):
    value += b"\0" * (len(value) % 2)
    long = kind in (b"OW", b"OB", b"SQ")
    size = struct.pack("<HI", 0, len(value)) if long else struct.pack("<H", len(value))
    return struct.pack("<HH2s", group, number, kind) + size + value


def dicom(syntax, pixels, *, side=8, frames=1, before=b""):
    """A grey file of 8 bits; ``pixels`` is the whole last element."""
    numbers = {0x2: 1, 0x10: side, 0x11: side, 0x100: 8, 0x101: 8, 0x102: 7, 0x103: 0}
    parts = {(0x28, n): (b"US", struct.pack("<H", value)) for n, value in numbers.items()}
    parts |= {(0x28, 4): (b"CS", b"MONOCHROME2 "), (0x28, 8): (b"IS", str(frames).encode().ljust(6))}
    body = before + b"".join(element(*tag, *parts[tag]) for tag in sorted(parts)) + pixels
    if syntax == DEFLATED:
        stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = stream.compress(body) + stream.flush()
    return b"\0" * 128 + b"DICM" + element(2, 0x10, b"UI", syntax) + body


def frames_of(*frames):
    """Encoded pixels: an empty table of offsets, then one item for each frame."""
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(each)) + each for each in (b"", *frames))
    return struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 2**32 - 1) + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif(width, height, frames):
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\0\0"
    return head + (b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0") * frames + b";"


def tiff(entries, *, pages=1):
    """A TIFF of one grey pixel with more entries, its directory said ``pages`` times."""
    base = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    lines = [struct.pack("<HHII", *each) for each in [*((tag, 4, 1, value) for tag, value in base), *entries]]
    size = 2 + 12 * len(lines) + 4
    ends = [8 + size * page for page in range(1, pages)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(
        struct.pack("<H", len(lines)) + b"".join(lines) + struct.pack("<I", end) for end in ends
    )


def many_scans():
    data = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 200 + data[-2:]


def much_exif():
    directory = b"II*\0\x08\0\0\0\xff\xff" + b"".join(struct.pack("<HHII", n, 7, 90_000, 8) for n in range(7400))
    parts = [directory[at : at + 60_000] for at in range(0, len(directory), 60_000)]
    exif = b"".join(b"\xff\xe1" + struct.pack(">H", len(part) + 8) + b"Exif\0\0" + part for part in parts)
    data = encoded(Image.new("CMYK", (8, 8)), "JPEG")
    return data[:2] + exif + data[2:]


def large_tiles():
    return tiff([(322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 8), (325, 4, 1, 9)])


def rle(made):
    return struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * (made // 128)


def items_without_end():
    head = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 2**32 - 1)
    return head + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 6_000 + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def wide_webp():
    data = bytearray(encoded(Image.new("L", (8, 8)), "WEBP", lossless=True))
    data[21:25] = struct.pack("<I", 8189 | 8189 << 14)
    return bytes(data)


BOMBS = {
    "deflated DICOM": (lambda: dicom(DEFLATED, element(0x7FE1, 0x10, b"OB", bytes(3 << 20))), "when inflated"),
    "large DICOM": (lambda: dicom(RLE, frames_of(rle(128)), side=16_000), "values; expected 1 to"),
    "RLE DICOM": (lambda: dicom(RLE, frames_of(rle(1 << 20))), "more bytes than the frame has pixels"),
    "frames of DICOM": (lambda: dicom(RLE, frames_of(rle(128)), side=1, frames=20_000), "at most 10,000"),
    "JPEG 2000 in DICOM": (
        lambda: dicom(JPEG_2000, frames_of(encoded(Image.new("L", (999, 999)), "JPEG2000", no_jp2=True))),
        "not 8 x 8 pixels",
    ),
    "items of DICOM": (
        lambda: dicom(EXPLICIT, element(0x7FE0, 0x10, b"OW", bytes(64)), before=items_without_end()),
        "elements",
    ),
    "frames of GIF": (lambda: gif(1, 1, 20_000), "frames"),
    "pixels of GIF": (lambda: gif(4000, 4000, 16), "16 x 4000 x 4000"),
    "chunks of PNG": (lambda: encoded(Image.new("L", (8, 8)), "PNG")[:33] + chunk(b"prVt") * 110_000, "chunks"),
    "row of PNG": (lambda: encoded(Image.new("L", (1_000_001, 1)), "PNG"), "a side of more than 1000000"),
    "scans of JPEG": (many_scans, "scans"),
    "EXIF of JPEG": (much_exif, "EXIF"),
    "tiles of TIFF": (large_tiles, "tiles of 30000 x 30000"),
    "pages of TIFF": (lambda: tiff([], pages=20_000), "pages"),
    "entries of TIFF": (lambda: tiff([(1000 + n, 7, 60_000, 8) for n in range(5000)]), "more bytes than the file"),
    "PPM in Python": (lambda: b"P6 2000 2000 200\n" + bytes(12_000_000), "2000 x 2000 pixels"),
    "RLE BMP": (
        lambda: b"BM" + struct.pack("<IIIIiiHH6I", 0, 0, 54, 40, 3000, 3000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(2048),
        "3000 x 3000 pixels",
    ),
    "wide WEBP": (wide_webp, "8190 x 8190 pixels"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_cost_gigabytes_or_minutes_is_refused(name, monkeypatch):
    monkeypatch.setattr("tether.data.dicom_limits.MAX_INFLATED", 2 << 20)  # the true limits take seconds to reach
    monkeypatch.setattr("tether.data.dicom_limits._MOST_READS", 10_000)
    make, message = BOMBS[name]
    with pytest.raises(InputError, match=message):
        read_deep(make())


def test_postscript_is_never_run(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    for read in (decode, read_deep):
        with pytest.raises(InputError, match="not an image") as caught:
            read(data)
        assert "PS-Adobe" not in str(caught.value)  # what a file holds is not said
    assert image_size(data) == (0, 0)
    assert not fingerprints([data]).readable.any()


@pytest.mark.parametrize("kind", ["RGBA", "I;16", "P"])
def test_no_copy_of_the_whole_is_made_while_a_large_image_is_converted(kind):
    data = encoded(Image.new(kind, (4000, 4000)), "PNG")
    tracemalloc.start()
    try:
        decode(data)
        assert tracemalloc.get_traced_memory()[1] < 4000 * 4000 * 3 + (40 << 20)
        values = np.zeros((1, 3000, 3000), np.float32)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        WindowLevel(0, 5)(values)
        assert tracemalloc.get_traced_memory()[1] - before < 3000 * 3000 + (50 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("lies", range(1, 9))
def test_every_way_an_image_can_lie(lies):
    exif = Image.Exif()
    exif[0x0112] = lies
    image = Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))
    data = encoded(image, "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data).permute(1, 2, 0), upright)


def test_large_images_have_the_same_prints_as_small_copies():
    noise = np.random.default_rng(0).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    small, large = (Image.fromarray(noise).resize((side, side), Image.Resampling.NEAREST) for side in (600, 4200))
    found = fingerprints([encoded(small, "PNG"), encoded(large, "PNG", compress_level=1)])
    assert found.readable.all()
    assert found.pixels.tolist() == [600**2, 4200**2]
    assert int(found.shape[0] ^ found.shape[1]).bit_count() <= 4


def test_a_deflated_file_and_an_animation_are_still_read():
    pixels = element(0x7FE0, 0x10, b"OW", bytes(range(64)))
    plain, deflated = (read_dicom(dicom(syntax, pixels)).values for syntax in (EXPLICIT, DEFLATED))
    np.testing.assert_array_equal(plain, deflated)
    assert deflated.max() == 63
    frames = [Image.new("L", (6, 4), value) for value in (0, 99, 200)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert read_deep(data).values.shape == (3, 4, 6)
    phone = encoded(frames[0], "MPO", save_all=True, append_images=[Image.new("L", (2, 2))])
    assert read_deep(phone).values.shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("old", "new"), [(b"\x60\0CS", b"\x60\0ZZ"), (b"\x52\x10DS", b"\x52\x10SQ"), (b"\x10\0US", b"\x10\0OB")]
)
def test_a_damaged_element_is_an_input_error(old, new):
    data = (FILES / "CT_small.dcm").read_bytes().replace(old, new)
    for read in (read_dicom, decode, read_deep):
        with pytest.raises(InputError):
            read(data)


@pytest.mark.parametrize("name", ["MR_small", "MR_small_RLE", "SC_rgb_rle_16bit", "PNG", "TIFF", "GIF", "JPEG", "WEBP"])
def test_damaged_files_raise_only_input_errors(name):
    chance = random.Random(name)
    values = Image.fromarray((np.arange(20 * 30).reshape(20, 30) * 90).astype(np.uint16))
    grey = values if name in ("PNG", "TIFF") else Image.new("L", (30, 20), 7)
    whole = encoded(grey, name) if name.isupper() else (FILES / f"{name}.dcm").read_bytes()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 3, 20))):
            at = chance.randrange(min(len(data), chance.choice((64, 1500))))
            data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(5))
        for read in (decode, read_deep):
            with contextlib.suppress(InputError):
                read(bytes(data))
