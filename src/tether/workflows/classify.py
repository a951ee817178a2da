"""``tether classify``: images named from a list of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tether.adaptation.heads import Head, load_head
from tether.core.component import build
from tether.core.errors import InputError
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.evaluate.cutoff import Cutoff
from tether.tasks.classify import VIEW_HEADS
from tether.tasks.classify.calibrate import Calibration
from tether.tasks.classify.classify import Label, labelled, write_csv
from tether.tasks.classify.classify import classify as labels_of
from tether.tasks.classify.descriptions import Descriptions, check_described, descriptions_of
from tether.tasks.classify.prompts import classes_of, templates_of
from tether.tasks.classify.remarks import alike_classes, unseen_words
from tether.tasks.classify.views import ViewHead
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from tether.workflows.calibration import Wanted, check_cutoff, cutoff_of
from tether.workflows.head_classifier import HeadClassifier
from tether.workflows.models import Data, Model, OnStage, Progress, opened, progress_of, with_total
from tether.workflows.words import Words, with_words


@dataclass(frozen=True)
class Labels:
    """The classes of a source's images.

    Attributes:
        labels: one for each image, in order.
        bad: images that could not be read.
        calibration: how confidences were fitted on labelled images, or None.
        cutoff: from which cosine on a class fits, or None.
        unseen: what is to be said of classes that are read alike, and of words that no caption of the model's run has.
        measure: what the classes are compared by: ``cosine``, ``logit`` where a trained head names the images, or
            ``score`` of soft matching.
        ceiling: with guided crops, share of the labelled images whose class is among the candidates; or None.
    """

    labels: Sequence[Label]
    bad: int
    calibration: Calibration | None = None
    cutoff: Cutoff | None = None
    unseen: Sequence[str] = ()
    measure: str = "cosine"
    ceiling: float | None = None

    def counts(self) -> dict[str, int]:
        """Images of each class, most frequent first; those without a label under the empty string."""
        return dict(Counter(one.label for one in self.labels).most_common())

    def remarks(self) -> list[str]:
        """What the cutoff means here, and which words the model never saw."""
        line = [] if self.cutoff is None else [self.cutoff.line(pool=len(self.labels))]
        if self.ceiling is not None:
            line.append(
                f"candidates: {self.ceiling:.1%} of the labelled images have their class among them; no more "
                "can be right"
            )
        return [*line, *self.unseen]

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write them as a CSV file; see ``tasks.classify.classify.write_csv``."""
        write_csv(self.labels, Path(path), raw_csv=raw_csv, measure=self.measure)

    def _repr_html_(self) -> str:
        said = self.remarks()
        if self.calibration is None:
            whose = "the model's" if self.measure == "cosine" else "the head's"
            said.append(f"Confidences are {whose} own, not calibrated.")
        rows = "".join(
            f"<tr><td>{escape(name or 'none of these')}</td><td>{count:,}</td></tr>"
            for name, count in self.counts().items()
        )
        lines = "".join(f"<p>{escape(line)}</p>" for line in said)
        return f"{lines}<table><tr><th>class</th><th>images</th></tr>{rows}</table>"


