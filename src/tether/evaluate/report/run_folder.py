"""What a run left behind, read for its report."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_json, read_text
from tether.core.errors import InputError
from tether.core.shape import MAYBE_NUMBER, check, finite
from tether.core.yaml_files import read_yaml
from tether.training.metrics_log import read_metrics
from tether.training.run_files import METRICS

_CONFIG = {"steps?": (int, None), "batch_size?": int, "accumulate?": int}
_ENVIRONMENT = {"threads?": MAYBE_NUMBER, "libraries?": {}, "accelerators?": (None, [str])}
_SUMMARY = {"steps?": int, "skipped?": int, "seconds?": MAYBE_NUMBER, "rollbacks?": int}
_CURVES = ("loss", "grad_norm", "grad_threshold", "grad_scale", "lr", "logit_scale", "images_per_second", "seconds")
_RECORD = {
    "skipped?": (bool, int, None),
    "eval?": (None, {"*": MAYBE_NUMBER}),
    "rollback?": {"to": int, "at": int, "why": str, "skipped_batches": int, "losses?": [MAYBE_NUMBER]},
    "signs?": {"*": str},
    **{f"{name}?": MAYBE_NUMBER for name in _CURVES},
}
MAX_METRICS = 2**28
"""Bytes of metrics.jsonl that are read: half a million steps."""


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

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The records of training steps."""
        return [record for record in self.records if "loss" in record]

    def unfinished(self) -> str:
        """That the run has not finished, since when, why where that shows, and what to do; empty for a finished one."""
        if self.summary:
            return ""
        steps = self.steps
        planned, metrics = self.config.get("steps"), self.path / METRICS
        said = "This run has not finished"
        if not self.config.get("fit"):
            done = f"{steps[-1]['step'] + 1 if steps else 0:,}"
            said += f": {done}{f' of {planned:,}' if planned else ''} steps are in its log"
        if metrics.is_file():
            last = datetime.fromtimestamp(metrics.stat().st_mtime, UTC)
            said += f"; that was last written to on {last:%Y-%m-%d at %H:%M} UTC"
        skipped = sum(1 for _ in takewhile(lambda record: record.get("skipped"), reversed(steps)))
        if skipped:
            said += (
                f". The gradients of its last {skipped:,} steps were not finite: lower the learning rate, or look at "
                "the batches before them"
            )
        return f"{said}. Unless it still runs, go on with: tether train --resume --out {shlex.quote(str(self.path))}"


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
    config = (read_yaml(config_file) if config_file.is_file() else None) or {}
    check(config, _CONFIG, where=str(config_file))
    return RunFolder(
        path=path,
        config=config,
        config_text=read_text(config_file) if config_file.is_file() else "",
        records=read_records(metrics) if metrics.is_file() else [],
        environment=_json(path / "environment.json", _ENVIRONMENT),
        summary=_json(path / "summary.json", _SUMMARY),
        has_model=(path / "model.json").is_file(),
    )


def _json(path: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """The values of a file that need not be there; a number that is not finite is None."""
    values = read_json(path) if path.is_file() else {}
    check(values, shape if values else {}, where=str(path))
    return finite(values)


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, each with values of the right kind; what is not finite is None.

    Raises:
        InputError: it names the line.
    """
    records = []
    for number, record in enumerate(read_metrics(path, limit=MAX_METRICS), start=1):
        check(record, _RECORD, where=f"{path}, line {number}")
        record = finite(record)
        if record.get("eval") is not None:
            record["eval"] = {key: value for key, value in record["eval"].items() if value is not None}
        records.append(record)
    return records
