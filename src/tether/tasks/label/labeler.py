"""Experts run once over a data set; what they say of each pixel is kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from tether.core.atomic_io import local, remove_leftovers, write_json
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.protocols import Source
from tether.core.ranges import Share, checked
from tether.core.types import Row
from tether.data.bad_rows import BadRows
from tether.data.dense_labels import (
    FORMAT,
    IGNORED,
    INDEX,
    NO_DEPTH,
    TASKS,
    UNIT,
    Expert,
    LabelStore,
    Task,
    add_to_ledger,
    check_aspect,
    checked_label,
    label_path,
    read_ledger,
    write_label,
)
from tether.data.images import decode
from tether.data.shuffle import acceptor, until_broken

BAD_ROWS = "bad_rows.jsonl"
Said = Tensor | np.ndarray
Model = Callable[[UInt8[Tensor, "3 h w"]], Said]
"""An image to what it says of each pixel; see ``PseudoLabeler``. It may have ``name``, ``version``, ``classes``."""


@dataclass(frozen=True, slots=True)
class LabelledFolder:
    """What a run has left.

    Attributes:
        folder: the store.
        rows: that have labels.
        new: of them made by this run.
        bad: rows that could not be read.
        experts: by task.
    """

    folder: Path
    rows: int
    new: int
    bad: int
    experts: dict[str, Expert]


class PseudoLabeler:
    """Runs experts over the images of a source and keeps what they say (CLIPTeX, arXiv 2310.14108).

    An expert is any callable from an upright image, uint8 (3, h, w), to an array of the image's aspect and any size:

    - ``seg``: probabilities (k, h, w), of which pixels below ``confidence`` get no label, or class numbers (h, w);
    - ``depth``: numbers (h, w), larger is farther, of any scale: each image's own is brought to 0 to 1;
    - ``normal``: (3, h, w) of length 1, x to the right; zeros for none.

    Numbers that are not finite are no labels. One that has a ``label_row(row)`` is asked with the row, and may answer
    None: no label for this image, or an array as ``data.dense_labels.checked_label`` takes it.

    The paper names Mask R-CNN, DPT and a network of normals; threshold and scaling of depth are ours.

    Example:
        >>> import tempfile, torch
        >>> from tether.data import open_source
        >>> from tether.tasks.label import PseudoLabeler
        >>> def bright(image):  # two classes, by how bright a pixel is
        ...     share = image.float().mean(0) / 255
        ...     return torch.stack([1 - share, share])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     done = PseudoLabeler({"seg": bright}, store=folder).run(open_source("scenes:rows=3", where="data"))
        ...     done.rows, done.experts["seg"]
        (3, Expert(name='bright', version='', classes=2))
    """

    @checked
    def __init__(
        self,
        experts: Mapping[str, Model],
        *,
        store: Path | str,
        confidence: Share = 0.5,
        classes: int | None = None,
    ) -> None:
        """Take the experts.

        Args:
            experts: by task: ``seg``, ``depth``, ``normal``.
            store: folder of the labels; what lies there already is not made again.
            confidence: least probability of the likeliest class for a label.
            classes: how many, where the expert gives numbers and does not say.

        Raises:
            InputError: no expert, a task that there is not, or more classes than 8 bits hold.
        """
        if not experts or experts.keys() - {*TASKS}:
            raise InputError(f"experts: expected some of {', '.join(TASKS)}, got {', '.join(experts) or 'none'}")
        self._models: dict[Task, Any] = {cast(Task, task): model for task, model in experts.items()}
        self._store, self._confidence = local(store), confidence
        self.experts = {}
        for task, model in self._models.items():
            name = getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__)
            known = getattr(model, "classes", None) or classes if task == "seg" else None
            if known is not None and not 1 <= known <= IGNORED:
                raise InputError(f"classes: expected 1 to {IGNORED}, as a label has 8 bits, got {known}")
            self.experts[task] = Expert(str(name), str(getattr(model, "version", "")), known)

    def run(
        self,
        source: Source,
        *,
        limit: int | None = None,
        strict: bool = False,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> LabelledFolder:
        """Label every image that has no label yet; a run that was killed at any moment goes on.

        Args:
            source: where rows come from; labels are kept by their keys.
            limit: most rows, from the first.
            strict: stop at the first bad row instead of skipping it.
            on_progress: called with (rows done, None).

        Raises:
            InputError: labels of other experts lie there, an expert that says what is no label, or no good row.
            WriteError: a full disk, no permission; the labels that were finished are kept.
        """
        with locked(self._store, purpose="tether label"):
            return self._run(source, limit=limit, strict=strict, tell=on_progress or (lambda done, total: None))

    def _run(
        self, source: Source, *, limit: int | None, strict: bool, tell: Callable[[int, int | None], None]
    ) -> LabelledFolder:
        folder = self._store
        had = self._known_experts()
        kept = read_ledger(folder)
        remove_leftovers(folder)
        bad = BadRows.anew(source.name, path=folder / BAD_ROWS, strict=strict)
        accept = acceptor(bad, need_text=False)
        done = new = 0
        for row in (row for block in source.blocks() for row in until_broken(source, block, bad=bad) if accept(row)):
            bad.tried(1)
            tell(done, None)
            asked = [
                task
                for task in self._models
                if task not in kept.get(row.key, ()) or not label_path(folder, row.key, task).is_file()
            ]
            if asked:
                try:
                    pixels = decode(row.image, name=row.key)  # pyrefly: ignore - `accept` refuses None
                    labels = {task: self._given(task, row, pixels) for task in asked if self._of_row(task)}
                except InputError as error:
                    bad.add(row.key, str(error))
                    continue
                labels |= {task: self._said(task, row, pixels) for task in asked if not self._of_row(task)}
                made = {task: label for task, label in labels.items() if label is not None}
                if made:
                    if had != (had := had | {task: self.experts[task] for task in made}):
                        write_json(folder / INDEX, {"format": FORMAT, "tasks": {t: asdict(e) for t, e in had.items()}})
                    for task, label in made.items():
                        write_label(label_path(folder, row.key, task), task, label)
                    add_to_ledger(folder, row.key, list(made))
                    new += 1
            done += 1
            if done == limit:
                break
        tell(done, done)
        if not done:
            raise InputError(f"{source.name}: {bad.nothing_good()}")
        if not (folder / INDEX).is_file():
            raise InputError(f"{source.name}: the experts have no label for any of {done} rows")
        store = LabelStore(folder)
        return LabelledFolder(folder, len(store.tasks_of), new, bad.count, store.experts)

    def _known_experts(self) -> dict[str, Expert]:
        """Those whose labels lie there."""
        if not (self._store / INDEX).is_file():
            return {}
        had = LabelStore(self._store).experts
        for task, expert in self.experts.items():
            if task not in had:
                continue
            now = had[task]
            if (now.name, now.version) != (expert.name, expert.version) or expert.classes not in (None, now.classes):
                raise InputError(
                    f"{self._store}: its labels of {task} are by {now}, not by {expert}; take another folder"
                )
            self.experts[task] = now
        return had

    def _of_row(self, task: Task) -> bool:
        return hasattr(self._models[task], "label_row")

    def _given(self, task: Task, row: Row, pixels: Tensor) -> np.ndarray | None:
        """What the row itself has; an error is the row's."""
        label = self._models[task].label_row(row)
        return None if label is None else self._checked(task, label, pixels, where=f"{row.key}: {task}")

    def _said(self, task: Task, row: Row, pixels: Tensor) -> np.ndarray:
        """What an expert says of the pixels; an error is the expert's."""
        said, where = self._models[task](pixels), f"{row.key}: {task}"
        values = said.detach().cpu() if isinstance(said, Tensor) else said
        values = values.float() if isinstance(values, Tensor) and values.is_floating_point() else values
        label = getattr(self, f"_{task}")(np.asarray(values), where=where)
        return self._checked(task, label, pixels, where=where)

    def _checked(self, task: Task, label: np.ndarray, pixels: Tensor, *, where: str) -> np.ndarray:
        classes = self.experts[task].classes
        if task == "seg" and classes is None:
            raise InputError(f"{where}: expected the number of classes; give it as classes, or say it as its attribute")
        label = checked_label(task, label, classes=classes, where=where)
        check_aspect(label.shape, (pixels.shape[1], pixels.shape[2]), where=where)
        return label

    def _seg(self, said: np.ndarray, *, where: str) -> np.ndarray:
        if said.ndim == 2:
            return said
        if said.ndim != 3 or said.dtype.kind != "f" or not np.isfinite(said).all() or said.min() < 0:
            got = f"{said.dtype} {said.shape}"
            raise InputError(f"{where}: expected probabilities (k, h, w) or class numbers (h, w), got {got}")
        if np.abs(said.sum(axis=0) - 1).max() > 1e-2:
            raise InputError(f"{where}: expected probabilities that add up to 1; take the softmax of logits first")
        expert = self.experts["seg"]
        if expert.classes not in (None, len(said)) or len(said) > IGNORED:
            raise InputError(f"{where}: expected {expert.classes or f'at most {IGNORED}'} classes, got {len(said)}")
        self.experts["seg"] = Expert(expert.name, expert.version, len(said))
        return np.where(said.max(axis=0) < self._confidence, IGNORED, said.argmax(axis=0))

    def _depth(self, said: np.ndarray, *, where: str) -> np.ndarray:
        said = said[0] if said.ndim == 3 and len(said) == 1 else said
        known = np.isfinite(said)
        if not known.any():
            return np.full(said.shape, NO_DEPTH, np.float32)
        low, high = said[known].min(), said[known].max()
        scaled = np.zeros(said.shape, np.float32) if high == low else (said - low) / (high - low)
        return np.where(known, scaled, NO_DEPTH)

    def _normal(self, said: np.ndarray, *, where: str) -> np.ndarray:
        if said.ndim != 3 or len(said) != 3:
            raise InputError(f"{where}: expected (3, h, w), got {said.shape}")
        known = np.isfinite(said).all(axis=0)
        label = np.where(known, said, 0).transpose(1, 2, 0).astype(np.float32)
        lengths = np.linalg.norm(label, axis=2, keepdims=True)
        near = np.abs(lengths - 1) <= UNIT  # others are left for the check to refuse
        return np.where(near, label / np.where(near, lengths, 1), label)
