"""All that is said of one adaptation: sentences, JSON, and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_json, write_text
from tether.evaluate.adaptation.figures import Compared
from tether.evaluate.html import templates
from tether.evaluate.html.curves import Chart, Line, chart
from tether.evaluate.html.text import duration

JSON_FILE, PAGE_FILE = "report.json", "report.html"
FORMAT = "tether.adapt/1"


@dataclass(frozen=True, slots=True)
class Frozen:
    """Whether what had to rest did, tensor by tensor, bit for bit.

    Attributes:
        resting: tensors of the base that had to rest.
        changed: names of those among them that differ all the same; none should.
        free: tensors that were free to change.
        image_side: whether images get the very embeddings that they had, so that stored ones stay valid.
        text_side: likewise for texts.
    """

    resting: int
    changed: Sequence[str]
    free: int
    image_side: bool
    text_side: bool

    def sentence(self) -> str:
        """In words."""
        if self.changed:
            first = f"the first is {self.changed[0]}"
            return f"A FAULT: {len(self.changed)} of {self.resting} tensors that had to rest differ; {first}."
        if not self.free:
            return f"All {self.resting} tensors of the base are bit-identical: the base was not touched."
        kept = [name for name, same in (("images", self.image_side), ("texts", self.text_side)) if same]
        said = f" Stored embeddings of {kept[0]} stay valid." if kept else " Stored embeddings must be made anew."
        return f"{self.resting} resting tensors are bit-identical, {self.free} were free to move.{said}"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The weights at one share of the way from the base (0) to the tuned model (1).

    Attributes:
        share: of the way.
        validation: score on the validation part, which chooses.
        own: on the held-out part, or None where nothing was measured on one.
        keep: on the data that should not be forgotten, or None.
    """

    share: float
    validation: float
    own: float | None
    keep: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """What an adaptation cost.

    Attributes:
        seconds: of the recipe, without measuring.
        cpu_seconds: of processor time.
        moved: parameters that moved, or that a head has.
        parameters: of the base.
    """

    seconds: float
    cpu_seconds: float
    moved: int
    parameters: int


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """What an adaptation came to.

    Attributes:
        recipe: its name.
        settings: those that were given.
        why: why it was taken where none was asked for, and what else would fit.
        gives: ``head``, ``model`` or ``both``.
        base: what the base is called.
        digest: of its weights.
        data: what was learnt from, in sentences.
        own: figures on the held-out part; the first says whether it became better.
        keep: figures on data that should not be forgotten.
        keep_source: their name.
        frozen: what rested.
        costs: what it cost.
        curve: of weight interpolation; empty without.
        chosen: the share of the way that was taken, or None.
        next: what to try next.
    """

    recipe: str
    settings: Mapping[str, Any]
    why: Sequence[str]
    gives: str
    base: str
    digest: str
    data: Sequence[str]
    own: Sequence[Compared]
    keep: Sequence[Compared]
    keep_source: str
    frozen: Frozen
    costs: Costs
    curve: Sequence[CurvePoint] = ()
    chosen: float | None = None
    next: Sequence[str] = field(default_factory=list)

    def verdict(self) -> str:
        """The first sentence: whether it is better than the base on its own data."""
        if not self.own:
            return "Nothing was held out that says whether it became better."
        first = self.own[0]
        said = {
            "better": "Better than the base on held-out data",
            "worse": "WORSE than the base on held-out data",
            "no difference shown": "NOT shown to be better than the base on held-out data",
        }[first.verdict]
        by = first.shown(first.change, signed=True)
        points = " points" if first.unit == "share" else ""
        return f"{said}: {first.name} {first.shown(first.before)} -> {first.shown(first.after)}, {by}{points}."

    def forgot(self) -> str:
        """The second: what became of data that it did not learn from."""
        if not self.keep:
            return "What was forgotten was not measured: --keep DATA names what must not be."
        first = self.keep[0]
        said = {"better": "gained", "worse": "FORGOTTEN", "no difference shown": "no loss shown"}[first.verdict]
        by = first.shown(first.change, signed=True)
        numbers = f"{first.shown(first.before)} -> {first.shown(first.after)}, {by}"
        return f"On {self.keep_source}: {said}: {first.name} {numbers}."

    def lines(self) -> list[str]:
        """The report in sentences."""
        costs = self.costs
        found = [
            self.verdict(),
            *[f"{one.name}: {one.shown(one.before)} -> {one.shown(one.after)}" for one in self.own[1:]],
        ]
        found.append(
            self.forgot() if self.gives != "head" else "Nothing is forgotten: a head leaves the base as it is."
        )
        if self.chosen is not None:
            found.append(
                f"Weights {self.chosen:.0%} of the way from the base to the tuned model, chosen on validation."
            )
        found.append(self.frozen.sentence())
        found.append(
            f"Cost: {costs.cpu_seconds:.1f} s of processor time; {costs.moved:,} numbers learnt, of a model of "
            f"{costs.parameters:,}."
        )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        plain["own"], plain["keep"] = ([one.to_dict() for one in some] for some in (self.own, self.keep))
        return {"format": FORMAT, "verdict": self.verdict(), **plain}

    def html(self) -> str:
        """A page that loads nothing from elsewhere."""
        drawn = self._chart()
        return templates.render(
            "adapt.html.j2",
            package="tether.evaluate.adaptation",
            report=self,
            curve=drawn,
            chart_data=[drawn.data] if drawn else [],
            spent=duration(self.costs.cpu_seconds),
        )

    def save(self, folder: Path) -> None:
        """Write the page and then the numbers, each atomically."""
        write_text(folder / PAGE_FILE, self.html())
        write_json(folder / JSON_FILE, self.to_dict())

    def _chart(self) -> Chart | None:
        lines = []
        if any(one.own is not None for one in self.curve):
            lines.append(Line("own data, held out", "main", [(one.share, one.own) for one in self.curve]))
        if any(one.keep is not None for one in self.curve):
            lines.append(Line(self.keep_source, "second", [(one.share, one.keep) for one in self.curve]))
        lines.append(Line("validation, which chooses", "faint", [(one.share, one.validation) for one in self.curve]))
        return chart("From the base (0) to the tuned weights (1)", lines=lines)
