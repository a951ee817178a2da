"""Images of more than 8 bits: windows against pydicom's, DICOM files of every kind, 16-bit PNG and TIFF, volumes."""

import io
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from tether.core.errors import InputError
from tether.data import open_source
from tether.data.dicom import pseudonym, read_dicom
from tether.data.image_headers import is_dicom
from tether.data.images import decode
from tether.data.intensity_window import WindowLevel
from tether.methods.medical_survey.high_bit_depth import read_deep

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
VALUES = np.linspace(-1200, 1800, 61)


def file(pixels, kind="PNG", **more):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("curve", ["linear", "linear_exact", "sigmoid"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (0.5, 1), (100, 2)])
def test_windows_are_those_of_the_standard(curve, center, width):
    from pydicom.pixels.processing import apply_windowing

    header = pydicom.Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 16, 1
    header.WindowCenter, header.WindowWidth, header.VOILUTFunction = center, width, curve.upper()
    header.RescaleSlope, header.RescaleIntercept = 1, 0
    with np.errstate(over="ignore"):
        wanted = apply_windowing(VALUES, header)  # to the signed range of 16 bits
    share = (wanted + 2**15) / (2**16 - 1)
    found = WindowLevel(center, width, curve)(VALUES)
    assert np.abs(found - 255 * share).max() <= 0.5 + 1e-6


def test_a_window_is_black_below_white_above_and_can_be_turned_over():
    window = WindowLevel(50, 100, "linear_exact")
    assert window(np.array([-9, 0, 50, 100, 999])).tolist() == [0, 0, 128, 255, 255]
    turned = WindowLevel(50, 100, "linear_exact", "inverted")
    assert turned(np.array([-9, 0, 100, 999])).tolist() == [255, 255, 0, 0]
    assert WindowLevel(5, 1)(np.array([4, 5])).tolist() == [0, 255]
    assert window(np.array([np.nan, np.inf, -np.inf])).tolist() == [0, 255, 0]


def test_a_window_from_values_leaves_hot_pixels_outside():
    values = np.concatenate([np.linspace(0, 100, 999), [1e9]])
    window = WindowLevel.from_values(values)
    assert window.center == pytest.approx(50, abs=1)
    assert window.width == pytest.approx(100, abs=2)
    assert WindowLevel.from_values(np.full(4, 7))(np.full(4, 7)).tolist() == [128] * 4
    assert WindowLevel.from_values(np.array([np.nan, 1, 3.0]), percentiles=(0, 100)) == WindowLevel.from_range(1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: WindowLevel(0, 0.5), "width: expected at least 1"),
        (lambda: WindowLevel.from_range(3, 3), "low < high"),
        (lambda: WindowLevel.from_values(np.array([np.nan])), "at least one finite value"),
        (lambda: WindowLevel.from_values(np.ones(3), percentiles=(50, 50)), "percentiles"),
        (lambda: WindowLevel(0, 5)(np.array(["a"])), "grey values"),
    ],
)
def test_bad_windows_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_hounsfield_units_come_out_whatever_the_transfer_syntax():
    found = read_dicom(FILES / "CT_small.dcm")
    assert (found.unit, found.modality, found.values.shape) == ("HU", "CT", (1, 128, 128))
    stored = pydicom.dcmread(FILES / "CT_small.dcm")
    np.testing.assert_array_equal(found.values[0], stored.pixel_array * stored.RescaleSlope + stored.RescaleIntercept)
    plain = read_dicom(FILES / "MR_small.dcm")
    assert plain.window == WindowLevel(600, 1600)
    for name in ("MR_small_RLE", "MR_small_bigendian", "MR_small_implicit", "MR_small_jp2klossless"):
        np.testing.assert_array_equal(read_dicom(FILES / f"{name}.dcm").values, plain.values)


def test_the_lowest_value_is_white_where_the_file_says_so():
    data = (FILES / "MR_small.dcm").read_bytes()
    turned = read_dicom(data.replace(b"MONOCHROME2", b"MONOCHROME1"))
    plain = read_dicom(data)
    assert turned.polarity == "inverted"
    assert np.abs(turned.grey().astype(int) + plain.grey() - 255).max() <= 1
    window = WindowLevel(600, 800)
    assert np.abs(turned.grey(window=window).astype(int) + plain.grey(window=window) - 255).max() <= 1


def test_colours_palettes_and_films():
    film = read_dicom(FILES / "examples_ybr_color.dcm")
    assert film.colour.shape == (30, 240, 320, 3)
    assert film.values.shape == (30, 240, 320)
    assert read_dicom(FILES / "examples_palette.dcm").colour.shape == (1, 350, 800, 3)
    wide, narrow = (read_dicom(FILES / f"SC_rgb_rle{bits}.dcm").colour for bits in ("_16bit", ""))
    assert np.abs(wide.astype(int) - narrow).max() <= 1
    assert decode(FILES / "SC_rgb_rle.dcm").shape == (3, 100, 100)


