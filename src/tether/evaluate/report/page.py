"""Gather what a report shows and write the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.evaluate import metric_names
from tether.evaluate.embeddings import Embedded, embed_source
from tether.evaluate.html import projection
from tether.evaluate.html.sprite import SpriteSheet, sprite
from tether.evaluate.html.templates import render
from tether.evaluate.html.text import duration, rounded_duration
from tether.evaluate.meaning import read_meaning
from tether.evaluate.measures import MEASURES, measure
from tether.evaluate.report import galleries
from tether.evaluate.report.confusion import Confusion, confusion
from tether.evaluate.report.run_charts import of_run
from tether.evaluate.report.run_folder import RunFolder, read_run
from tether.evaluate.retrieval import ranks
from tether.evaluate.zero_shot import logits, zero_shot
from tether.tasks.classify.zero_shot import class_weights
from tether.training.signs import signs_of

FILE = "report.html"
THUMBNAIL = 56  # pixels; shown at up to twice that
MOST_ROWS = 2000
"""Rows looked at for the galleries and the map, from the first."""
_EASY = 0.5
"""Chance above which a recall says too little to stand at the top."""
LABELS = ("label", "group")
"""Columns that may hold a class, in this order."""


@dataclass(frozen=True, slots=True)
class ModelSection:
    """The part of the page that needs the model."""

    source: str
    held_out: bool
    sprite: SpriteSheet
    places: dict[int, int]
    text_hits: list[galleries.Query]
    text_misses: list[galleries.Query]
    image_hits: list[galleries.Query]
    image_misses: list[galleries.Query]
    atlas: list[dict[str, Any]]
    clouds: dict[str, projection.Points]
    confusion: Confusion | None
    class_numbers: dict[str, int]
    label: str | None


def write(
    run_folder: Path | str,
    *,
    model: DualEncoder | None = None,
    source: Source | None = None,
    label: str | None = None,
    limit: int = MOST_ROWS,
    bootstrap: int = 1000,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Write ``report.html`` into a run's folder.

    Without ``model`` it takes the run's final one, without ``source`` the one its configuration evaluates on. Where
    either is missing (a run not finished, no held-out source) the page shows the curves and says what is missing.

    Args:
        run_folder: as ``tether train`` leaves it.
        model: to look at instead of the run's.
        source: to look at it on.
        label: column of the class; None takes ``label`` or ``group`` where rows have one.
        limit: rows looked at, from the first.
        bootstrap: resamples for the intervals.
        seed: of the resamples and of the map.
        device: where the run's own model computes.

    Returns:
        the path of the page: one file, under 3 MB, with no outside reference.
    """
    run = read_run(Path(run_folder))
    own = model is None
    model = _model_of(run, device=device) if model is None else model
    held_out = source is None  # else the caller's choice, which may be what the run learnt from
    source = _source_of(run) if source is None else source
    seen, numbers = None, {key: value for key, value in run.summary.items() if isinstance(value, (int, float))}
    if model is not None and source is not None:
        column = label or _label_column(source)
        embedded = embed_source(model, source, limit=limit, label=column, thumbnail=THUMBNAIL)
        if embedded.captions or embedded.labels:
            numbers |= measure(model, embedded, measures=MEASURES, bootstrap=bootstrap, seed=seed)
        name = _spoken(run.config["evaluate"]["source"]) if held_out else source.name
        seen = _look(model, embedded, source=name, held_out=held_out, label=column, seed=seed)
    missing = _missing(run, model, seen, own=own)
    page = _render(run, seen=seen, numbers=numbers, parameters=_parameters(model), missing=missing)
    path = run.path / FILE
    write_text(path, page)
    return path


def _model_of(run: RunFolder, *, device: str) -> Any:
    if not run.has_model:
        return None
    from tether import load

    try:
        return load(run.path, device=device)
    except InputError:
        if run.summary:
            raise
        return None  # an unfinished run has no model yet, which the page says


def _source_of(run: RunFolder) -> Source | None:
    wanted = run.config.get("evaluate") or {}
    if not isinstance(wanted, Mapping) or "source" not in wanted:
        return None
    from tether.data.recorded import open_recorded

    return open_recorded(
        wanted["source"],
        where=f"{run.path / 'config.yaml'}: evaluate.source",
        instead=f"tether report {run.path} --source ...",
    )


