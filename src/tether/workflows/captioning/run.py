"""What both ways to a captioner share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tether.tasks.caption import TextOnlyCaptioner
from tether.workflows.adaptation.learnt import LearntReport, LearntRun


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
