"""A source of images and a list of classes to a CSV file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tether.core.atomic_io import atomic_path, check_file
from tether.core.errors import InputError
from tether.core.printable import CsvRows
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Share, checked
from tether.core.types import Batch, Row
from tether.data.bad_rows import BadRows
from tether.data.loader import ordered
from tether.tasks.classify.calibrate import Calibration
from tether.tasks.classify.prompts import classes_of
from tether.tasks.classify.zero_shot import LABELS, Scores, ZeroShotClassifier

Progress = Callable[[int, int | None], None]
LABEL = "label"


@dataclass(frozen=True, slots=True)
class Classified:
    """What a run of ``classify`` left behind.

    Attributes:
        path: the CSV file.
        rows: images named or abstained from.
        abstained: of those, without a label.
        bad: rows that were skipped.
        bad_rows: JSON-lines file that names them; absent when there are none.
        calibration: how the confidence was fitted, or None.
    """

    path: Path
    rows: int
    abstained: int
    bad: int
    bad_rows: Path
    calibration: Calibration | None


@checked
def classify(
    source: Source,
    *,
    model: DualEncoder,
    classes: Sequence[str],
    out: Path,
    templates: Sequence[str] | None = None,
    top: Count = 3,
    abstain: Share = 0.0,
    above: float | None = None,
    calibrate: Source | None = None,
    label_column: str = LABEL,
    batch_size: Count = 64,
    workers: int = 0,
    strict: bool = False,
    raw_csv: bool = False,
    on_progress: Progress | None = None,
) -> Classified:
    """Name every good image of a source.

    The CSV, written atomically, has ``key``, ``label`` (empty where the confidence is below ``abstain`` or the cosine
    not ``above``), ``confidence``, and for each of the ``top`` classes ``class_i``, ``confidence_i``, ``cosine_i``.

    Args:
        source: where the images come from.
        model: any model that ``tether.load`` gives.
        classes: different names.
        out: the CSV file.
        templates: sentences with ``{}`` where a class name goes; None takes those that suit the model.
        top: classes listed for each image.
        abstain: least confidence for a label to be given.
        above: what the cosine of the best class must exceed for a label to be given, so that an image of none of the
            classes may get none.
        calibrate: labelled images to fit the confidence on; without them it is the model's own and may be far off.
        label_column: column of ``calibrate`` that holds class names; a row without it may have its label as its only
            caption.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row.
        raw_csv: write keys and names that a spreadsheet would run as formulas as they are, not with an apostrophe.
        on_progress: called with rows done and, where the source knows, rows in all.

    Raises:
        InputError: a label of ``calibrate`` that is no class, no good row, or a bad row under ``strict``.
    """
    classes = classes_of(list(classes))
    check_file(out, where="out")
    if abstain > 0 and calibrate is None:
        warnings.warn(
            "abstaining by a confidence that was not calibrated: it is the model's own and may be far from the "
            "fraction that is right; give labelled images to calibrate on",
            stacklevel=2,
        )
    head = ZeroShotClassifier(templates=templates)
    support = None if calibrate is None else _labelled(calibrate, model, classes, label_column, batch_size, workers)
    head.prepare(model, classes, support=support)
    bad_rows = out.with_name(f"{out.stem}.bad_rows.jsonl")
    bad_rows.unlink(missing_ok=True)  # the file is written anew, so its bad_rows.jsonl is too
    counts = [block.rows for block in source.blocks()]
    total = None if None in counts else sum(count for count in counts if count is not None)
    done = abstained = 0
    stream = ordered(
        source, image_spec=model.image_spec, batch_size=batch_size, workers=workers, strict=strict, on_bad=bad_rows
    )
    with (
        atomic_path(out) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = CsvRows(file, raw_csv=raw_csv)
        table.write(_header(min(top, len(classes))))
        for rows, pixels in stream:
            for line in _lines(rows, head.predict(pixels), top=top, abstain=abstain, above=above):
                abstained += line[1] == ""
                table.write(line)
            done += len(rows)
            if on_progress is not None:
                on_progress(done, total)
    return Classified(
        path=out,
        rows=done,
        abstained=abstained,
        bad=BadRows(source.name, path=bad_rows).count,
        bad_rows=bad_rows,
        calibration=head.calibration,
    )


def _header(top: int) -> list[str]:
    ranked = [f"{name}_{place}" for place in range(1, top + 1) for name in ("class", "confidence", "cosine")]
    return ["key", "label", "confidence", *ranked]


def _lines(
    rows: Sequence[Row], scores: Scores, *, top: int, abstain: float, above: float | None
) -> Iterator[list[str]]:
    order = scores.order(top=top)
    confidence, cosine = scores.probability.gather(1, order), scores.cosine.gather(1, order)
    for row, label, places, sure, near in zip(
        rows,
        scores.labels(abstain=abstain, above=above),
        order.tolist(),
        confidence.tolist(),
        cosine.tolist(),
        strict=True,
    ):
        ranked = [
            text
            for place, chance, similar in zip(places, sure, near, strict=True)
            for text in (scores.classes[place], f"{chance:.6f}", f"{similar:.6f}")
        ]
        yield [row.key, label or "", f"{sure[0]:.6f}", *ranked]


def _labelled(
    source: Source, model: DualEncoder, classes: Sequence[str], column: str, batch_size: int, workers: int
) -> Iterator[Batch]:
    number = {name: i for i, name in enumerate(classes)}
    no_text = torch.empty(0, 0, dtype=torch.int64)
    for rows, pixels in ordered(source, image_spec=model.image_spec, batch_size=batch_size, workers=workers):
        labels = []
        for row in rows:
            label = row.meta.get(column, row.texts[0] if len(row.texts) == 1 else None)
            if label is None:
                raise InputError(f"{source.name}: row {row.key!r} has neither a column {column!r} nor one caption")
            if str(label) not in number:
                raise InputError(
                    f"{source.name}: row {row.key!r}: {str(label)!r} is none of the {len(classes)} classes"
                )
            labels.append(number[str(label)])
        yield Batch(image=pixels, text=no_text, extra={LABELS: torch.tensor(labels)})