def test_identities_are_pseudonyms_or_nothing():
    found = read_dicom(FILES / "CT_small.dcm", secret="one")
    assert read_dicom(FILES / "CT_small.dcm").patient is None
    again, other = (read_dicom(FILES / "CT_small.dcm", secret=word) for word in ("one", "two"))
    assert found.patient == again.patient
    assert found.patient != other.patient
    assert found.patient != found.study
    header = pydicom.dcmread(FILES / "CT_small.dcm")
    said = repr([found.modality, found.view, found.patient, found.study, found.unit, found.window])
    assert str(header.PatientID) not in said
    assert str(header.PatientName) not in said
    assert pseudonym(" ", secret="one", what="patient") is None
    assert pseudonym("7", secret="one", what="patient") == pseudonym("7 ", secret="one", what="patient")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reportsi.dcm", "without an image"),
        ("MR_truncated.dcm", "cannot decode the image"),
        ("rtstruct.dcm", "not a DICOM file"),
        ("badVR.dcm", "0 x 10 x 10 x 1 values"),
        ("no such.dcm", "no such file"),
    ],
)
def test_files_without_an_image_are_refused_by_name(name, message):
    with pytest.raises(InputError, match=message) as caught:
        read_dicom(FILES / name)
    assert name in str(caught.value)


def test_broken_bytes_are_refused_and_large_ones_before_decoding():
    data = (FILES / "CT_small.dcm").read_bytes()
    with pytest.raises(InputError, match=r"scan 7: .*expected 1 to 1000"):
        read_dicom(data, name="scan 7", max_values=1000)
    for length in range(132, len(data) // 2, 997):
        with pytest.raises(InputError):
            read_dicom(data[:length])
    assert not is_dicom(b"")
    assert decode(data).shape == (3, 128, 128)
    with pytest.raises(InputError, match="128 x 128 pixels"):
        decode(data, max_pixels=1000)


def test_sixteen_bits_survive_png_and_tiff_and_colour_is_no_depth():
    values = (np.arange(12).reshape(3, 4) * 5000).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(read_deep(file(values, kind)).values[0], values)
    np.testing.assert_array_equal(read_deep(values).values[0], values)
    pages = [Image.fromarray(values + page) for page in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert read_deep(buffer.getvalue()).values[:, 0, 0].tolist() == [0, 1, 2]
    assert read_deep(np.zeros((3, 4, 3), np.uint8)).colour.shape == (1, 3, 4, 3)
    floats = read_deep(file(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4), "TIFF"))
    assert floats.values.min() == -1
    for bad in (b"", b"nothing", file(values)[:60], np.zeros((2, 2), complex), np.zeros((0, 3)), Path("none.png")):
        with pytest.raises(InputError):
            read_deep(bad)
    with pytest.raises(InputError, match="more than 3 are refused"):
        read_deep(file(values), max_values=3)


def test_a_folder_of_scans_is_a_source_and_a_window_shows_it(tmp_path):
    for name in ("CT_small", "MR_small", "rtdose", "reportsi"):
        shutil.copy(FILES / f"{name}.dcm", tmp_path)
    plain = open_source(str(tmp_path))
    rows = {row.key: row for block in plain.blocks() for row in plain.read(block)}
    assert decode(rows["CT_small.dcm"].image).shape == (3, 128, 128)
    shown = open_source({"name": "windowed", "source": str(tmp_path), "center": 40, "width": 400, "secret": "s"})
    rows = {row.key: row for block in shown.blocks() for row in shown.read(block)}
    scan = rows["CT_small.dcm"]
    np.testing.assert_array_equal(scan.image, WindowLevel(40, 400)(read_dicom(FILES / "CT_small.dcm").values[0]))
    assert scan.meta["modality"] == "CT"
    assert isinstance(scan.meta["patient"], int)
    assert "without an image" in rows["reportsi.dcm"].bad


def test_every_slice_can_be_a_row(tmp_path):
    for name in ("rtdose", "rtdose_1frame"):
        shutil.copy(FILES / f"{name}.dcm", tmp_path)
    source = open_source({"name": "windowed", "source": str(tmp_path), "frames": "each"})
    (block,) = source.blocks()
    assert block.rows is None
    keys = [row.key for row in source.read(block)]
    assert keys == [*(f"rtdose.dcm#{number:04d}" for number in range(15)), "rtdose_1frame.dcm#0000"]
    assert [row.key for row in source.read(block, start=7)] == keys[7:]
    assert [row.meta["frame"] for row in source.read(block, start=13)] == [13, 14, 0]
    middle = open_source({"name": "windowed", "source": str(tmp_path), "frames": "middle"})
    first = open_source({"name": "windowed", "source": str(tmp_path)})
    images = [next(iter(one.read(one.blocks()[0]))).image for one in (middle, first)]
    assert not np.array_equal(*images)


def test_half_a_window_or_another_word_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(file(np.zeros((4, 4), np.uint8)))
    for settings, message in (({"center": 40.0}, "come together"), ({"frames": "last"}, "frames")):
        with pytest.raises(InputError, match=message):
            open_source({"name": "windowed", "source": str(tmp_path), **settings})


def test_threads_read_at_once_and_leave_the_warnings_as_they_were():
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_dicom, [FILES / "MR_small_padded.dcm"] * 24))
    assert warnings.filters == before
    assert all(np.array_equal(one.values, found[0].values) for one in found)
