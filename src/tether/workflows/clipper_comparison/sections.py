"""A comparison of clippers as sections: lines, tables and curves, written as one HTML page or as Markdown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from tether.core import markdown
from tether.evaluate.html.curves import Drawn
from tether.evaluate.html.templates import render
from tether.workflows.clipper_comparison.curves import LossCurves

BETTER, WORSE, TIES = "↓", "↑", "="
_PACKAGE = "tether.workflows.clipper_comparison"
_LETTER = 6.2  # width of a letter of a figure's legend, in pixels


@dataclass(frozen=True, slots=True)
class VerdictGrid:
    """A table of text; the first cell of a row names it.

    Attributes:
        title: what it shows.
        head: a name for each column.
        rows: cells; marks of better and worse colour them.
        own: names of rows that stand out.
        folded: shown when it is opened, and on the page only.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    own: Collection[str] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class StabilitySection:
    """One part of a report.

    Attributes:
        title: its heading.
        about: how to read it, on the page only.
        lines: a list.
        grids: tables.
        curves: on the page only.
    """

    title: str
    about: str = ""
    lines: Sequence[str] = ()
    grids: Sequence[VerdictGrid] = ()
    curves: Sequence[LossCurves] = ()

    @property
    def anchor(self) -> str:
        """For links within the page."""
        return re.sub(r"\W+", "-", self.title.lower())

    def markdown(self) -> str:
        """The lines and tables; empty when it has neither."""
        parts = [markdown.bullets(self.lines)] if self.lines else []
        return "\n\n".join(parts + [markdown.table(grid.head, grid.rows) for grid in self.grids if not grid.folded])


@dataclass(frozen=True, slots=True)
class StabilityReport:
    """All of a comparison.

    Attributes:
        title: above it.
        kind: of comparison.
        lede: what was compared, in a sentence.
        command: that writes it.
        sections: in order.
        highlights: figures to begin with: value, what it is, and more.
    """

    title: str
    kind: str
    lede: str
    command: str
    sections: Sequence[StabilitySection]
    highlights: Sequence[tuple[str, str, str]] = ()

    def html(self) -> str:
        """One page that loads nothing from elsewhere."""
        sections = [one for one in self.sections if one.lines or one.grids or one.curves]
        data = [chart.data for section in sections for some in section.curves for chart in some.charts]
        marks = {"better": BETTER, "worse": WORSE, "inline": _inline}
        return render("comparison.html.j2", package=_PACKAGE, page=self, sections=sections, chart_data=data, **marks)

    def markdown(self) -> str:
        """One Markdown file."""
        parts = ((section.title, section.markdown()) for section in self.sections)
        texts = [f"## {title}\n\n{text}" for title, text in parts if text]
        return "\n\n".join([f"# {self.title}\n\n{self.lede}", *texts]) + "\n"


def figure(curves: Sequence[LossCurves]) -> str:
    """Curves as an SVG file with everything in it: a row for each, the loss on the left, the norm on the right."""
    return render("figure.svg.j2", package=_PACKAGE, curves=curves, legend=_legend)


def _inline(text: str) -> Markup:
    """Code and emphasis of Markdown as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*:", r"<b>\1</b>:", text))


def _legend(drawn: Iterable[Drawn]) -> list[tuple[Drawn, int]]:
    """Each line with where its name begins."""
    found, x = [], 0.0
    for line in drawn:
        if line.path:
            found.append((line, round(x)))
            x += _LETTER * len(line.name) + 34
    return found
