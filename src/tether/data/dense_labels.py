"""Labels of every pixel beside a data set: classes, depth and surface normals as PNG files, moved as images are."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor

from tether.core.atomic_io import atomic_path, local, open_append, parse_json, read_bytes, read_json
from tether.core.component import closest
from tether.core.errors import InputError, WriteError
from tether.core.ranges import checked
from tether.core.types import Side
from tether.data.images import MAX_PIXELS
from tether.data.placement import Placement

Task = Literal["seg", "depth", "normal"]
TASKS: tuple[Task, ...] = ("seg", "depth", "normal")
IGNORED = 255
"""Class of a pixel without one."""
NO_DEPTH = -1.0
"""Depth of a pixel without one; others have 0, nearest, to 1."""
UNIT = 1e-2
"""How far the length of a normal may be from 1."""
INDEX, LEDGER, FORMAT = "index.json", "labels.jsonl", "tether dense labels 1"
_LARGEST = 2**30  # bytes of a ledger
_STEPS = 65534  # of depth; 0 is none


@dataclass(frozen=True, slots=True)
class Expert:
    """Who made the labels of one task.

    Attributes:
        name: of the model, function, column or folder.
        version: of its weights.
        classes: of ``seg``, else None.
    """

    name: str
    version: str
    classes: int | None = None


def checked_label(task: Task, label: np.ndarray, *, classes: int | None, where: str) -> np.ndarray:
    """A label as it is stored.

    Args:
        task: what it is of.
        label: ``seg`` (h, w) whole numbers, ``IGNORED`` for none; ``depth`` (h, w) from 0 to 1, below 0 for none;
            ``normal`` (h, w, 3) of length 1, zeros for none.
        classes: of ``seg``.
        where: file or row, for errors.

    Raises:
        InputError: another shape, a class that there is not, or normals of another length.
    """
    if label.ndim != (3 if task == "normal" else 2) or not label.size or (task == "normal" and label.shape[2] != 3):
        raise InputError(f"{where}: expected (h, w{', 3' if task == 'normal' else ''}), got {label.shape}")
    if task == "seg":
        if label.dtype.kind not in "uib":
            raise InputError(f"{where}: expected whole numbers, got {label.dtype}")
        known = label != IGNORED
        strange = label[known & ((label < 0) | (label >= (classes or IGNORED)))]
        if strange.size:
            got = f"got {strange[0]}; a number that stands for none must be {IGNORED}, or counted as a class"
            raise InputError(f"{where}: expected classes below {classes}, or {IGNORED} for none, {got}")
        return label.astype(np.uint8)
    if not np.isfinite(label).all():
        raise InputError(f"{where}: expected finite numbers, got NaN or infinity")
    label = label.astype(np.float32)
    if task == "depth":
        if label.max() > 1:
            raise InputError(f"{where}: expected depth from 0 to 1, or below 0 for none, got {label.max():.4g}")
        return np.where(label < 0, np.float32(NO_DEPTH), label)
    lengths = np.linalg.norm(label, axis=2)
    off = (lengths > 0) & (np.abs(lengths - 1) > UNIT)
    if off.any():
        raise InputError(f"{where}: expected normals of length 1, or zeros for none, got length {lengths[off][0]:.4g}")
    return label


def unknown(task: Task) -> np.ndarray:
    """The label of an image of which nothing is known: one pixel."""
    empty: dict[Task, Any] = {"seg": np.uint8(IGNORED), "depth": NO_DEPTH, "normal": np.zeros(3)}
    return np.array(empty[task])[None, None]


def write_label(path: Path, task: Task, label: np.ndarray) -> None:
    """Write a label as a PNG of 8 bits (classes), 16 bits (depth) or three times 8 bits (normals), whole or not."""
    from PIL import Image

    if task == "depth":
        label = np.where(label < 0, 0, 1 + np.round(np.clip(label, 0, 1) * _STEPS)).astype(np.uint16)
    elif task == "normal":
        known = np.linalg.norm(label, axis=2, keepdims=True) > 0
        label = np.where(known, np.round((label + 1) * 127.5), 0).astype(np.uint8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        Image.fromarray(label).save(file, format="PNG")


def read_png(path: Path) -> np.ndarray:
    """The values of a PNG: grey or palette (h, w), or colours (h, w, 3).

    Raises:
        InputError: no such file, no PNG, a damaged one, or one that is too large.
    """
    from PIL import Image, UnidentifiedImageError

    data = read_bytes(path, limit=_LARGEST)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{path}: {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        why = "of another format" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"{path}: not a PNG that can be read: {why}") from None


class LabelStore:
    """A folder of labels: ``index.json`` says who made them, ``labels.jsonl`` of which rows there are some.

    Attributes:
        experts: by task.
    """

    def __init__(self, folder: Path | str) -> None:
        """Open one.

        Raises:
            InputError: no such folder, or one of something else.
        """
        self.folder = local(folder)
        path = self.folder / INDEX
        if not path.is_file():
            raise InputError(f"{folder}: no {INDEX} of labels; `tether label` makes one")
        said = read_json(path)
        try:
            if said["format"] != FORMAT:
                raise ValueError(said["format"])
            self.experts: dict[str, Expert] = {task: _expert(given) for task, given in said["tasks"].items()}
            if self.experts.keys() - {*TASKS}:
                raise ValueError(", ".join(self.experts))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: expected an index of {FORMAT!r}, got {error!s:.300}") from None
        self.tasks_of: dict[str, set[str]] = read_ledger(self.folder)
        if unknown := set().union(*self.tasks_of.values()) - self.experts.keys():
            raise InputError(f"{path}: does not say who made the labels of {', '.join(sorted(unknown))} in {LEDGER}")

    @cached_property
    def digest(self) -> str:
        """Of who made the labels, and of which rows there are some."""
        found = hashlib.blake2b(repr(sorted(self.experts.items())).encode(), digest_size=16)
        for key, tasks in sorted(self.tasks_of.items()):
            found.update(f"\0{key}\0{','.join(sorted(tasks))}".encode(errors="replace"))
        return found.hexdigest()

    def read(self, key: str, task: Task) -> np.ndarray | None:
        """The label of a row, as ``checked_label`` gives it; None without one.

        Raises:
            InputError: a file that is missing, damaged, or holds something else.
        """
        if task not in self.tasks_of.get(key, ()):
            return None
        path = label_path(self.folder, key, task)
        values = read_png(path)
        if task == "depth" and values.ndim == 2:
            values = np.where(values == 0, NO_DEPTH, (values.astype(np.float32) - 1) / _STEPS)
        elif task == "normal" and values.ndim == 3:
            known = values.any(axis=2, keepdims=True)
            values = np.where(known, values.astype(np.float32) / 127.5 - 1, 0)
        return checked_label(task, values, classes=self.experts[task].classes, where=str(path))


def _expert(given: Any) -> Expert:
    """An expert of an index.

    Raises:
        ValueError: other values than an expert has.
    """
    found = Expert(**given)
    sound = found.classes is None or (type(found.classes) is int and 1 <= found.classes <= IGNORED)
    if not sound or not isinstance(found.name, str) or not isinstance(found.version, str):
        raise ValueError(f"expert {found}")
    return found


def label_path(folder: Path, key: str, task: str) -> Path:
    """Where the label of a row lies; keys may be names that no file can have."""
    stem = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return folder / task / stem[:2] / f"{stem}.png"


def read_ledger(folder: Path) -> dict[str, set[str]]:
    """Tasks by key; a line that a crash cut off is none."""
    found: dict[str, set[str]] = {}
    path = folder / LEDGER
    if path.is_file():
        for line in read_bytes(path, limit=_LARGEST).decode(errors="replace").split("\n"):
            try:
                said = parse_json(line, where=str(path))
                found.setdefault(str(said["key"]), set()).update(task for task in said["tasks"] if task in TASKS)
            except (InputError, KeyError, TypeError):
                continue
    return found


def add_to_ledger(folder: Path, key: str, tasks: Sequence[str]) -> None:
    """One more line."""
    path = folder / LEDGER
    try:
        with open_append(path) as file:
            file.write("\n" + json.dumps({"key": key, "tasks": list(tasks)}))
    except OSError as error:
        raise WriteError(path, error, safe="the labels that were finished are kept") from error


def check_aspect(label: tuple[int, ...], image: tuple[int, int], *, where: str) -> None:
    """Refuse a label whose shape is not that of its image, to a pixel.

    Raises:
        InputError: another aspect.
    """
    (height, width), (rows, columns) = image, label[:2]
    if min(abs(columns - rows * width / height), abs(rows - columns * height / width)) > 1:
        raise InputError(f"{where}: expected the aspect of the image, {height} x {width}, got {rows} x {columns}")


def moved(label: np.ndarray, task: Task, placement: Placement, *, size: tuple[int, int]) -> Tensor:
    """A label as a view of its image sees it: classes by the nearest pixel, all else bilinearly among known pixels.

    Normals are scaled to length 1 again, and their first number changes its sign where left and right are exchanged.

    Args:
        label: of the whole image.
        task: what it is of.
        placement: of the view; what lies beyond the image has no label.
        size: height and width that are wanted.

    Returns:
        ``seg`` (h, w) uint8, ``depth`` (1, h, w) and ``normal`` (3, h, w) float32.

    Example:
        >>> import numpy as np
        >>> from tether.data.dense_labels import moved
        >>> from tether.data.placement import Placement
        >>> right = np.zeros((2, 2, 3), np.float32) + np.array([1, 0, 0], np.float32)
        >>> moved(right, "normal", Placement(flipped=True), size=(2, 2))[:, 0, 0].tolist()
        [-1.0, 0.0, 0.0]
    """
    x0, y0, x1, y1 = placement.box
    down, across = ((torch.arange(count) + 0.5) / count for count in size)
    across = across.flip(0) if placement.flipped else across
    y, x = torch.meshgrid(2 * (y0 + down * (y1 - y0)) - 1, 2 * (x0 + across * (x1 - x0)) - 1, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    values = torch.from_numpy(np.ascontiguousarray(label, dtype=np.float32))
    if task == "seg":
        found = F.grid_sample((values[None, None] + 1) % 256, grid, mode="nearest", align_corners=False)
        return ((found[0, 0].round() + 255) % 256).to(torch.uint8)
    values = values[None] if task == "depth" else values.movedim(2, 0)
    known = values >= 0 if task == "depth" else values.norm(dim=0, keepdim=True) > 0
    inside = torch.cat([torch.where(known, values, 0.0), known.float()])[None]
    *parts, share = F.grid_sample(inside, grid, mode="bilinear", align_corners=False)[0]
    found, seen = torch.stack(parts), share >= 0.5
    if task == "depth":
        return torch.where(seen, (found / share.clamp(min=0.5)).clamp(0, 1), NO_DEPTH)
    length = found.norm(dim=0, keepdim=True)
    sign = torch.tensor([-1.0 if placement.flipped else 1.0, 1.0, 1.0])[:, None, None]
    return torch.where(seen & (length > UNIT), sign * found / length.clamp(min=UNIT), 0.0)


class DenseLabels:
    """Which labels of a store a batch holds, and how large.

    For each view of images and each task ``VIEW_seg`` (b, h, w) uint8, ``VIEW_depth`` (b, 1, h, w) and ``VIEW_normal``
    (b, 3, h, w) float32; and ``seg_classes``, a number. A row without a label has ``IGNORED``, ``NO_DEPTH`` or zeros.
    """

    @checked
    def __init__(
        self, *, store: str, tasks: Annotated[Sequence[Task], MinLen(1)] | None = None, size: Side | None = None
    ) -> None:
        """Take the settings; the store is opened when it is first needed.

        Args:
            store: a folder that ``tether label`` has made.
            tasks: which labels; None is all that it has.
            size: pixels of a side; None is the view's size.
        """
        self._folder, self._tasks, self._size = store, tasks, size

    @cached_property
    def store(self) -> LabelStore:
        """The store."""
        return LabelStore(self._folder)

    def digest(self) -> str:
        """That of the store, once it has all tasks.

        Raises:
            InputError: no such store, or labels of a task that it has not.
        """
        return self.store.digest if self.tasks else ""

    @cached_property
    def tasks(self) -> Sequence[Task]:
        """Which labels.

        Raises:
            InputError: of a task that the store has not.
        """
        for task in self._tasks or ():
            if task not in self.store.experts:
                raise InputError(f"labels: {self._folder}: no labels of {task!r}; {closest(task, self.store.experts)}")
        return [task for task in TASKS if task in (self._tasks or self.store.experts)]

    def read(
        self, key: str, views: Mapping[str, tuple[Placement, tuple[int, int]]], *, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The labels of a row in each view.

        Args:
            key: of the row.
            views: by name: where it lies, and its height and width in pixels.
            size: height and width of the image in pixels.

        Raises:
            InputError: a file that cannot be read, or of another aspect than the image.
        """
        found: dict[str, Tensor] = {}
        for task in self.tasks:
            label = self.store.read(key, task)
            if label is None:
                label = unknown(task)
            else:
                check_aspect(label.shape, size, where=f"{key}: {task} of {self._folder}")
            for name, (placement, shape) in views.items():
                wanted = shape if self._size is None else (self._size, self._size)
                found[f"{name}_{task}"] = moved(label, task, placement, size=wanted)
        return found

    def batched(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, object]:
        """What the rows of a batch add to its ``extra``."""
        found: dict[str, object] = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return found | ({"seg_classes": self.store.experts["seg"].classes} if "seg" in self.tasks else {})


def mask_file(folder: Path, key: str) -> Path:
    """The PNG file of a row in a folder that mirrors the images': the same name, with or without the image's ending.

    Raises:
        InputError: a key that leads out of the folder.
    """
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts or "\0" in key:
        raise InputError(f"{key!r:.200}: expected the name of a file inside {folder}")
    return folder / path.with_suffix(".png")
