"""``tether label``: what experts say of every pixel of a source's images, kept beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tether.core.device import chosen_device
from tether.core.errors import InputError
from tether.data import open_source
from tether.tasks.label.experts import ColumnLabels, FileLabels, TransformersExpert
from tether.tasks.label.labeler import LabelledFolder, Model, PseudoLabeler
from tether.workflows.models import Data, Progress, with_total

ExpertSpec = str | Path | Model
COLUMN, FILES = "column:", "files:"


def label(
    source: Data,
    *,
    out: str | Path,
    seg: ExpertSpec | None = None,
    depth: ExpertSpec | None = None,
    normal: ExpertSpec | None = None,
    classes: int | None = None,
    confidence: float = 0.5,
    gives: Literal["distance", "inverse"] = "inverse",
    longest: int = 512,
    limit: int | None = None,
    strict: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> LabelledFolder:
    """Label every pixel of a source's images once; a run that was stopped goes on.

    Args:
        source: what ``data.open_source`` takes.
        out: folder of the labels, which ``contents: {labels: {store: ...}}`` of a recipe names.
        seg: who says the classes: a folder of a transformers model, ``column:NAME`` of the data, ``files:FOLDER`` of
            PNG masks, or a callable, see ``PseudoLabeler``.
        depth: who says the depth: likewise, but no files.
        normal: who says the surface normals: a column or a callable.
        classes: how many, for columns, files and callables that give class numbers.
        confidence: least probability of the likeliest class for a label.
        gives: what a depth model of transformers gives: ``inverse`` depth, larger is nearer, or ``distance``.
        longest: pixels of the longer side of labels by transformers models, at most.
        limit: most rows, from the first.
        strict: stop at the first bad row instead of skipping it.
        device: where models of transformers run.
        on_progress: called with rows done and, where the source knows, rows in all.

    Raises:
        InputError: no such source or expert, labels of other experts in the folder, or no good row.

    Example:
        >>> import tempfile, tether
        >>> from tether.workflows.label import label
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = label("scenes:rows=4,ground=relief", out=folder, depth="column:depth", normal="column:normals")
        ...     done.rows, sorted(done.experts)
        (4, ['depth', 'normal'])
    """
    given = {"seg": seg, "depth": depth, "normal": normal}
    experts = {
        task: _expert(spec, task, classes=classes, device=str(chosen_device(device)), gives=gives, longest=longest)
        for task, spec in given.items()
        if spec is not None
    }
    if not experts:
        raise InputError(
            "expected an expert for seg, depth or normal: a folder of transformers, column:NAME, or files:"
        )
    rows = open_source(source, where="SOURCE")
    labeler = PseudoLabeler(experts, store=out, confidence=confidence, classes=classes)
    return labeler.run(rows, limit=limit, strict=strict, on_progress=with_total(on_progress, rows, limit=limit))


def _expert(
    spec: ExpertSpec,
    task: str,
    *,
    classes: int | None,
    device: str,
    gives: Literal["distance", "inverse"],
    longest: int,
) -> Model:
    if callable(spec):
        return spec
    name = str(spec)
    if name.startswith(COLUMN):
        return ColumnLabels(name.removeprefix(COLUMN), classes=classes if task == "seg" else None)  # pyrefly: ignore
    if name.startswith(FILES) and task == "seg":
        if classes is None:
            raise InputError(f"classes: expected how many classes there are in {name}")
        return FileLabels(name.removeprefix(FILES), classes=classes)  # pyrefly: ignore
    if task == "normal" or name.startswith(FILES):
        raise InputError(f"{task}: expected column:NAME{'' if task == 'normal' else ' or a folder'}, got {name!r}")
    return TransformersExpert(
        name, task="seg" if task == "seg" else "depth", device=device, gives=gives, longest=longest
    )
