"""``tether classify``: images named from a list of classes."""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tether.data import open_source
from tether.evaluate.cutoff import Cutoff
from tether.tasks.classify.classify import classify as to_file
from tether.tasks.classify.prompts import classes_of
from tether.workflows.calibration import Pairs, Wanted, cutoff_of, unseen_words
from tether.workflows.models import Model, opened


@dataclass(frozen=True, slots=True)
class Label:
    """The class of one image.

    Attributes:
        key: of the image.
        label: name of the class; empty where the confidence was too low, or none of the classes fits.
        confidence: 0 to 1; a probability only after calibration.
    """

    key: str
    label: str
    confidence: float


@dataclass(frozen=True)
class Labels:
    """The classes of a source's images.

    Attributes:
        labels: one for each image, in order.
        bad: images that could not be read.
        calibrated: whether confidences were fitted on labelled images.
        cutoff: from which cosine on a class fits, or None.
        unseen: what is to be said of words that no caption of the model's run has.
    """

    labels: Sequence[Label]
    bad: int
    calibrated: bool
    cutoff: Cutoff | None = None
    unseen: Sequence[str] = ()

    def counts(self) -> dict[str, int]:
        """Images of each class, most frequent first."""
        return dict(Counter(one.label for one in self.labels).most_common())

    def _repr_html_(self) -> str:
        said = [*([self.cutoff.line(pool=len(self.labels))] if self.cutoff else []), *self.unseen]
        if not self.calibrated:
            said.append("Confidences are the model's own, not calibrated.")
        rows = "".join(
            f"<tr><td>{escape(name or 'none of these')}</td><td>{count:,}</td></tr>"
            for name, count in self.counts().items()
        )
        lines = "".join(f"<p>{escape(line)}</p>" for line in said)
        return f"{lines}<table><tr><th>class</th><th>images</th></tr>{rows}</table>"


def classify(
    source: str | Path | Mapping[str, Any],
    classes: str | Sequence[str],
    *,
    model: Model,
    templates: Sequence[str] | None = None,
    calibrate: str | Path | None = None,
    abstain: float = 0.0,
    none_of_these: Wanted | str = None,
    cutoff_from: Pairs = None,
    device: str = "auto",
) -> Labels:
    """Name the images of a source from a list of classes.

    Args:
        source: what ``data.open_source`` takes.
        classes: different names, or ``"cat,dog"``.
        model: loaded, or a name that ``tether.load`` takes.
        templates: sentences with ``{}`` where a name goes; None takes those that suit the model.
        calibrate: a source of labelled images to fit the confidences on.
        abstain: least confidence for a label to be given.
        none_of_these: give no label where the best class has no higher cosine: a number, or ``auto`` as in
            ``tether.search(cutoff=...)``.
        cutoff_from: pairs that the model did not learn from, to fit that on instead.
        device: where to load the model.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.classify("scenes:rows=5,size=64", ["a circle", "a square"], model=model)
        >>> len(found.labels)
        5
    """
    encoder, name = opened(model, device=device)
    rows = open_source(source, where="source")
    labelled = None if calibrate is None else open_source(calibrate, where="calibrate")
    names = classes_of(classes if isinstance(classes, str) else list(classes))
    cutoff = cutoff_of(none_of_these, model=encoder, name=name, pairs=cutoff_from, option="--none-of-these")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels.csv"
        done = to_file(
            rows,
            model=encoder,
            classes=names,
            out=out,
            templates=templates,
            calibrate=labelled,
            abstain=abstain,
            above=None if cutoff is None else cutoff.threshold,
            raw_csv=True,
        )
        with out.open(newline="", encoding="utf-8") as file:
            labels = [Label(one["key"], one["label"], float(one["confidence"])) for one in csv.DictReader(file)]
    unseen = unseen_words(names, model=encoder, name=name)
    return Labels(labels, done.bad, done.calibration is not None, cutoff, unseen)
