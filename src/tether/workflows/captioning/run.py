"""What both ways to a captioner share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.tasks.caption import TextOnlyCaptioner
from tether.tasks.caption.captioner import FILE
from tether.workflows.adaptation.learnt import LearntReport, LearntRun

MADE_BY = "tether adapt MODEL TEXTS --recipe caption_from_texts --out FOLDER"
"""The command that makes a captioner."""


def check_captioner(folder: str | Path, *, where: str) -> None:
    """Refuse a folder without a captioner, before anything is read.

    Raises:
        InputError: it names the command that makes one.
    """
    if not (local(folder) / FILE).is_file():
        raise InputError(f"{where}: {folder} holds no captioner; expected the folder of one that {MADE_BY} made")


@dataclass(frozen=True, kw_only=True)
class WritingReport(LearntReport):
    """What came of learning to write."""

    gives: ClassVar[str] = "captioner"


def reported(
    run: LearntRun, kind: type[WritingReport], captioner: TextOnlyCaptioner, *, base: str, **found: Any
) -> LearntReport:
    """The report of a captioner, saved with it; see ``LearntRun.reported``."""
    use = f"tether caption PHOTOS --model {base} --captioner {{folder}} --out captions.csv --html captions.html"
    return run.reported(kind, captioner, use=use, base=base, **found)
