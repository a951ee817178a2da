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
NOTHING = 1e-5
"""A change of a figure below it is rounding."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Whether what had to rest did, tensor by tensor, bit for bit.

    Attributes:
        resting: tensors of the base that had to rest.
        changed: names of those among them that differ all the same; none should.
        free: tensors that were free to change.
        image_side: whether images get the very embeddings that they had, so that stored ones stay valid.
        text_side: likewise for texts.
        same: whether a model came of it all whose tensors are the base's.
    """

    resting: int
    changed: Sequence[str]
    free: int
    image_side: bool
    text_side: bool
    same: bool = False

    def sentence(self) -> str:
        """In words."""
        if self.changed:
            first = f"the first is {self.changed[0]}"
            return f"A FAULT: {len(self.changed)} of {self.resting} tensors that had to rest differ; {first}."
        if self.same:
            return "No tensor differs from the base's by one bit: the result is the base."
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
        validation: rows that settings were chosen on, neither learnt from nor measured on; 0 without.
        picked: settings that were chosen by the data, by their names.
        privacy: ``epsilon`` and ``delta`` of each image that was learnt from; empty where learning was not private.
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
    validation: int = 0
    picked: Mapping[str, float] = field(default_factory=dict)
    privacy: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[CurvePoint] = ()
    chosen: float | None = None
    next: Sequence[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        """Whether the result is the base: a model by its weights, a head if it changes no figure of held-out data."""
        if self.gives != "head":
            return self.gives == "model" and self.frozen.same
        return bool(self.own) and all(
            end is None or abs(end) < NOTHING
            for one in self.own
            for end in (one.change.value, one.change.low, one.change.high)
        )

    def verdict(self) -> str:
        """The first sentence: whether it is better than the base on its own data."""
        if self.same:
            numbers = f" On held-out data: {self.own[0].sentence()}." if self.own else ""
            if self.gives == "model":
                return f"The result is the base: its weights are the same.{numbers}"
            return f"No other than the base: the head answers as the texts of the classes do.{numbers}"
        if not self.own:
            return "Nothing was held out that says whether it became better."
        first = self.own[0]
        said = {
            "better": "Better than the base on held-out data",
            "worse": "WORSE than the base on held-out data",
            "no difference shown": "NOT shown to be better than the base on held-out data",
        }[first.verdict]
        but = ", but not shown to be above chance" if first.verdict == "better" and first.remark() else ""
        return f"{said}{but}: {first.sentence()}."

    def forgot(self) -> str:
        """The second: what became of data that it did not learn from."""
        if self.gives == "head":
            return "Nothing is forgotten: a head leaves the base as it is, and knows its own classes only."
        if self.same:
            return "Nothing is forgotten: the result is the base."
        if not self.keep:
            return (
                "What was forgotten was not measured: --keep DATA names what must not be; "
                "without it, drawings of the extra demo are looked at."
            )
        first = self.keep[0]
        said = {"better": "gained", "worse": "FORGOTTEN", "no difference shown": "no loss shown"}[first.verdict]
        if first.verdict == "no difference shown" and not first.above_chance(first.before):
            said = "nothing that could be lost, as the base itself is not shown to be above chance"
        return f"On {self.keep_source}: {said}: {first.sentence()}."

    def remarks(self) -> list[str]:
        """A sentence for each figure of held-out data that is not shown to be above chance."""
        return [said[:1].upper() + said[1:] for one in self.own if (said := one.remark())]

    def choice(self) -> str:
        """What was chosen by the data, and on how many rows; empty where nothing was."""
        named = [f"{name} {value:g}" for name, value in self.picked.items()]
        if self.chosen is not None:
            named.append(f"weights {self.chosen:.0%} of the way from the base (0%) to the tuned model (100%)")
        if not self.validation:
            return f"Chosen by cross-validation: {', '.join(named)}." if named else ""
        rows = f"{self.validation:,} rows that were neither learnt from nor measured on"
        return f"Chosen on {rows}: {', '.join(named)}." if named else f"What to keep was decided on {rows}."

    def privately(self) -> str:
        """What privacy was kept, and of what; empty where learning was not private."""
        if not self.privacy:
            return ""
        known = self.privacy
        weak = " An epsilon above 10 promises next to nothing." if known["epsilon"] > 10 else ""
        return (
            f"Privacy of each image, by Opacus' accountant: epsilon {known['epsilon']:.3g} at delta "
            f"{known['delta']:.2g}; the clipping norm ended at {known['clip']:.3g}. It covers the head; this report's "
            f"own figures are of all data and under no privacy.{weak}"
        )

    def cost(self) -> str:
        """How many numbers were learnt, in words."""
        whole = f"a model of {self.costs.parameters:,}"
        return f"{self.costs.moved:,} numbers learnt, of {whole}" if self.costs.moved else f"nothing moved of {whole}"

    def lines(self) -> list[str]:
        """The report in sentences."""
        costs = self.costs
        found = [
            self.verdict(),
            *[f"{one.sentence()}." for one in self.own[1:]],
            *self.remarks(),
            self.forgot(),
        ]
        if choice := self.choice():
            found.append(choice)
        if private := self.privately():
            found.append(private)
        found.append(self.frozen.sentence())
        found.append(f"Cost: {costs.cpu_seconds:.1f} s of processor time; {self.cost()}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = asdict(self)
        plain["own"], plain["keep"] = ([one.to_dict() for one in some] for some in (self.own, self.keep))
        return {"format": FORMAT, "verdict": self.verdict(), "same": self.same, **plain}

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