def _spoken(spec: str | Mapping[str, Any]) -> str:
    """A specification in words: ``emoji (split test, size 64)``."""
    if not isinstance(spec, Mapping):
        return spec
    settings = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    return f"{spec['name']} ({settings})" if settings else str(spec["name"])


def _label_column(source: Source) -> str | None:
    """The first of ``LABELS`` that the first row has."""
    for block in source.blocks():
        for row in source.read(block):
            return next((name for name in LABELS if row.meta.get(name) is not None), None)
    return None


def _look(
    model: DualEncoder, seen: Embedded, *, source: str, held_out: bool, label: str | None, seed: int
) -> ModelSection:
    text_hits = text_misses = image_hits = image_misses = []
    if seen.captions:
        image, text = seen.geometry.points(seen.image), seen.geometry.points(seen.text)
        found = ranks(image, text, text_to_image=seen.text_to_image, similarity=seen.geometry.similarity)
        text_hits, text_misses = galleries.text_to_image(seen, ranks=found.text_to_image)
        image_hits, image_misses = galleries.image_to_text(seen, ranks=found.image_to_text)
    count = len(seen.image)
    placed = torch.linspace(0, count - 1, min(count, projection.MOST_PLACED)).long().unique().tolist()
    shown = set(placed)
    for query in (*text_hits, *text_misses, *image_hits, *image_misses):
        shown |= {query.image, *(answer.image for answer in query.answers)}
    order = sorted(shown)
    if seen.thumbnails is None:
        raise InputError("the report needs thumbnails: embed the source with thumbnail=...")
    return ModelSection(
        source=source,
        held_out=held_out,
        sprite=sprite(seen.thumbnails[order].numpy()),
        places={row: place for place, row in enumerate(order)},
        text_hits=text_hits,
        text_misses=text_misses,
        image_hits=image_hits,
        image_misses=image_misses,
        atlas=_atlas(seen, placed, seed=seed),
        clouds=_clouds(seen, placed),
        confusion=_confusion(model, seen),
        class_numbers={name: number for number, name in enumerate(seen.classes)},
        label=label,
    )


def _atlas(seen: Embedded, placed: list[int], *, seed: int) -> list[dict[str, Any]]:
    plane = projection.neighbourhoods(F.normalize(seen.image[placed], dim=-1), seed=seed)
    first = seen.first_captions
    numbers = seen.label_numbers.tolist() or [None] * len(seen.keys)
    return [
        {
            "row": row,
            "x": round(100 * float(x), 2),
            "y": round(100 * float(y), 2),
            "name": seen.captions[first[row]] if first[row] >= 0 else seen.keys[row],
            "class": numbers[row],
        }
        for row, (x, y) in zip(placed, plane, strict=True)
    ]


def _clouds(seen: Embedded, placed: list[int]) -> dict[str, projection.Points]:
    if not seen.captions:
        return {}
    texts = torch.nonzero(torch.isin(seen.text_to_image, torch.tensor(placed))).flatten()[: projection.MOST_PLACED]
    image, text = projection.clouds(F.normalize(seen.image[placed], dim=-1), F.normalize(seen.text[texts], dim=-1))
    return {"image": image, "text": text}


def _confusion(model: DualEncoder, seen: Embedded) -> Confusion | None:
    if len(seen.classes) < 2:
        return None
    weights = class_weights(model, seen.classes)
    scores = logits(seen.geometry.points(seen.image), weights=weights, geometry=seen.geometry)
    result = zero_shot(scores, labels=seen.label_numbers)
    return confusion(result.confusion, names=seen.classes)


def _parameters(model: Any) -> int | None:
    return sum(p.numel() for p in model.parameters()) if isinstance(model, torch.nn.Module) else None


