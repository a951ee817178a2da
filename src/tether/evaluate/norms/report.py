"""What is said of a head on norms: figures with chance beside them, who judged, and what they are no authority on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tether.evaluate.html.text import escaped, table
from tether.evaluate.norms.choices import FIGURES, ChoiceScores
from tether.evaluate.norms.scores import NormScores

NO_AUTHORITY = (
    "These figures say how well a head repeats the labels of those who judged. Neither they nor the head are an "
    "authority on norms: what is expected differs between people, places and times, and nobody should be judged by it."
)
_SHOWN = 30


@dataclass(frozen=True)
class NormReport:
    """One run of ``tether norms``.

    Attributes:
        task: name of the set.
        file: that was read, and its digest.
        judged: who gave the labels.
        encoder: name and digest of what gives the rows.
        settings: of the head and the split.
        learnt: rows and groups that were learnt from.
        arms: figures by name: each way to read the rows, the full one last.
        choices: the same for multiple choice.
        flips: share of flipped pairs that are right, and how many pairs, by the name of an arm.
        kinds: share of items with both right, and how many, by norm kind.
        remarks: what else must be known.
    """

    task: str
    file: tuple[str, str]
    judged: str
    encoder: tuple[str, str]
    settings: Mapping[str, Any]
    learnt: tuple[int, int]
    arms: Mapping[str, NormScores] = field(default_factory=dict)
    choices: Mapping[str, ChoiceScores] = field(default_factory=dict)
    flips: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    kinds: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def lines(self) -> list[str]:
        """The figures in a few lines, for a terminal."""
        said = [f"{name}: macro F1 {one.macro_f1}; accuracy {one.accuracy}" for name, one in self.arms.items()]
        for name, one in self.choices.items():
            both = FIGURES.index("both")
            low, high = one.intervals[both]
            said.append(
                f"{name}: both right {one.fraction('both'):.3f} [{low:.3f}, {high:.3f}], chance {one.chance[both]:.3f}"
            )
        said += [
            f"{name}: flipped pairs both right {share:.3f} of {count:,}, chance of a die {self.flip_chance[name]:.3f}"
            for name, (share, count) in self.flips.items()
            if count
        ]
        return said + self.not_above_chance()

    @property
    def flip_chance(self) -> dict[str, float]:
        """Share of flipped pairs that a die has right, by arm; one label said everywhere has none."""
        return {name: 1 / len(self.arms[name].classes) ** 2 for name in self.flips}

    def not_above_chance(self) -> list[str]:
        """A sentence for each whose accuracy, or share with both right, has chance within or above its interval."""
        figures = [(name, "accuracy", one.accuracy.low, one.accuracy.chance) for name, one in self.arms.items()]
        both = FIGURES.index("both")
        figures += [
            (name, "both right", one.intervals[both][0], one.chance[both]) for name, one in self.choices.items()
        ]
        return [
            f"{name}: {what} does not exceed chance: the interval begins at {low:.3f}, chance is {chance:.3f}"
            for name, what, low, chance in figures
            if low <= chance
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values; NaN is None."""
        told = asdict(self) | {"flip_chance": self.flip_chance, "not_above_chance": self.not_above_chance()}
        for name, one in self.arms.items():
            told["arms"][name]["confusion"] = one.confusion.tolist()
        return {"format": "tether-norms-1", "no_authority": NO_AUTHORITY, **_plain(told)}

    def markdown(self) -> str:
        """The whole report."""
        lines = [f"# Norms: {escaped(self.task)}", "", f"> {NO_AUTHORITY}", ""]
        facts = [
            ("file", f"{self.file[0]} ({self.file[1][:16]})"), ("who judged", self.judged),
            ("encoder", f"{self.encoder[0]} ({self.encoder[1][:16]})"),
            ("settings", ", ".join(f"{name} {value}" for name, value in self.settings.items())),
            ("learnt from", f"{self.learnt[0]:,} rows of {self.learnt[1]:,} groups"),
        ]  # fmt: skip
        lines += table(("what", "which"), facts)
        lines += [
            "Intervals are of 95 %, whole groups drawn again; chance is the commonest label of what was learnt from.",
            "",
        ]
        if self.arms:
            rows = [(name, str(one.macro_f1), str(one.accuracy), f"{one.accuracy.uniform:.3f}", f"{one.kappa:.3f}",
                     f"{one.n:,} / {one.groups:,}") for name, one in self.arms.items()]  # fmt: skip
            lines += table(
                ("what is read", "macro F1", "accuracy", "accuracy of a die", "kappa", "rows / groups"), rows
            )
            last = list(self.arms.values())[-1]
            lines += [f"## Labels, with {escaped(list(self.arms)[-1])}", ""]
            each = [
                (c.label, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", f"{c.support:,}")
                for c in last.classes
                if c.support
            ]
            lines += table(("label", "precision", "recall", "F1", "rows"), each)
            for name, values in last.facets.items():
                lines += [f"## By {escaped(name)}", ""]
                some = sorted(values.items(), key=lambda one: -one[1][1])[:_SHOWN]
                lines += table(
                    (name, "accuracy", "rows"), [(key, f"{share:.3f}", f"{n:,}") for key, (share, n) in some]
                )
        if self.choices:
            rows = [
                (name, *(_choice(one, at) for at in range(len(FIGURES))), f"{one.n:,}")
                for name, one in self.choices.items()
            ]
            lines += table(("who answers", *FIGURES, "items"), rows)
        if self.flips:
            lines += ["## Pairs that one constraint flips", ""]
            lines += table(
                ("what is read", "both right", "chance of a die", "pairs"),
                [
                    (name, f"{share:.3f}", f"{self.flip_chance[name]:.3f}", f"{n:,}")
                    for name, (share, n) in self.flips.items()
                ],
            )
        if self.kinds:
            lines += ["## By norm kind", ""]
            lines += table(
                ("kind", "both right", "items"),
                [(name, f"{share:.3f}", f"{n:,}") for name, (share, n) in self.kinds.items()],
            )
        lines += [f"- {escaped(remark)}" for remark in (*self.not_above_chance(), *self.remarks)]
        return "\n".join(lines).rstrip() + "\n"


def _choice(one: ChoiceScores, at: int) -> str:
    low, high = one.intervals[at]
    return f"{one.sums[at] / one.n:.3f} [{low:.3f}, {high:.3f}], chance {one.chance[at]:.3f}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
