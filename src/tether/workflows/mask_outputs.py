"""Where ``tether segment`` puts masks: a folder that a second run goes on with, or memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.atomic_io import csv_file
from tether.core.locks import locked
from tether.core.masks import Masks
from tether.data.mask_files import COCO_FILE, CocoFile, MaskStore, coco_file

BOX_COLUMNS = ("key", "class", "x0", "y0", "x1", "y1", "area")
"""Corners in pixels, the area as a count of them."""


class StoredMasks(Mapping[str, Masks]):
    """Masks by key, each read from its file when it is asked for."""

    def __init__(self, store: MaskStore, like: Masks) -> None:
        """``like`` has the classes and colours."""
        self.store, self._like = store, like
        self.sizes: dict[str, tuple[str, tuple[int, int]]] = {}

    def __getitem__(self, key: str) -> Masks:
        """The masks of an image; they have no scores."""
        made_of, size = self.sizes[key]
        found = self.store.read(key, self._like.classes, made_of=made_of, size=size)
        if found is None:
            raise KeyError(f"{key}: its file is gone or was changed")
        return replace(found, palette=self._like.palette)

    def __iter__(self) -> Iterator[str]:
        """Keys in order."""
        return iter(self.sizes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sizes)


class MaskOutputs:
    """Keeps masks image by image.

    Attributes:
        masks: by key, in memory or read again from the folder.
        kept: how many were there already.
        folder: of the files, or None.
    """

    def __init__(
        self,
        out: str | Path | None,
        *,
        like: Masks,
        settings: Mapping[str, Any],
        boxes: bool,
        min_area: float,
        replace_masks: bool,
        raw_csv: bool,
    ) -> None:
        """Choose where.

        Args:
            out: the folder; None keeps masks in memory.
            like: masks with the classes and colours.
            settings: all that decides masks beside the image.
            boxes: whether there is a table of boxes.
            min_area: share of the image from which on a piece has one.
            replace_masks: whether masks of other settings are written anew.
            raw_csv: leave cells that a spreadsheet would run as they are.
        """
        store = None if out is None else MaskStore(out, replace=replace_masks)
        self.folder = None if store is None else store.folder
        self.masks: dict[str, Masks] | StoredMasks = {} if store is None else StoredMasks(store, like)
        self.kept = 0
        self._like, self._boxes, self._min_area, self._raw_csv = like, boxes, min_area, raw_csv
        colours = None if like.palette is None else like.palette.tolist()
        said = json.dumps({**settings, "palette": colours}, sort_keys=True, default=str)
        self._settings = hashlib.blake2b(said.encode(errors="replace"), digest_size=16).hexdigest()
        self._marks: dict[str, str] = {}
        self._files = ExitStack()
        self._coco: CocoFile | None = None
        self._table: Any = None

    def __enter__(self) -> MaskOutputs:
        """Begin the files that all images share.

        Raises:
            LockedError: another process writes to the folder.
        """
        if self.folder is not None:
            with ExitStack() as files:
                files.enter_context(locked(self.folder, purpose="tether segment"))
                coco = coco_file(self.folder / COCO_FILE, self._like.categories())
                self._coco = files.enter_context(coco)
                if self._boxes:
                    table = csv_file(self.folder / "boxes.csv", BOX_COLUMNS, raw_csv=self._raw_csv)
                    self._table = files.enter_context(table)
                self._files = files.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """Finish them, or leave what was there on an error."""
        return self._files.__exit__(*error)

    def find(self, key: str, image: UInt8[Tensor, "3 h w"]) -> Masks | None:
        """Masks of this very image, made by this model with these settings, if they are in the folder."""
        if isinstance(self.masks, dict):
            return None
        pixels = hashlib.blake2b(image.permute(1, 2, 0).contiguous().numpy().data, digest_size=16).hexdigest()
        self._marks[key] = f"{self._settings}:{pixels}"
        size = (image.shape[1], image.shape[2])
        found = self.masks.store.read(key, self._like.classes, made_of=self._marks[key], size=size)
        self.kept += found is not None
        return found

    def put(self, key: str, masks: Masks, *, old: bool) -> None:
        """Keep an image's masks; those that were there already are told of, and not written."""
        if isinstance(self.masks, dict):
            self.masks[key] = masks
            return
        assert self._coco is not None  # __enter__ opened it
        mark, store = self._marks.pop(key), self.masks.store
        self.masks.sizes[key] = (mark, masks.size)
        if not old:
            store.write(key, masks, made_of=mark)
        self._coco.add(key, masks, file_name=store.name(key))
        if self._table is not None:
            for box in masks.boxes(min_area=self._min_area):
                self._table.write([key, box.name, *box.box, box.area])


def blank(classes: tuple[str, ...], palette: UInt8[np.ndarray, "k 3"] | None) -> Masks:
    """Masks of one pixel, which hold classes and colours."""
    return Masks(classes, np.zeros((1, 1), dtype=np.uint8), palette=palette)