def _render(
    run: RunFolder, *, seen: ModelSection | None, numbers: dict[str, float], parameters: int | None, missing: str
) -> str:
    charts = of_run(run.records)
    return render(
        "report.html.j2",
        package="tether.evaluate.report",
        name=run.path.resolve().name,
        run=run,
        charts=charts,
        chart_data=[chart.data for chart in charts],
        sprite=None if seen is None else seen.sprite,
        seen=seen,
        numbers=numbers,
        highlights=_highlights(numbers, run),
        sections=_sections(numbers),
        cost=_cost(run, parameters),
        remarks=_remarks(run),
        missing=missing,
        meaning=read_meaning(run.path),
    )


def _remarks(run: RunFolder) -> list[str]:
    """What the run's course is a sign of, with what to try, and each time that it went back."""
    back = [record["rollback"] for record in run.records if "rollback" in record]
    said = [
        f"After step {one['at'] + 1:,} the run went back to step {one['to']:,}: {one['why']}; "
        f"{one['skipped_batches']:,} batches were passed over."
        for one in back
    ]
    signs = signs_of(run.records, config=run.config)
    return said + [f"{line[0].upper()}{line[1:]}." for line in signs.values()]


def _highlights(numbers: dict[str, float], run: RunFolder) -> list[tuple[str, str, str]]:
    """The few numbers at the top: (value, what it is, its interval)."""
    found = []
    for key, name in (
        ("text_to_image_r10", "text to image, R@10"),
        ("image_to_text_r10", "image to text, R@10"),
        ("text_to_image_r1", "text to image, R@1"),
        ("zero_shot_top1", "zero-shot, top-1"),
    ):
        if key in numbers and numbers.get(f"{key}_chance", 0.0) <= _EASY:
            found.append((metric_names.shown(key, numbers[key]), name, metric_names.beside(key, numbers)))
    losses = [record["loss"] for record in run.steps if record["loss"] is not None]
    if losses:
        found.append((f"{losses[-1]:.3g}", "last training loss", f"first {losses[0]:.3g}"))
    if seconds := run.summary.get("seconds"):
        found.append((rounded_duration(seconds), "training time", ""))
    return found


def _sections(numbers: dict[str, float]) -> dict[str, list[tuple[str, str, str]]]:
    found = {}
    for title, prefixes in metric_names.SECTIONS.items():
        keys = metric_names.keys_of(numbers, prefixes)
        if keys:
            found[title] = [
                (
                    metric_names.describe(key),
                    metric_names.shown(key, numbers[key]),
                    metric_names.beside(key, numbers),
                )
                for key in keys
            ]
    return found


def _cost(run: RunFolder, parameters: int | None) -> list[tuple[str, str]]:
    steps = run.steps
    batch = run.config.get("batch_size", 0) * run.config.get("accumulate", 1)
    done = run.summary.get("steps", steps[-1]["step"] + 1 if steps else 0)
    skipped = run.summary.get("skipped", sum(bool(record.get("skipped")) for record in steps))
    seconds = run.summary.get("seconds", steps[-1].get("seconds") if steps else None)
    rows = [("steps", f"{done:,}"), ("of them skipped", f"{skipped:,}")]
    if back := run.summary.get("rollbacks", sum("rollback" in record for record in run.records)):
        rows.append(("times gone back", f"{back:,}"))
    if batch:
        rows.append(("pairs seen", f"{done * batch:,}"))
    if seconds:
        rows.append(("training time, without evaluations", duration(seconds)))
        if batch:
            rows.append(("images per second", f"{done * batch / seconds:,.0f}"))
    threads = run.environment.get("threads")
    if seconds and threads:
        rows.append(("thread hours, at most", f"{seconds * threads / 3600:.2g}"))
    if parameters:
        rows.append(("parameters", f"{parameters / 1e6:,.1f} million"))
    return rows


def _missing(run: RunFolder, model: Any, seen: ModelSection | None, *, own: bool) -> str:
    """What a reader must know of what is not there; ``own``: the model is the run's."""
    said = [run.unfinished()] if run.unfinished() else []
    if model is None:
        said.append("There is no final model yet, so there is nothing to retrieve with.")
    elif seen is None:
        said.append("The run names no held-out source. Give one: tether report RUN --source emoji:split=test")
    elif said and own:
        said.append("The model shown is its newest checkpoint.")
    return " ".join(said)
