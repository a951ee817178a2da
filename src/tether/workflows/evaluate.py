"""``tether eval``: how good a model is on a source, in figures with their intervals and chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tether.core.model_digest import encoder_digest
from tether.data import open_source
from tether.data.bad_rows import named_in
from tether.evaluate.measures import MEASURES, Measure
from tether.evaluate.measures import evaluate as measured
from tether.evaluate.metric_names import SECTIONS, chance_of, describe, interval_of, keys_of, shown
from tether.models.encoders.truncated import narrowed
from tether.models.texts.long_texts import LongTexts
from tether.workflows.learnt import remark
from tether.workflows.models import Data, Model, Progress, opened, with_total


@dataclass(frozen=True)
class Evaluated:
    """The measures of a model on a source.

    Attributes:
        model: what it is called.
        source: what it is called.
        metrics: as ``evaluate.evaluate`` gives them.
        version: of the source.
        remark: that the model learnt from this source, or that it has no text pair; or the empty string.
        bad: rows that ``bad_rows`` names.
        digest: of the model's weights.
    """

    model: str
    source: str
    metrics: Mapping[str, float]
    version: str
    remark: str
    bad: int
    digest: str = ""

    def __getitem__(self, name: str) -> float:
        """One measure, such as ``text_to_image_r10``."""
        return self.metrics[name]

    def sections(self) -> list[list[tuple[str, str, str, str]]]:
        """Name, value, chance and 95 % interval of each measure, as a person reads them; like ones together."""
        find = self.metrics
        return [
            [(describe(key), shown(key, find[key]), chance_of(key, find), interval_of(key, find)) for key in keys]
            for keys in (keys_of(find, prefixes) for prefixes in SECTIONS.values())
        ]

    def __str__(self) -> str:
        """A table."""
        head = f"{self.model} on {self.source}: {self.metrics['images']:,.0f} images"
        rows = (row for some in self.sections() for row in some)
        return "\n".join([head, *(f"  {name:<40}{value:>9}{chance:>9}  {ends}" for name, value, chance, ends in rows)])

    def _repr_html_(self) -> str:
        rows = (row for some in self.sections() for row in some)
        cells = (f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        head = "<tr><th>measure</th><th>value</th><th>chance</th><th>95 % interval</th></tr>"
        title = escape(f"{self.model} on {self.source}")
        return f"<table><caption>{title}</caption>{head}{''.join(cells)}</table>"


def evaluate(
    model: Model,
    source: Data,
    *,
    measures: Sequence[Measure] = MEASURES,
    label: str | None = None,
    templates: Sequence[str] | None = None,
    limit: int | None = None,
    dims: int | None = None,
    batch_size: int = 256,
    bootstrap: int = 1000,
    seed: int = 0,
    long_text: LongTexts = "cut",
    workers: int = 2,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Evaluated:
    """Measure a model on a source: retrieval, zero-shot, geometry, CLIPScore.

    Args:
        model: loaded, or a name that ``tether.load`` takes.
        source: what ``data.open_source`` takes.
        measures: which to take.
        label: column of the class; None takes ``label`` where rows have it.
        templates: prompts with ``{}`` for the class name; None takes those that suit the model.
        limit: look at this many rows, from the first.
        dims: compare the first so many numbers of each embedding; None compares all.
        batch_size: rows in one forward.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        seed: of the resamples.
        long_text: of texts past the model's context: ``cut`` them, read them through ``windows``, or by interpolated
            positions (``stretch``, ``linear``).
        workers: threads that decode images.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images embedded and, where the source knows, images in all.

    Raises:
        InputError: no such model or source, or nothing to measure by.

    Example:
        >>> import tether
        >>> found = tether.eval(tether.load("tiny", random_weights=True), "digits", measures=["retrieval"], limit=20)
        >>> round(found["text_to_image_r10_chance"], 2)
        0.5
    """
    if bad_rows is not None:
        bad_rows.unlink(missing_ok=True)
    rows = open_source(source, where="SOURCE")
    encoder, name = opened(model, device=device, random_weights=random_weights)
    found = measured(
        narrowed(encoder, dims),
        rows,
        measures=measures,
        label=label,
        templates=templates,
        batch_size=batch_size,
        limit=limit,
        bootstrap=bootstrap,
        seed=seed,
        long_text=long_text,
        workers=workers,
        strict=strict,
        on_bad=bad_rows,
        on_progress=with_total(on_progress, rows, limit=limit),
    )
    bad = 0 if bad_rows is None else len(named_in(bad_rows))
    said = [remark(name, rows)]
    if "text_retrieval" in measures and "text_to_text_r1" not in found:
        said.append(f"text_retrieval is left out: no row of {rows.name} has two different captions")
    return Evaluated(name, rows.name, found, rows.version, "\n".join(filter(None, said)), bad, encoder_digest(encoder))
