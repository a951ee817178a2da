"""``tether audit``: likely wrong labels and captions, copies across a split and outliers, each with its reason."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F

from tether.core.atomic_io import csv_file, write_json, write_text
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import encoder_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Whole, checked
from tether.data import open_source
from tether.data.decision import KINDS
from tether.data.exchange.fiftyone import write_dataset
from tether.data.exchange.label_studio import write_tasks
from tether.data.exchange.suspect import Suspect
from tether.data.features.selection import source_digest
from tether.data.labelled import sorted_names
from tether.evaluate.audit.confident import checked_labels
from tether.evaluate.audit.judges import NEAREST, neighbours, out_of_fold
from tether.evaluate.audit.page import render
from tether.evaluate.audit.suspects import (
    JudgedLabels,
    caption_suspects,
    copy_suspects,
    judge,
    label_suspects,
    outlier_suspects,
)
from tether.evaluate.embeddings import LABEL
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.duplicates import alike_groups
from tether.evaluate.inspect.embedding_cache import gather
from tether.evaluate.inspect.noisy_pairs import FIT
from tether.tasks.classify.prompts import classes_of
from tether.tasks.classify.zero_shot import class_weights
from tether.tasks.retrieve.vectors import make_thumbnail
from tether.workflows.models import Data, Model, opened

Look = Literal["label", "caption", "copy", "outlier"]
LOOKS: tuple[Look, ...] = get_args(Look)
MOST = 200
LIMIT = 50_000
LEAST_PAIRS = 20
TRUSTED = 0.6
"""Share of labels told as given below which it is said that the judge is weak."""
PAGE, NUMBERS, SUSPECTS, SCORES, KEPT = "audit.html", "audit.json", "suspects.csv", "labels.csv", "kept"
_SIDE = 256


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        suspects: all of them, those of a kind together, the most suspect first.
        keys: of the n rows looked at.
        judged: what speaks for each class of each row; None where labels were not looked at.
        remarks: what to beware of.
        files: what was written.
        bad: rows that could not be read.
    """

    suspects: tuple[Suspect, ...]
    keys: tuple[str, ...]
    judged: JudgedLabels | None
    remarks: tuple[str, ...]
    files: tuple[Path, ...]
    bad: int

    def of(self, kind: str) -> tuple[Suspect, ...]:
        """Those of one kind: ``label``, ``caption``, ``copy`` or ``outlier``."""
        return tuple(one for one in self.suspects if one.kind == kind)

    def counts(self) -> dict[str, int]:
        """How many there are of each kind."""
        return {kind: len(self.of(kind)) for kind in KINDS}


