"""DICOM files to grey values, with what a data set needs of their header and no more; read by pydicom."""

from __future__ import annotations

import math
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tether.core.errors import InputError, MissingExtraError, reason_of
from tether.core.hash_rng import hash_int
from tether.data.dicom_limits import Counted, check_frames, inflated
from tether.data.image_file import image_bytes
from tether.data.image_headers import is_dicom
from tether.data.intensity_window import Curve, DeepImage, WindowLevel, brightness

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MAX_VALUES = 1 << 26
"""Most grey values (rows x columns x frames x channels) that are decoded; a quarter of a gigabyte as float32."""
_ONE_AT_A_TIME = threading.Lock()  # filters of warnings belong to the process, not to a thread
_BAND = 1 << 20
"""Values that are rescaled at once, in 64 bits."""
_TAGS = (
    *("Modality", "ViewPosition", "PatientID", "StudyInstanceUID", "RescaleType", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction", "NumberOfFrames", "Rows", "Columns"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "PixelRepresentation", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable"),
    "ExtendedOffsetTableLengths",
    *(
        f"{kind}{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
    ),
)
"""All that is read of a header."""
_CURVES: dict[str, Curve] = {"": "linear", "LINEAR": "linear", "LINEAR_EXACT": "linear_exact", "SIGMOID": "sigmoid"}


def read_dicom(data: bytes | Path, *, name: str = "", secret: str = "", max_values: int = MAX_VALUES) -> DeepImage:
    """Decode a DICOM file, with its rescale slope and intercept applied.

    Args:
        data: the file's bytes, or its path.
        name: what errors call it; a path names itself.
        secret: makes the pseudonyms of patient and study: equal within a data set, and of no use without it. Empty
            gives none.
        max_values: larger images are refused before they are decoded.

    Raises:
        MissingExtraError: without pydicom.
        InputError: no such file, not DICOM, no pixels in it, too many, or pixels that cannot be decoded here.
    """
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise MissingExtraError("pydicom", extra="medical") from error

    if isinstance(data, Path):
        name, data = name or str(data), image_bytes(data, name=name)
    name = name or "image"
    if not is_dicom(data):
        raise InputError(f"{name}: not a DICOM file ({len(data)} bytes without the mark DICM)")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every oddity that it has dealt with
        header = None
        try:
            header = pydicom.dcmread(Counted(inflated(data)), specific_tags=list(_TAGS))
            return _decoded(header, secret=secret, max_values=max_values)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        except Exception as error:  # pydicom and its decoders raise many kinds for a broken file
            what = f"broken DICOM file of {len(data)} bytes" if header is None else "cannot decode the image"
            raise InputError(f"{name}: {what}: {reason_of(error)}") from error


def pseudonym(identity: str, *, secret: str, what: str) -> int | None:
    """A 63-bit number in place of an identity: equal for equal ones, and not to be guessed without the secret.

    Args:
        identity: such as a patient's number; an empty one has no pseudonym.
        secret: keep it apart from the data; an empty one gives None.
        what: ``patient`` or ``study``, so that one cannot be matched with the other.
    """
    if not identity.strip() or not secret:
        return None
    return hash_int(identity.strip(), salt=f"{what}\x00{secret}") >> 1


def _decoded(header: Dataset, *, secret: str, max_values: int) -> DeepImage:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    shape = [_number(header, key) for key in ("NumberOfFrames", "Rows", "Columns", "SamplesPerPixel")]
    if not any(key in header for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError(f"a DICOM file without an image ({_word(header, 'Modality')[:16] or 'no modality'})")
    if min(shape) < 1 or math.prod(shape) > max_values:
        raise InputError(f"{' x '.join(map(str, shape))} values; expected 1 to {max_values}")
    check_frames(header, frames=shape[0], rows=shape[1], columns=shape[2])
    kind = _word(header, "PhotometricInterpretation")
    lines = pixel_array(header).reshape(shape[0] * shape[1], shape[2], -1)  # as RGB where the file has other colours
    values = np.empty(lines.shape[:2], np.float32)
    is_colour = shape[3] == 3 or kind == "PALETTE COLOR"
    colour = np.empty((*lines.shape[:2], 3), np.uint8) if is_colour else None
    step = max(1, _BAND // lines[0].size)
    for top in range(0, len(lines), step):  # in bands: between, values have 64 bits
        band = lines[top : top + step]
        if colour is None:
            values[top : top + step] = apply_modality_lut(band[..., 0], header)
            continue
        shown = apply_color_lut(band[..., 0], header) if kind == "PALETTE COLOR" else band
        colour[top : top + step] = _eight_bits(shown)
        values[top : top + step] = brightness(colour[top : top + step])
    polarity = "inverted" if kind == "MONOCHROME1" else "normal"
    modality = _word(header, "Modality")
    return DeepImage(
        values=values.reshape(shape[:3]),
        colour=None if colour is None else colour.reshape(*shape[:3], 3),
        window=None if colour is not None else _window(header, polarity=polarity),
        polarity=polarity,
        unit=_word(header, "RescaleType") or ("HU" if modality == "CT" else ""),
        modality=modality,
        view=_word(header, "ViewPosition"),
        patient=pseudonym(_word(header, "PatientID"), secret=secret, what="patient"),
        study=pseudonym(_word(header, "StudyInstanceUID"), secret=secret, what="study"),
    )


def _window(header: Dataset, *, polarity: Literal["normal", "inverted"]) -> WindowLevel | None:
    """The first window of the file, where it has one that makes sense."""
    try:
        center, width = (float(_first(header.get(key))) for key in ("WindowCenter", "WindowWidth"))
        curve = _CURVES[_word(header, "VOILUTFunction").upper()]
        return WindowLevel(center, width, curve, polarity)
    except (TypeError, ValueError, KeyError):  # InputError is a ValueError
        return None


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    top = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.0
    return np.round(pixels.astype(np.float64) * (255 / top)).clip(0, 255).astype(np.uint8)


def _first(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) or value is None else value[0]


def _number(header: Dataset, key: str) -> int:
    """A whole number of the header; 1 where the file does not say, as for the frames of most files."""
    try:
        return int(header.get(key, 1) or 1)
    except (TypeError, ValueError):
        return 0


def _word(header: Dataset, key: str) -> str:
    value = header.get(key)
    return "" if value is None else str(value).strip()
