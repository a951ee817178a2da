"""What ways to something else than a model or a head share: how it is asked for and played, its folder, the report."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from tether.core.atomic_io import write_json
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Source
from tether.evaluate.adaptation.report import FORMAT, JSON_FILE
from tether.training.tuning import Played, Tuning, play
from tether.workflows.adaptation.folder import Existing, claimed, replaced_result
from tether.workflows.adaptation.run import OnStep
from tether.workflows.models import Progress

HELD_OUT = 10
"""One text or image in so many is held out, by a hash of its words or its key."""


class Kept(Protocol):
    """Something that a folder keeps."""

    def save(self, folder: Path | str) -> Any:
        """Write it."""
        ...


def held_out(keys: Sequence[str], *, source: Source, seed: int, what: str) -> tuple[list[int], list[int]]:
    """Rows to learn from and rows that are held out, one key in ``HELD_OUT`` by its hash.

    Args:
        keys: of the rows; those of one key stay together.
        source: of them, for messages.
        seed: of the hash.
        what: rows are, for messages.

    Raises:
        InputError: none is left to learn from.
    """
    parts: tuple[list[int], list[int]] = ([], [])
    for row, key in enumerate(keys):
        parts[hash_int(key, seed=seed, salt="held out") % HELD_OUT == 0].append(row)
    if not parts[0]:
        all_of = ", all held out" if keys else ""
        raise InputError(f"{source.name}: expected {what} to learn from, got {len(keys)}{all_of}")
    return parts


@dataclass(frozen=True, kw_only=True)
class LearntReport(abc.ABC):
    """What came of learning to write or to read.

    Attributes:
        gives: what is made.
        recipe: its name.
        settings: those that were given.
        base: what the encoder is called.
        digest: of its weights.
        data: what was learnt from, in sentences.
        moved: numbers that were learnt.
        cpu_seconds: of processor time.
        remarks: what one must know of it.
        next: what to do next.
    """

    gives: ClassVar[str]
    recipe: str
    settings: Mapping[str, Any]
    base: str
    digest: str
    data: Sequence[str]
    moved: int
    cpu_seconds: float
    remarks: Sequence[str] = ()
    next: Sequence[str] = field(default_factory=list)

    @abc.abstractmethod
    def said(self) -> list[str]:
        """What was measured, in sentences; the first is the verdict."""

    def next_steps(self, use: str) -> list[str]:
        """What to do next; ``use`` is the command that uses what was made."""
        return [use]

    def lines(self) -> list[str]:
        """The report in sentences."""
        cost = f"Cost: {self.cpu_seconds:.1f} s of processor time; {self.moved:,} numbers learnt."
        return [*self.said(), *self.remarks, cost]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"format": FORMAT, "gives": self.gives, "verdict": self.lines()[0], **asdict(self)}

    def save(self, folder: Path) -> None:
        """Write the numbers."""
        write_json(folder / JSON_FILE, self.to_dict())


@dataclass(frozen=True, kw_only=True)
class LearntRun:
    """How it is asked for, in the words of ``tether.adapt``; ``spec`` is the recipe's name and settings."""

    spec: Mapping[str, Any]
    seed: int
    out: str | Path | None
    existing: Existing
    strict: bool
    random_weights: bool
    device: str
    workers: int
    on_step: OnStep | None
    on_progress: Progress | None
    should_stop: Callable[[], bool]

    @contextlib.contextmanager
    def folder(self, deciding: Mapping[str, Any]) -> Iterator[Path | None]:
        """Hold the folder and give that of the checkpoints; None where nothing is saved."""
        if self.out is None:
            yield None
            return
        with claimed(
            Path(self.out), {**deciding, "recipe": dict(self.spec), "seed": self.seed}, existing=self.existing
        ) as found:
            yield found

    def play(self, tuning: Tuning[None], model: nn.Module, *, folder: Path | None) -> Played[None]:
        """See ``training.tuning.play``."""
        on_step, steps = self.on_step, tuning.steps
        look = None if on_step is None else lambda report: on_step(report, steps)
        return play(tuning, model, folder=folder, seed=self.seed, on_step=look, should_stop=self.should_stop)

    def reported(
        self, kind: type[LearntReport], made: Kept, *, use: str, base: str, digest: str, **found: Any
    ) -> LearntReport:
        """The report of what was made, saved with it.

        Args:
            kind: of report.
            made: what it is about.
            use: the command that uses it, with ``{folder}`` where its folder stands.
            base: what the encoder is called.
            digest: of its weights.
            found: the fields that are not of what was asked for.
        """
        then = use.replace("{folder}", "FOLDER" if self.out is None else str(self.out))
        settings = {key: value for key, value in self.spec.items() if key != "name"}
        report = kind(recipe=str(self.spec["name"]), settings=settings, base=base, digest=digest, **found)
        report = replace(report, next=report.next_steps(then))
        if self.out is not None:
            with replaced_result(Path(self.out)) as new:
                made.save(new)
                report.save(new)
        return report