@checked
def audit(
    source: Data,
    *,
    out: str | Path,
    label: str | None = None,
    classes: str | Path | Sequence[str] | None = None,
    model: Model = "starter",
    against: Data | None = None,
    look: Sequence[Look] | None = None,
    most: Count = MOST,
    limit: Count = LIMIT,
    label_studio: bool = False,
    fiftyone: bool = False,
    batch_size: Count = 64,
    workers: Whole = 2,
    strict: bool = False,
    seed: Whole = 0,
    raw_csv: bool = False,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Audit:
    """Find what is likely wrong in a set of images with labels or captions, and write a page to go through it.

    Labels are judged by a probe on embeddings that did not learn the row, by the nearest images and, where the model
    can say it, by the names of the classes; captions by what the same caption and image get with others. Embeddings are
    kept in ``out``, so a stopped audit goes on.

    Args:
        source: what ``data.open_source`` takes.
        out: folder of the report.
        label: column of the class; None takes ``label`` where every row has it.
        classes: all names there may be, as ``tether.classify`` takes them; labels that are numbers count into them.
        model: loaded, or a name that ``tether.load`` takes.
        against: the other part of a split; images of ``source`` that look like one of it are named.
        look: at what: ``label``, ``caption``, ``copy``, ``outlier``; None: at all that the rows have.
        most: suspects of a kind, at most.
        limit: rows looked at, spread over the source.
        label_studio: also write tasks for Label Studio.
        fiftyone: also write a data set of FiftyOne.
        batch_size: rows in one forward.
        workers: threads that decode images.
        strict: stop at the first bad row.
        seed: of the folds.
        raw_csv: leave texts as they are that a spreadsheet would run.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with what is done, how much, and of how much.

    Raises:
        InputError: no label where one was asked for, one out of range, one class, fewer than two rows of a class, or
            embeddings that are not finite; row, column and what was expected are named.

    Example:
        >>> import tempfile, tether
        >>> from tether.workflows.audit import audit
        >>> model = tether.load("tiny", random_weights=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = audit("digits:split=test", label="label", model=model, out=folder, look=["label"], limit=60)
        >>> len(found.keys), sorted(found.counts())
        (60, ['caption', 'copy', 'label', 'outlier'])
    """
    out = Path(out)
    wanted = tuple(LOOKS if look is None else look)
    names = None if classes is None else classes_of(classes if isinstance(classes, (str, Path)) else list(classes))
    rows, other = (
        open_source(source, where="SOURCE"),
        None if against is None else open_source(against, where="--against"),
    )
    encoder, called = opened(model, device=device, random_weights=random_weights)
    cast(torch.nn.Module, encoder).eval()
    tell = on_progress or (lambda what, done, total: None)

    def seen(one: Source, *, column: str | None, what: str) -> Subject:
        tag = hashlib.blake2b(repr((limit, column, strict)).encode(), digest_size=4).hexdigest()
        digest = encoder_digest(encoder)
        return gather(
            encoder,
            one,
            folder=out / KEPT / f"{digest[:12]}-{source_digest(one, spec=one.name)}-{tag}",
            limit=limit,
            label=column,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            seed=seed,
            facts={"model_name": called, "source_name": one.name, "digest": digest, "eval_command": ""},
            on_progress=lambda done, total: tell(what, done, total),
        )

    with locked(out, purpose="tether audit"):
        subject = seen(rows, column=label, what="embedding the rows")
        beside = None if other is None else seen(other, column=None, what="embedding the other part")
        suspects, judged, remarks = _found(
            encoder, subject, beside, rows, label=label, names=names, wanted=wanted, seed=seed, tell=tell
        )
        kept = [one for kind in KINDS for one in [each for each in suspects if each.kind == kind][:most]]
        for kind in KINDS:
            if (count := sum(one.kind == kind for one in suspects)) > most:
                remarks.append(f"{kind}: the {most} most suspect of {count} are shown; --most shows more")
        tell("writing the page", 0, None)
        files = _write(
            out,
            kept,
            subject,
            beside,
            rows,
            judged,
            remarks,
            label_studio=label_studio,
            fiftyone=fiftyone,
            raw_csv=raw_csv,
        )
    return Audit(tuple(kept), subject.seen.keys, judged, tuple(remarks), files, subject.bad)


def _found(
    encoder: DualEncoder,
    subject: Subject,
    beside: Subject | None,
    source: Source,
    *,
    label: str | None,
    names: tuple[str, ...] | None,
    wanted: Sequence[str],
    seed: int,
    tell: Callable[[str, int, int | None], None],
) -> tuple[list[Suspect], JudgedLabels | None, list[str]]:
    keys, words = subject.seen.keys, subject.seen.labels
    remarks: list[str] = []
    if len(keys) < 2:
        raise InputError(f"{source.name}: expected at least two rows, got {len(keys)}")
    if subject.lost:
        remarks.append(f"{subject.lost} embeddings are not finite and were left out")
    tell("looking for copies", 0, None)
    sides = [subject, *([] if beside is None else [beside])]
    image = torch.cat([one.image for one in sides])
    groups = alike_groups(image, _thumbnails(sides))
    own = groups[: len(keys)]
    tell("looking for neighbours", 0, None)
    near = neighbours(subject.image, k=NEAREST, groups=own)
    found: list[Suspect] = []
    judged = None
    texts = ""
    if "label" in wanted and words:
        classes, numbers = numbered(words, keys=keys, names=names, where=f"{source.name}: {label or LABEL}")
        checked_labels(numbers, classes=classes)
        tell("probing in folds", 0, None)
        probe = out_of_fold(subject.image, numbers, classes=len(classes), groups=own, seed=seed)
        judged = judge(numbers, classes=classes, probe=probe, near=near, zero_shot=_by_names(encoder, subject, classes))
        found += label_suspects(judged, keys=keys)
        right = float((judged.together.argmax(axis=1) == numbers).mean())
        if right < TRUSTED:
            remarks.append(
                f"the model tells the classes of only {right:.0%} of the rows as they are labelled: many of the labels "
                "that are doubted will be right; another --model may know these images"
            )
        words = tuple(classes[number] for number in numbers)
    elif "label" in wanted and label is None:
        remarks.append(f"labels were not looked at: no column {LABEL!r}; name it with --label")
    asked = len(set(subject.owner.tolist()))
    if "caption" in wanted and asked >= LEAST_PAIRS and len(set(subject.seen.captions)) > 1:
        tell("comparing captions", 0, None)
        apart = float(subject.pairing.told_apart.median())
        if apart < FIT:
            texts = f"the model is no judge of these captions: a typical pair beats {apart:.0%} of the wrong ones"
        else:
            scale = float(encoder.logit_scale.detach())
            found += caption_suspects(subject.pairing, subject.points, keys=keys, scale=scale)
    elif "caption" in wanted:
        texts = (
            f"captions were not looked at: {asked} images have one; {LEAST_PAIRS} are needed, and two different ones"
        )
    remarks += [texts] if texts else []
    if "copy" in wanted:
        theirs = () if beside is None else beside.seen.labels or ("",) * len(beside.seen.keys)
        every = (*keys, *(() if beside is None else beside.seen.keys))
        both = (*words, *theirs) if words else ()
        called = "the other part" if beside is None else beside.source_name
        found += copy_suspects(groups, keys=every, labels=both, own=len(keys), against=called)
    if "outlier" in wanted:
        found += outlier_suspects(near, keys=keys, labels=words)
    return found, judged, remarks


def numbered(
    labels: Sequence[str], *, keys: Sequence[str], names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names, and the number of each label.

    Args:
        labels: one word a row.
        keys: of the rows.
        names: all names there may be; labels that are none of them but whole numbers count into them from 0. None takes
            those that occur.
        where: source and column, for errors.

    Raises:
        InputError: a label that is empty, or out of range; its row is named.
    """
    for key, word in zip(keys, labels, strict=True):
        if not word.strip() or word.lower() == "nan":
            raise InputError(f"{where}: row {key!r} has an empty label; expected a class in every row")
    classes = tuple(names) if names is not None else sorted_names(labels)
    place = {name: number for number, name in enumerate(classes)}
    found = []
    for key, word in zip(keys, labels, strict=True):
        number = place.get(word)
        if number is None and word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(classes):
            number = int(word)
        if number is None:
            shown = ", ".join(classes[:5])
            raise InputError(
                f"{where}: row {key!r} has {word!r:.80}; expected one of {len(classes)} classes ({shown}"
                f"{', ...' if len(classes) > 5 else ''}) or a number from 0 to {len(classes) - 1}"
            )
        found.append(number)
    return classes, np.array(found)


def _by_names(encoder: DualEncoder, subject: Subject, classes: Sequence[str]) -> np.ndarray | None:
    """Probabilities by the names of the classes; None where names are numbers, or too many."""
    if all(name.isdigit() for name in classes) or not subject.seen.geometry.unit:
        return None
    weights = F.normalize(class_weights(encoder, classes), dim=1)
    scale = float(encoder.logit_scale.detach())
    logits = scale * (subject.image @ weights.T).double()
    return logits.softmax(dim=1).numpy()


def _thumbnails(sides: Sequence[Subject]) -> Callable[[Sequence[int]], torch.Tensor]:
    """Small images of all sides, those of the second after those of the first."""
    first = len(sides[0].image)

    def small(rows: Sequence[int]) -> torch.Tensor:
        mine = [row for row in rows if row < first]
        theirs = [row - first for row in rows if row >= first]
        found = [side.thumbnails(some) for side, some in zip(sides, (mine, theirs), strict=False) if some]
        together = torch.cat(found)
        place = {row: at for at, row in enumerate([*mine, *(row + first for row in theirs)])}
        return together[[place[row] for row in rows]]

    return small


def _write(
    out: Path,
    suspects: Sequence[Suspect],
    subject: Subject,
    beside: Subject | None,
    source: Source,
    judged: JudgedLabels | None,
    remarks: Sequence[str],
    *,
    label_studio: bool,
    fiftyone: bool,
    raw_csv: bool,
) -> tuple[Path, ...]:
    images = _images(source, {one.key for one in suspects})
    uris = {key: "data:image/jpeg;base64," + base64.b64encode(found).decode() for key, found in images.items()}
    classes = judged.classes if judged is not None else ()
    files = [out / PAGE, out / NUMBERS, out / SUSPECTS]
    with csv_file(
        out / SUSPECTS, ["rank", "kind", "key", "given", "suggested", "score", "reason"], raw_csv=raw_csv
    ) as table:
        ranks = dict.fromkeys(KINDS, 0)
        for one in suspects:
            ranks[one.kind] += 1
            cells = [one.key, one.given, one.suggested, f"{one.score:.6f}", one.reason]
            table.write([ranks[one.kind], one.kind, *cells])
    (out / SCORES).unlink(missing_ok=True)  # of an earlier audit in this folder
    if judged is not None:
        files.append(out / SCORES)
        with csv_file(out / SCORES, ["key", "label", "likeliest", "doubt", "likely_wrong"], raw_csv=raw_csv) as table:
            best = judged.together.argmax(axis=1)
            for row, key in enumerate(subject.seen.keys):
                given, likely = judged.classes[judged.labels[row]], judged.classes[best[row]]
                table.write([key, given, likely, f"{judged.doubt[row]:.6f}", int(judged.wrong[row])])
    told = {
        "source": source.name,
        "version": source.version,
        "model": subject.model_name,
        "digest": subject.digest,
        "against": None if beside is None else beside.source_name,
        "rows": len(subject.seen.keys),
        "bad": subject.bad,
        "classes": list(classes),
        "remarks": list(remarks),
        "suspects": [{name: value for name, value in asdict(one).items() if name != "near"} for one in suspects],
    }
    write_json(out / NUMBERS, told)
    sides = [subject, *([] if beside is None else [beside])]
    write_text(out / PAGE, render(told, suspects, images=uris, thumbnails=_thumbnails(sides)))
    if label_studio:
        files += write_tasks(out / "label-studio", suspects, images=uris, classes=classes)
    if fiftyone and images:
        files.append(
            write_dataset(out / "fiftyone", suspects, images=images, name=f"audit {source.name}", classes=classes)
        )
    return tuple(files)


def _images(source: Source, keys: set[str]) -> dict[str, bytes]:
    """A JPEG of each of these rows."""
    found: dict[str, bytes] = {}
    for block in source.blocks() if keys else ():
        for row in source.read(block):
            if row.key in keys and not row.bad:
                try:
                    image = make_thumbnail(row, side=_SIDE)
                except InputError:  # it was read before; what is shown of it is not worth an end
                    image = None
                if image is not None:
                    found[row.key] = image
    return found
