"""Experts that people have: a model in a folder of transformers, a column of the data, a folder of mask files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.atomic_io import local, read_json
from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError, TetherError, UnsupportedModelError, refusing
from tether.core.model_digest import file_digest
from tether.core.printable import quoted
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data.dense_labels import Task, mask_file, read_png
from tether.models.config_check import MAX_BYTES, MAX_SIDE, blamed_on, check_values, mapping, without_records
from tether.models.convert.hugging_face import CONFIG_FILE, WEIGHTS_FILES
from tether.models.convert.image_processor import read_processor
from tether.models.convert.weights import find_weights, read_weights
from tether.models.encoders.causal_lm import quiet

_CLASSES = {"seg": "AutoModelForSemanticSegmentation", "depth": "AutoModelForDepthEstimation"}


class TransformersExpert:
    """A segmentation or depth model of transformers, from a local folder with safetensors and its image processor.

    Any that ``AutoModelForSemanticSegmentation`` or ``AutoModelForDepthEstimation`` loads: SegFormer, UperNet, DPT,
    Depth Anything. Code from the folder is never run, and nothing is unpickled or downloaded.

    Attributes:
        name: of the folder.
        version: SHA-256 over its weights, 12 digits.
        classes: of a segmentation model.
    """

    @checked
    def __init__(
        self,
        folder: str | Path,
        *,
        task: Literal["seg", "depth"],
        device: str = "cpu",
        longest: Count = 512,
        gives: Literal["distance", "inverse"] = "inverse",
    ) -> None:
        """Load it.

        Args:
            folder: with ``config.json``, ``preprocessor_config.json`` and ``*.safetensors``.
            task: what it is asked.
            device: where it runs.
            longest: pixels of the longer side of a label at most.
            gives: of a depth model: ``inverse`` depth, larger is nearer, as MiDaS, DPT and Depth Anything; or
                ``distance``, as ZoeDepth and GLPN.

        Raises:
            InputError: no such folder, no safetensors, or no model of this task.
            MissingExtraError: without transformers.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingExtraError("transformers", extra="hf") from error
        library: Any = transformers
        path = local(folder)
        weights = sorted(path.glob("*.safetensors"))
        if not (path / CONFIG_FILE).is_file() or not weights:
            raise InputError(f"{folder}: expected a folder of transformers with a {CONFIG_FILE} and *.safetensors")
        values = mapping(read_json(path / CONFIG_FILE), where=str(path / CONFIG_FILE))
        with blamed_on(path / CONFIG_FILE):
            check_values(values)
            _refuse_fetching(values)
        _check_sides(path)
        file = find_weights(path, WEIGHTS_FILES, pickles="pytorch_model*.bin", random_weights=False)
        try:
            with quiet():
                self._processor = library.AutoImageProcessor.from_pretrained(
                    path, use_fast=False, local_files_only=True, trust_remote_code=False
                )
                config = library.CONFIG_MAPPING[values["model_type"]].from_dict(without_records(values))
                with torch.device("meta"):
                    outline = getattr(library, _CLASSES[task]).from_config(config, trust_remote_code=False)
                state = read_weights(cast(Path, file))
                _check_size(outline, state, where=str(path / CONFIG_FILE))
                model = type(outline).from_pretrained(None, config=config, state_dict=state, dtype=torch.float32)
        except Exception as error:  # transformers raises of many kinds
            if isinstance(error, TetherError):
                raise
            said = " ".join(str(error).split())[:300]
            raise UnsupportedModelError(f"{folder}: no model that transformers loads for {task!r}: {said}") from error
        self._model = model.to(device).eval()
        self._device, self._longest, self._sign = device, longest, -1.0 if gives == "inverse" else 1.0
        self.task: Task = task
        self.name = path.resolve().name
        total = hashlib.sha256("".join(map(file_digest, weights)).encode()).hexdigest()
        self.version = total[:12]
        self.classes: int | None = model.config.num_labels if task == "seg" else None

    @torch.no_grad()
    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, ...]:
        """Probabilities (k, h, w), or distances (h, w) of any scale, at the image's size but for ``longest``."""
        height, width = image.shape[1:]
        share = min(1.0, self._longest / max(height, width))
        size = max(1, round(height * share)), max(1, round(width * share))
        with refusing(f"{self.name}: failed on an image of {height} x {width}"):
            given = self._processor(images=image.permute(1, 2, 0).cpu().numpy(), return_tensors="pt")
            found = self._model(given["pixel_values"].to(self._device))
            values = found.logits if self.task == "seg" else found.predicted_depth[:, None]
            whole = F.interpolate(values.float(), size=size, mode="bilinear")[0]
        return whole.softmax(dim=0) if self.task == "seg" else self._sign * whole[0]


