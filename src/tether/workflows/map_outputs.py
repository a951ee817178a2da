"""Where ``tether detect`` puts maps: a folder that a second run resumes, or memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import Source
from tether.data.anomaly_files import GOOD, MapStore
from tether.data.bad_rows import BadRows
from tether.data.shuffle import until_broken
from tether.workflows.good_images import pixel_digest

OURS = frozenset({"maps", "heat", "learnt", GOOD, "scores.csv", "index.html"})
"""What lies in a folder of ``tether detect``."""


def check_report_folder(out: str | Path | None) -> None:
    """Refuse a folder of something else, before anything is looked at; hidden files do not count.

    Raises:
        InputError: a file, or a folder with what no earlier run has put there.
    """
    if out is None or not local(out).exists():
        return
    if not local(out).is_dir():
        raise InputError(f"--out: {out} is a file; expected a folder")
    names = {one.name for one in local(out).iterdir() if not one.name.startswith(".")}
    if names - OURS and not {"maps", "scores.csv"} <= names:
        first = min(names - OURS)
        raise InputError(f"--out: {out} holds other things, such as {quoted(first)}; give a folder of its own")


class StoredMaps(Mapping[str, AnomalyMap]):
    """Maps by key, each read from its file when it is asked for."""

    def __init__(self, store: MapStore, name: str) -> None:
        """``name`` is what the images show."""
        self._store, self._name = store, name
        self.sizes: dict[str, tuple[str, tuple[int, int]]] = {}

    def __getitem__(self, key: str) -> AnomalyMap:
        """The map of an image."""
        made_of, size = self.sizes[key]
        found = self._store.read(key, made_of=made_of, size=size, name=self._name)
        if found is None:
            raise KeyError(f"{key}: its file is gone or was changed")
        return found

    def __iter__(self) -> Iterator[str]:
        """Keys in order."""
        return iter(self.sizes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.sizes)


class MapOutputs:
    """Keeps maps image by image.

    Attributes:
        maps: by key.
        kept: how many were there already.
        folder: of the files, or None.
    """

    def __init__(
        self, out: str | Path | None, *, name: str, settings: Mapping[str, Any], replace_maps: bool = False
    ) -> None:
        """Choose where.

        Args:
            out: the folder; None keeps maps in memory.
            name: what the images show.
            settings: all that decides maps beside the image.
            replace_maps: whether maps of other settings are written anew.
        """
        self._store = None if out is None else MapStore(out, replace=replace_maps)
        self.folder = None if self._store is None else self._store.folder
        self.maps: Mapping[str, AnomalyMap] = {} if self._store is None else StoredMaps(self._store, name)
        self.kept = 0
        self._name = name
        said = json.dumps(dict(settings), sort_keys=True, default=str)
        self._settings = hashlib.blake2b(said.encode(errors="replace"), digest_size=16).hexdigest()
        self._marks: dict[str, str] = {}
        self._spans: list[tuple[float, float]] = []

    def check(self, rows: Source) -> None:
        """Refuse a folder with maps of other settings before anything in it is written.

        Raises:
            InputError: it names the first map of these images that is there.
        """
        store = self._store
        if store is None or not (store.folder / "maps").is_dir():
            return
        bad = BadRows(rows.name)
        keys = (row.key for block in rows.blocks() for row in until_broken(rows, block, bad=bad))
        next((key for key in keys if store.check(key, begins=f"{self._settings}:")), None)

    def good_scores(self, keys: Sequence[str]) -> Sequence[float] | None:
        """Scores of the good images that this model and these settings gave, if they are in the folder."""
        return None if self._store is None else self._store.read_good(keys, made_of=self._settings)

    def put_good(self, keys: Sequence[str], scores: Sequence[float]) -> None:
        """Keep the scores of the good images."""
        if self._store is not None:
            self._store.write_good(keys, scores, made_of=self._settings)

    def find(self, key: str, image: UInt8[Tensor, "3 h w"]) -> AnomalyMap | None:
        """The map of this very image, made by this model with these settings, if it is in the folder."""
        if self._store is None:
            return None
        self._marks[key] = f"{self._settings}:{pixel_digest(image)}"
        size = (image.shape[1], image.shape[2])
        found = self._store.read(key, made_of=self._marks[key], size=size, name=self._name)
        self.kept += found is not None
        return found

    def put(self, key: str, found: AnomalyMap, *, old: bool) -> None:
        """Keep an image's map; one that was there already is told of, and not written."""
        self._spans.append((float(np.median(found.values)), float(found.values.max())))
        if isinstance(self.maps, dict):
            self.maps[key] = found
            return
        assert self._store is not None  # then maps are in its files
        assert isinstance(self.maps, StoredMaps)
        mark = self._marks.pop(key)
        self.maps.sizes[key] = (mark, found.size)
        if not old:
            self._store.write(key, found, made_of=mark)

    def span(self) -> tuple[float, float]:
        """From the usual value of a place to the highest of all images so far: what all are coloured by."""
        medians, highest = zip(*self._spans, strict=True)
        return float(np.median(medians)), max(highest)

    def write_heat(self) -> None:
        """Write every image's map in colours of one span."""
        if self._store is not None:
            span = self.span()
            for key, found in self.maps.items():
                self._store.write_heat(key, found, span=span)

    def name_of(self, key: str) -> str:
        """Name of a map's file below the folder; empty without one."""
        return "" if self._store is None else self._store.name(key)
