"""What an inspection found: its sections and the files that show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tether.core.errors import InputError
from tether.core.finding import Finding


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a report.

    Attributes:
        name: of the probe.
        title: its heading.
        finding: what was found, or None.
        problem: why nothing was, or empty.
        seconds: what it took.
    """

    name: str
    title: str
    finding: Finding | None
    problem: str
    seconds: float

    @property
    def level(self) -> str:
        """Of the finding, ``unknown`` without one."""
        return self.finding.level if self.finding is not None else "unknown"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole health report.

    Attributes:
        model: what the model is called.
        source: what the pairs are called.
        digest: of the model's weights.
        command: what is typed for it.
        rows: images looked at.
        sections: in the order of the page.
        seconds: of everything that was not kept from before.
        page: the HTML file.
        numbers: the JSON file.
    """

    model: str
    source: str
    digest: str
    command: str
    rows: int
    sections: tuple[Section, ...]
    seconds: float
    page: Path
    numbers: Path

    @property
    def alarms(self) -> tuple[str, ...]:
        """Names of the sections that raise an alarm."""
        return tuple(section.name for section in self.sections if section.level == "alarm")

    def section(self, name: str) -> Section:
        """The section of this name; InputError lists those there are."""
        for section in self.sections:
            if section.name == name:
                return section
        raise InputError(f"no section {name!r}; there are: {', '.join(section.name for section in self.sections)}")
