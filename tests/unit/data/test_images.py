"""Images as they come from outside: upright, RGB, the right size, or a clear error; boxes painted over."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tables import encoded
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.images import decode, jpeg_frame, load, resize_and_crop
from tether.data.inpaint import FILLS, boxes_within, fill_boxes


def photo(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Smooth, colourful and not symmetric, so that a shift or a mirror shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_what_pillow_makes_of_it(subsampling, progressive):
    data = encoded(photo(61, 83), "JPEG", quality=90, subsampling=subsampling, progressive=progressive)
    ours, theirs = decode(data), pixels_of(Image.open(io.BytesIO(data)))
    assert ours.shape == (3, 61, 83)
    assert ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(kind, orientation):
    upright = photo(48, 32)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transpose that each orientation undoes
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif, **({"quality": 98, "subsampling": 0} if kind == "JPEG" else {}))
    ours = decode(data)
    assert ours.shape == (3, 48, 32)
    assert (ours.float() - pixels_of(upright).float()).abs().mean() < 4


def test_sixteen_bit_grey_is_scaled():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    ours = decode(encoded(Image.fromarray(values), "PNG"))
    assert torch.equal(ours[0], ours[2])
    assert np.abs(ours[0].numpy() - values / 257).max() <= 0.5


def test_float_grey_is_zero_to_one():
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.abs(decode(encoded(Image.fromarray(values), "TIFF"))[1].numpy() - 255 * values).max() <= 0.5
    with pytest.raises(InputError, match="grey values"):
        decode(encoded(Image.fromarray(values * 300), "TIFF"))


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = photo(20, 30).convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    ours = decode(encoded(image, kind))
    assert ours.shape == (3, 20, 30)
    assert torch.equal(ours, pixels_of(image))


def test_a_cmyk_jpeg():
    image = photo(40, 40).convert("CMYK")
    data = encoded(image, "JPEG", quality=95)
    assert jpeg_frame(data) == (40, 40, 4)
    assert torch.equal(decode(data), pixels_of(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_lies_over_white(kind):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, 2:4] = (10, 200, 30, 128)
    rgba[:, 4:] = (10, 200, 30, 255)
    ours = decode(encoded(Image.fromarray(rgba), kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert ours[:, 0, 0].tolist() == [255, 255, 255]
    assert ours[:, 0, 2].tolist() == [132, 227, 142]
    assert ours[:, 0, 5].tolist() == [10, 200, 30]
    assert torch.equal(decode(rgba), ours)


def test_a_transparent_palette_lies_over_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image, "PNG", transparency=0))[:, 0].T.tolist() == [[255, 255, 255], [250, 0, 0]]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    red, blue = Image.new("RGB", (9, 9), (255, 0, 0)), Image.new("RGB", (9, 9), (0, 0, 255))
    data = encoded(red, kind, save_all=True, append_images=[blue], duration=50)
    assert decode(data)[0].float().mean() > 240


def test_the_content_decides_and_not_the_name(tmp_path):
    for name, kind in (("a.png", "JPEG"), ("b.jpg", "PNG"), ("c.jpeg", "WEBP"), ("d", "BMP")):
        (tmp_path / name).write_bytes(encoded(photo(8, 8), kind))
        assert decode(tmp_path / name).shape == (3, 8, 8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.95])
def test_a_truncated_image_is_named(kind, keep):
    data = encoded(photo(120, 120), kind)
    with pytest.raises(InputError, match="row 17"):
        decode(data[: max(1, int(keep * len(data)))], name="row 17")


def test_what_is_no_image():
    for data, what in (
        (b"", "0 bytes"),
        (b"<html>not found</html>", "not an image"),
        (b"\xff\xd8\xff\xe0junk", "JPEG|image"),
    ):
        with pytest.raises(InputError, match=what) as caught:
            decode(data, name="k")
        assert str(caught.value).startswith("k: ")
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        decode(Path("nowhere.jpg"))
    with pytest.raises(InputError, match="expected bytes"):
        decode(3)


def test_damaged_bytes_in_the_middle_never_escape_as_another_error():
    rng = np.random.default_rng(3)
    for kind in ("JPEG", "PNG", "WEBP"):
        data = bytearray(encoded(photo(64, 64), kind))
        for _ in range(60):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 8):
                broken[at] = rng.integers(256)
            with contextlib.suppress(InputError):
                assert decode(bytes(broken)).shape[0] == 3


def _png(width: int, height: int) -> bytes:
    chunks = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def test_decompression_bombs_are_refused_before_they_are_decoded():
    with pytest.raises(InputError, match=r"50000|exceeds"):
        decode(_png(50_000, 50_000), name="bomb")
    with pytest.raises(InputError, match=r"exceeds|refused"):
        decode(_png(10_000, 10_000), name="bomb")
    jpeg = bytearray(encoded(photo(16, 16), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(InputError, match="65000 x 65000"):
        decode(bytes(jpeg), name="bomb")
    with pytest.raises(InputError, match="16 x 16 pixels; more than 100"):
        decode(encoded(photo(16, 16), "JPEG"), max_pixels=100)


def test_pixel_arrays():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert torch.equal(decode(grey), torch.from_numpy(grey).expand(3, 3, 4))
    for wrong in (grey.astype(float), grey[:, :, None].repeat(2, 2), grey[:0]):
        with pytest.raises(InputError, match="expected uint8 pixels"):
            decode(wrong, name="array")
    frozen = np.zeros((4, 4, 3), np.uint8)
    frozen.flags.writeable = False
    decode(frozen).fill_(9)
    assert frozen.max() == 0


SIZES = [(380, 460), (460, 380), (227, 350), (225, 331), (100, 57), (224, 224), (224, 300), (1000, 997), (31, 500)]


def _theirs(image: Image.Image, spec: ImageSpec) -> torch.Tensor:
    from open_clip.transform import image_transform

    size = spec.size[0] if spec.size[0] == spec.size[1] else spec.size
    transform = image_transform(
        size,
        is_train=False,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        resize_mode=spec.resize,
        interpolation=spec.interpolation,
        fill_color=spec.fill,
    )
    return (transform(image) * 255).round().to(torch.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_open_clips(height, width, interpolation):
    data = encoded(photo(height, width), "JPEG", quality=92)
    spec = ImageSpec((224, 224), interpolation=interpolation)
    difference = (load(data, spec).int() - _theirs(Image.open(io.BytesIO(data)), spec).int()).abs().float()
    assert difference.mean() <= 0.01
    assert difference.max() <= 2  # where bicubic overshoots and is cut off
    assert torch.equal(load(data, spec, exact=True), _theirs(Image.open(io.BytesIO(data)), spec))


@pytest.mark.parametrize(("height", "width"), [*SIZES, (8, 8), (5, 40)])
@pytest.mark.parametrize(
    "spec",
    [
        ImageSpec((64, 64), resize="squash"),
        ImageSpec((64, 96), resize="squash", interpolation="bilinear"),
        ImageSpec((64, 64), resize="longest", fill=127),
        ImageSpec((96, 64), resize="longest"),
        ImageSpec((64, 96), resize="shortest"),
        ImageSpec((33, 33), resize="shortest"),
    ],
    ids=str,
)
def test_every_resize_rule_is_open_clips(height, width, spec):
    image = photo(height, width, seed=1)
    difference = (resize_and_crop(pixels_of(image), spec).int() - _theirs(image, spec).int()).abs().float()
    assert difference.mean() <= 0.1  # shifted by one pixel it would be above 1
    assert difference.max() <= 2


@pytest.mark.parametrize(("height", "width"), [(1, 5000), (5000, 1), (20, 60_000)])
def test_a_thread_of_an_image_does_not_fill_the_memory(height, width):
    out = resize_and_crop(torch.full((3, height, width), 77, dtype=torch.uint8), ImageSpec((224, 224)))
    assert out.shape == (3, 224, 224)
    assert (out == 77).all()


def test_fit_checks_what_it_gets():
    for wrong in (torch.zeros(3, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)):
        with pytest.raises(InputError, match="expected uint8 pixels"):
            resize_and_crop(wrong, ImageSpec((8, 8)))


SIZE = (9, 12)


def ramp() -> torch.Tensor:
    """Grey values that rise along both sides, so that they are a harmonic function."""
    rows, columns = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    return (10 * rows + 7 * columns).to(torch.uint8).expand(3, *SIZE).clone()


@pytest.mark.parametrize("fill", FILLS)
def test_nothing_outside_the_boxes_changes(fill):
    pixels = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    boxes = np.array([[2, 1, 5, 4], [7, 5, 40, 40]])
    filled = fill_boxes(pixels, boxes, fill=fill)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[1:4, 2:5] = inside[5:, 7:] = True
    assert torch.equal(pixels, before)
    assert torch.equal(filled[:, ~inside], before[:, ~inside])
    assert (filled[:, inside] != before[:, inside]).any()


def test_a_smooth_fill_continues_a_slope_exactly():
    assert torch.equal(fill_boxes(ramp(), np.array([[3, 2, 8, 7]])), ramp())


def test_a_border_fill_is_the_mean_of_the_ring_without_other_boxes():
    pixels = torch.full((3, *SIZE), 40, dtype=torch.uint8)
    pixels[:, 3:5, 3:6] = 255  # the text
    pixels[:, 3:5, 6:8] = 255  # more of it, right beside
    pixels[:, 2, 3:6] = 80
    filled = fill_boxes(pixels, np.array([[3, 3, 6, 5], [6, 3, 8, 5]]), fill="border")
    ring = [80] * 3 + [40] * 9  # 3 above, 2 corners, 2 at the left, 5 below; what the other box covers does not count
    assert filled[0, 3, 3] == round(np.mean(ring))


@pytest.mark.parametrize("fill", FILLS)
def test_a_flat_image_stays_flat_and_a_covered_one_becomes_its_mean(fill):
    flat = torch.full((3, *SIZE), 77, dtype=torch.uint8)
    for box in ([0, 0, 12, 3], [-4, -4, 5, 50], [0, 0, 12, 9]):
        assert torch.equal(fill_boxes(flat, np.array([box]), fill=fill), flat)
    whole = fill_boxes(ramp(), np.array([[0, 0, 12, 9]]), fill=fill)
    assert torch.equal(whole, torch.full_like(whole, round(float(ramp().double().mean()))))


@given(st.lists(st.tuples(*[st.integers(-20, 20)] * 4), max_size=5))
def test_boxes_are_cut_to_the_image(boxes):
    ordered = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]).reshape(-1, 4)
    inside = boxes_within(ordered, height=SIZE[0], width=SIZE[1])
    assert (inside >= 0).all()
    assert (inside[:, 2:] <= SIZE[::-1]).all()
    assert (inside[:, 2:] > inside[:, :2]).all()
    covered = [box for box in ordered.tolist() if box[0] < min(box[2], 12) and box[1] < min(box[3], 9)]
    assert len(inside) == sum(box[2] > 0 and box[3] > 0 for box in covered)


def test_wrong_input_is_refused():
    for boxes in ([[0, 0, 1]], [[0, 0, np.nan, 1]], [["a"] * 4], [0, 0, 1, 1]):
        with pytest.raises(InputError, match="boxes"):
            boxes_within(boxes, height=5, width=5)
    with pytest.raises(InputError, match="ends before it begins"):
        boxes_within([[3, 0, 1, 1]], height=5, width=5)
    with pytest.raises(InputError, match="uint8"):
        fill_boxes(ramp().float(), np.array([[0, 0, 1, 1]]))
    assert torch.equal(fill_boxes(ramp(), np.zeros((0, 4))), ramp())