def _refuse_fetching(values: Any) -> None:
    """Refuse a backbone by a name, which transformers would look for on the hub."""
    if not isinstance(values, Mapping):
        return
    name, of_timm = values.get("backbone"), values.get("model_type") == "timm_backbone"
    if isinstance(name, str) and (not of_timm or ":" in name or "/" in name):
        raise InputError(f"backbone: {quoted(name)} would be fetched; expected backbone_config, which describes it")
    for inner in values.values():
        _refuse_fetching(inner)


def _check_sides(folder: Path) -> None:
    """Refuse a processor that makes images of any size that its file says."""
    said = read_processor(folder) or {}
    for key in ("size", "crop_size", "pad_size"):
        sides = said.get(key)
        for side in sides.values() if isinstance(sides, Mapping) else [sides]:
            if isinstance(side, (int, float)) and not side <= MAX_SIDE:
                raise InputError(f"{folder}: image processor: {key}: expected at most {MAX_SIDE}, got {quoted(sides)}")


def _check_size(outline: Any, state: Mapping[str, Tensor], *, where: str) -> None:
    """Refuse a description of a model that is far larger than its weights."""
    asked, there = (sum(one.numel() for one in some) for some in (outline.state_dict().values(), state.values()))
    if 4 * asked > MAX_BYTES + 8 * there:
        raise InputError(f"{where}: asks for {asked:,} numbers, and the weights beside it hold {there:,}")


class ColumnLabels:
    """Labels that stand in a column of the data: class numbers (h, w), depth from 0 to 1, or normals (h, w, 3)."""

    def __init__(self, column: str, *, classes: int | None = None) -> None:
        """Args: column: its name. classes: how many, of class numbers."""
        self.name, self.version, self.classes, self._column = f"column {column}", "", classes, column

    def label_row(self, row: Row) -> np.ndarray | None:
        """The label of a row; None where the cell is empty.

        Raises:
            InputError: no such column, or what is no array.
        """
        if self._column not in row.meta:
            raise InputError(f"{row.key}: no column {self._column!r} of labels; {closest(self._column, row.meta)}")
        cell = row.meta[self._column]
        if cell is None:
            return None
        try:
            label = np.asarray(cell)
        except ValueError:
            raise InputError(f"{row.key}: {self._column}: expected rows of equal length") from None
        if label.dtype.kind not in "buif":
            raise InputError(f"{row.key}: {self._column}: expected numbers, got {type(cell).__name__}")
        return label


class FileLabels:
    """Class numbers in PNG files (grey or palette) of a folder that mirrors the images', such as CamVid's masks."""

    def __init__(self, folder: str | Path, *, classes: int) -> None:
        """Args: folder: with a file of each image's name, ending in .png. classes: how many; 255 is none."""
        self._folder = local(folder)
        if not self._folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        self.name, self.version, self.classes = f"files {self._folder.resolve().name}", "", classes

    def label_row(self, row: Row) -> np.ndarray | None:
        """The mask of a row; None without a file.

        Raises:
            InputError: a file that is no such PNG.
        """
        path = mask_file(self._folder, row.key)
        return read_png(path) if path.is_file() else None
