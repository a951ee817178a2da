"""``tether eval``: how good a model is on a source, in figures with their intervals and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tether.data import open_source
from tether.evaluate.metric_names import SECTIONS, chance_of, describe, interval_of, keys_of, shown
from tether.evaluate.suite import MEASURES, Measure
from tether.evaluate.suite import evaluate as measured
from tether.workflows.models import Model, opened


@dataclass(frozen=True)
class Evaluated:
    """The measures of a model on a source.

    Attributes:
        model: what it is called.
        source: what it is called.
        metrics: as ``evaluate.evaluate`` gives them.
    """

    model: str
    source: str
    metrics: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        """One measure, such as ``text_to_image_r10``."""
        return self.metrics[name]

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, value, chance and 95 % interval of each measure, as a person reads them."""
        keys = [key for prefixes in SECTIONS.values() for key in keys_of(self.metrics, prefixes)]
        find = self.metrics
        return [(describe(key), shown(key, find[key]), chance_of(key, find), interval_of(key, find)) for key in keys]

    def __str__(self) -> str:
        """A table."""
        head = f"{self.model} on {self.source}: {self.metrics['images']:,.0f} images"
        return "\n".join(
            [head, *(f"  {name:<40}{value:>9}{chance:>9}  {ends}" for name, value, chance, ends in self.rows())]
        )

    def _repr_html_(self) -> str:
        cells = (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in self.rows())
        head = "<tr><th>measure</th><th>value</th><th>chance</th><th>95 % interval</th></tr>"
        title = escape(f"{self.model} on {self.source}")
        return f"<table><caption>{title}</caption>{head}{''.join(cells)}</table>"


def evaluate(
    model: Model,
    source: str | Path | Mapping[str, Any],
    *,
    measures: Sequence[Measure] = MEASURES,
    label: str | None = None,
    limit: int | None = None,
    bootstrap: int = 1000,
    device: str = "auto",
) -> Evaluated:
    """Measure a model on a source: retrieval, zero-shot, geometry, CLIPScore.

    Args:
        model: loaded, or a name that ``tether.load`` takes.
        source: what ``data.open_source`` takes.
        measures: which to take.
        label: column of the class; None takes ``label`` where rows have it.
        limit: look at this many rows, from the first.
        bootstrap: resamples for the 95 % intervals.
        device: where to load the model.

    Example:
        >>> import tether
        >>> found = tether.eval(tether.load("tiny", random_weights=True), "digits", measures=["retrieval"], limit=20)
        >>> round(found["text_to_image_r10_chance"], 2)
        0.5
    """
    encoder, name = opened(model, device=device)
    rows = open_source(source, where="source")
    found = measured(encoder, rows, measures=measures, label=label, limit=limit, bootstrap=bootstrap)
    return Evaluated(name, rows.name, found)
