"""Figures of official code: one ``<slug>.npz`` each, from tests/golden/vectors or the folder in $TETHER_VECTORS."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

FOLDER = Path(os.environ.get("TETHER_VECTORS", Path(__file__).parent / "vectors"))


@dataclass(frozen=True)
class Vectors:
    """One file: ``meta`` says what each array is, which hyper-parameters made it and how close we must come."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def need(self, *names: str) -> None:
        """Skip the test where other vectors lack one of these arrays; our own have all that a test asks for."""
        missing = [name for name in names if name not in self.arrays]
        if missing and "TETHER_VECTORS" in os.environ:
            pytest.skip(f"no {', '.join(missing)} in these vectors")
        assert not missing


def load(slug: str) -> Vectors:
    """Read one file; a folder of other vectors need not have every slug, our own must."""
    if "TETHER_VECTORS" in os.environ and not (FOLDER / f"{slug}.npz").exists():
        pytest.skip(f"no {slug}.npz in {FOLDER}", allow_module_level=True)
    with np.load(FOLDER / f"{slug}.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files if name != "meta"}
        meta = json.loads(str(file["meta"]))
    return Vectors(meta, arrays)


def as_declared(part: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them, in the types that a part's constructor declares: 1 for a float is 1.0."""
    declared = get_type_hints(part.__init__)

    def convert(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(float(entry) for entry in value)
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and float in (declared[name], *get_args(declared[name])) else value

    return {name: convert(name, value) for name, value in settings.items()}
