"""What a run left behind, read for its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tether.core.errors import InputError
from tether.core.files import read_json


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run as read from its folder; what is not there is empty.

    Attributes:
        path: the folder.
        config: the resolved configuration.
        config_text: the same as YAML.
        records: the lines of metrics.jsonl.
        environment: where it ran.
        summary: what it reached.
        has_model: whether a final model lies there.
    """

    path: Path
    config: dict[str, Any]
    config_text: str
    records: list[dict[str, Any]]
    environment: dict[str, Any]
    summary: dict[str, Any]
    has_model: bool


def read_run(path: Path) -> RunFolder:
    """Read a run folder, finished or not.

    Raises:
        InputError: no such folder, not a run (neither config.yaml nor metrics.jsonl), or a file that is malformed.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a run, as tether train leaves it")
    config_file, metrics = path / "config.yaml", path / "metrics.jsonl"
    if not config_file.is_file() and not metrics.is_file():
        raise InputError(f"{path}: not a run: expected config.yaml or metrics.jsonl in it")
    text = config_file.read_text(encoding="utf-8") if config_file.is_file() else ""
    try:
        config = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{config_file}: not valid YAML: {error}") from None
    return RunFolder(
        path=path,
        config=config,
        config_text=text,
        records=_records(metrics) if metrics.is_file() else [],
        environment=_json(path / "environment.json"),
        summary=_json(path / "summary.json"),
        has_model=(path / "model.json").is_file(),
    )


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _records(path: Path) -> list[dict[str, Any]]:
    """Every whole line; a kill may have cut the last one off, any other broken line is an error."""
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise InputError(f"{path}, line {number}: not valid JSON: {error}") from None
        if not isinstance(record, dict) or "step" not in record:
            raise InputError(f"{path}, line {number}: expected an object with 'step', got {line[:60]!r}")
        records.append(record)
    return records
