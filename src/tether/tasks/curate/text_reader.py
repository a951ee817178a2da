"""What stands written in an image: any callable may read, RapidOCR does where nobody brings another."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Int, UInt8
from torch import Tensor

from tether.core.errors import InputError, MissingExtraError
from tether.core.ranges import Count, Share, checked
from tether.core.runtime_protocol import ByAttributes
from tether.core.telemetry import telemetry_off
from tether.core.types import ImageLike
from tether.data.images import decode
from tether.data.inpaint import Fill, fill_boxes

if TYPE_CHECKING:
    from rapidocr import RapidOCR

Side = Annotated[int, Ge(32), Le(4096)]
SIDE = 320
"""Pixels that the shorter side has at least when text is looked for; RapidOCR's own 736 takes four times as long."""
LEAST_SCORE, LEAST_LETTERS = 0.8, 2
"""Below these a reading is as often a ring taken for an O as it is text."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Text found in one image.

    Attributes:
        lines: what was read, a word or a line each.
        boxes: (n, 4) x0, y0, x1, y1 in pixels around each, the last two exclusive.
        scores: how sure the reader was of each, 0 to 1; none where it does not say.
    """

    lines: tuple[str, ...]
    boxes: Int[np.ndarray, "n 4"]
    scores: tuple[float, ...] = ()


@runtime_checkable
class TextReader(Protocol, metaclass=ByAttributes):
    """Reads images."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its answers, as plain values: options, and digests of weights."""
        ...

    def __call__(self, image: ImageLike | UInt8[Tensor, "3 h w"]) -> Reading:
        """What stands in an image."""
        ...


class RapidReader:
    """PP-OCR by RapidOCR on one thread, with the weights that come with its package; nothing is downloaded.

    Args:
        side: pixels to which a smaller shorter side is brought; larger finds smaller letters and takes longer.
        least_score: confidence below which a line is left out.
        least_letters: lines with fewer letters and digits are left out.
    """

    @checked
    def __init__(
        self, *, side: Side = SIDE, least_score: Share = LEAST_SCORE, least_letters: Count = LEAST_LETTERS
    ) -> None:
        """Take the settings; weights are loaded at the first image, once in each process."""
        self.side, self.least_score, self.least_letters = side, least_score, least_letters

    @property
    def settings(self) -> dict[str, Any]:
        """Options, and the SHA-256 of all weights."""
        return {
            "name": "rapidocr",
            "side": self.side,
            "least_score": self.least_score,
            "least_letters": self.least_letters,
            "weights_sha256": _weights_digest(),
        }

    def __call__(self, image: ImageLike | UInt8[Tensor, "3 h w"]) -> Reading:
        """Read one image.

        Raises:
            InputError: it cannot be decoded.
            MissingExtraError: RapidOCR is not installed.
        """
        pixels = image if isinstance(image, Tensor) else decode(image)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[0] != 3:
            raise InputError(f"expected uint8 pixels (3, h, w), got {pixels.dtype} {tuple(pixels.shape)}")
        found = rapid_engine(self.side)(bgr(pixels), use_det=True, use_cls=True, use_rec=True)
        lines, scores = list[str](), list[float]()
        boxes: list[list[int]] = []
        for line, corners, score in zip(found.txts or (), _corners(found.boxes), found.scores or (), strict=True):
            if score >= self.least_score and sum(map(str.isalnum, line)) >= self.least_letters:
                low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
                lines.append(line)
                scores.append(float(score))
                boxes.append([*map(int, low), *map(int, high)])
        return Reading(tuple(lines), np.array(boxes, np.int64).reshape(-1, 4), tuple(scores))


class FillText:
    """Paints over the text that a reader finds, so that a score speaks of the rest of the image.

    After T-MARS (locuslab/T-MARS), which fills each box of text with the mean colour around it.

    Args:
        reader: finds the text; None for ``RapidReader()``.
        fill: as ``data.inpaint.fill_boxes``.
    """

    @checked
    def __init__(self, reader: TextReader | None = None, *, fill: Fill = "border") -> None:
        """Take the reader."""
        self.reader = RapidReader() if reader is None else reader
        self.fill: Fill = fill

    @property
    def settings(self) -> dict[str, Any]:
        """The reader's, and the fill."""
        return {"name": "fill_text", "fill": self.fill, "reader": self.reader.settings}

    def __call__(self, image: ImageLike | UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
        """The image without its text."""
        pixels = image if isinstance(image, Tensor) else decode(image)
        return fill_boxes(pixels, self.reader(pixels).boxes, fill=self.fill)


def _corners(boxes: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 4, 2)) if boxes is None else np.asarray(boxes)


def bgr(pixels: UInt8[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Pixels as RapidOCR expects them."""
    return pixels.flip(0).permute(1, 2, 0).contiguous().numpy()


@functools.lru_cache(maxsize=2)
def rapid_engine(side: int = SIDE) -> RapidOCR:
    """RapidOCR on one thread, loaded once in each process.

    It keeps what a call told it to do for the calls after, so each says whether it looks for text (``use_det``), turns
    it upright (``use_cls``) and reads it (``use_rec``).

    Args:
        side: see ``RapidReader``.

    Raises:
        MissingExtraError: RapidOCR is not installed.
    """
    telemetry_off()
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingExtraError("rapidocr", extra="ocr") from error
    threads = "EngineConfig.onnxruntime"
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Det.limit_side_len": side,
            f"{threads}.intra_op_num_threads": 1,
            f"{threads}.inter_op_num_threads": 1,
        }
    )


@functools.cache
def _weights_digest() -> str:
    """SHA-256 over the names and bytes of the weights in RapidOCR's package."""
    telemetry_off()
    try:
        import rapidocr
    except ImportError as error:
        raise MissingExtraError("rapidocr", extra="ocr") from error
    found = hashlib.sha256()
    for path in sorted((Path(rapidocr.__file__).parent / "models").glob("*.onnx")):
        found.update(f"{path.name}\x00{path.stat().st_size}\x00".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