def classify(
    source: Data,
    classes: str | Path | Sequence[str] | None = None,
    *,
    model: Model,
    head: str | Path | Head | ViewHead | Mapping[str, Any] | None = None,
    templates: str | Path | Sequence[str] | None = None,
    descriptions: str | Path | Descriptions | None = None,
    top: int = 3,
    calibrate: Data | None = None,
    label_column: str = "label",
    abstain: float = 0.0,
    none_of_these: Wanted | str = None,
    cutoff_from: Data | None = None,
    words: Words | None = None,
    batch_size: int = 64,
    workers: int = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
    on_stage: OnStage | None = None,
) -> Labels:
    """Name the images of a source from a list of classes, or by a head that ``tether adapt`` made.

    Args:
        source: what ``data.open_source`` takes.
        classes: different names, ``"cat,dog"``, or a text file with one on each line; None with a head, which has its
            own.
        model: loaded, or a name that ``tether.load`` takes.
        head: the folder of a head, or a head, of this very model; or a head that looks at parts of whole images: one
            of ``tasks.classify.VIEW_HEADS``, or a mapping of its ``name`` and settings.
        templates: sentences with ``{}`` where a name goes, a file of them, or ``name``, ``photo``, ``photos`` or
            ``drawings``; None takes those that suit the model.
        descriptions: sentences for each class in place of templates: a mapping, or a JSON or YAML file of one. Without
            ``classes`` its classes are taken.
        top: classes listed for each image.
        calibrate: a source of labelled images to fit the confidences on; without them they are the model's own.
        label_column: of ``calibrate``, with the class names; a row without it may have its label as its only caption.
        abstain: least confidence for a label to be given.
        none_of_these: give no label where the best class has no higher cosine: a number, or ``auto`` as in
            ``tether.search(cutoff=...)``.
        cutoff_from: pairs that the model did not learn from, to fit that on instead.
        words: folders of words that ``tether adapt --recipe new_word`` learnt on this model, for names, templates and
            descriptions.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.
        on_stage: called so, too, with the name of a stage before it: ``cutoff`` or ``calibrate``.

    Raises:
        InputError: no such model or source, a label of ``calibrate`` that is no class, a class without description or
            the other way round, or not one good row.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.classify("scenes:rows=5,size=64", ["a circle", "a square"], model=model)
        >>> len(found.labels)
        5
    """
    trained = load_head(head) if isinstance(head, (str, Path)) else head
    says = None if descriptions is None else descriptions_of(descriptions)
    if says is not None and classes is None:
        classes = list(says)
    views = isinstance(trained, (ViewHead, Mapping))
    names = _names(
        classes, None if views else trained, templates=templates, descriptions=says, none_of_these=none_of_these
    )  # before the model: mistakes first
    if says is not None:
        check_described(
            names, says, where=str(descriptions) if isinstance(descriptions, (str, Path)) else "descriptions"
        )
    if views:
        prompted = _view_head(trained, templates=templates, says=says, none_of_these=none_of_these, batch=batch_size)
    else:
        forms = None if templates is None else templates_of(templates)
        prompted = ZeroShotClassifier(templates=forms, descriptions=says)
    if words is not None and isinstance(trained, Head):
        raise InputError("--words: are for --classes; a head has classes of its own and reads no text")
    rows = open_source(source, where="SOURCE")
    known = None if calibrate is None else open_source(calibrate, where="--calibrate")
    named = str(model) if isinstance(model, (str, Path)) else None
    check_cutoff(none_of_these, name=named, pairs=cutoff_from, option="--none-of-these")
    encoder, name = opened(model, device=device, random_weights=random_weights)
    base, plain = encoder, names
    if words is not None:
        if none_of_these == "auto":
            raise InputError("--words: goes with no --none-of-these or a number")
        encoder = worded = with_words(base, words)
        plain = [worded.plain(one) for one in names]
    cutoff = cutoff_of(
        none_of_these, model=encoder, name=name, pairs=cutoff_from, option="--none-of-these", on_stage=on_stage
    )
    support = None
    if known is not None:
        support = labelled(
            known,
            model=encoder,
            classes=names,
            column=label_column,
            batch_size=batch_size,
            workers=workers,
            own_pixels=isinstance(prompted, ViewHead),
            on_progress=progress_of(on_stage, "calibrate", source=known),
        )
    if trained is None or views:
        used = prompted.prepare(encoder, names, support=support)
    else:
        used = HeadClassifier(trained, encoder, support=support)
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    labels = labels_of(
        rows,
        head=used,
        image_spec=encoder.image_spec,
        bad=bad,
        top=top,
        abstain=abstain,
        above=None if cutoff is None else cutoff.threshold,
        batch_size=batch_size,
        workers=workers,
        on_progress=with_total(on_progress, rows),
    )
    found = list(labels)
    unseen: list[str] = []
    if not isinstance(used, HeadClassifier):
        told = ZeroShotClassifier(templates=used.templates, descriptions=used.descriptions)
        told = used if isinstance(used, ZeroShotClassifier) else told.prepare(encoder, names)
        unseen = [*alike_classes(names, told.weights), *unseen_words(plain, model=base, name=name)]
    measure = "logit" if isinstance(used, HeadClassifier) else getattr(used, "measure", "cosine")
    return Labels(found, bad.count, used.calibration, cutoff, unseen, measure, getattr(used, "ceiling", None))


def _names(
    classes: str | Path | Sequence[str] | None,
    head: Head | None,
    *,
    templates: object,
    descriptions: object,
    none_of_these: object,
) -> tuple[str, ...]:
    """The classes that are given, or those of a head, with which nothing of prompts goes."""
    if head is None:
        if classes is None:
            raise InputError("--classes: expected names, or --head FOLDER, a head of tether adapt that has its own")
        return classes_of(classes)
    given = {
        "--descriptions": descriptions,
        "--classes": classes,
        "--templates": templates,
        "--none-of-these": none_of_these,
    }
    if idle := [option for option, value in given.items() if value is not None]:
        raise InputError(f"{idle[0]}: a head has classes of its own and asks for no prompt; leave it out")
    if other := head.names_none():
        raise InputError(f"--head: {other}")
    return head.classes


def _view_head(
    given: ViewHead | Mapping[str, Any],
    *,
    templates: str | Path | Sequence[str] | None,
    says: Descriptions | None,
    none_of_these: object,
    batch: int,
) -> ViewHead:
    """A head that looks at parts of whole images, made of its settings where it is none yet."""
    if none_of_these is not None:
        raise InputError(
            "--none-of-these: is fitted on whole images, and these are scores of several views; leave it out"
        )
    if isinstance(given, ViewHead):
        if templates is not None or says is not None:
            raise InputError("templates: this head has its own; give them, or descriptions, to its constructor")
        return given
    forms = None if templates is None else templates_of(templates)
    settings = {"batch_size": batch, **given}
    return build(settings, VIEW_HEADS, where="--with", templates=forms, descriptions=says)
