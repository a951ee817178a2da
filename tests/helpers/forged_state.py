"""A file of what a part has learnt, with other settings, as another program may write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from tether.core.state_file import write_state


def forge(path: Path, changed: Mapping[str, object]) -> None:
    """Change settings of a file that ``write_state`` wrote."""
    with safe_open(str(path), framework="numpy") as file:
        said = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    write_state(path, format=said["format"], settings=json.loads(said["settings"]) | dict(changed), arrays=arrays)
