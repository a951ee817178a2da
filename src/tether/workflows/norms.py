"""``tether norms``: a head on a set of social norms, trained and measured, or a file judged by one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from tether.core.atomic_io import csv_file, read_json, write_json, write_text
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.model_digest import file_digest, texts_digest
from tether.core.ranges import Inner, Whole, checked
from tether.data.sets.norms import (
    NormTable,
    chat_table,
    check_apart,
    check_disjoint,
    group_test_rows,
    load_egonormia,
    load_norm_conflicts,
    load_normbank,
    load_normdial,
    load_stream_norms,
    turn_table,
)
from tether.data.sets.norms.egonormia import JUDGED, correct_options
from tether.data.sets.norms.made_conflicts import made_conflicts
from tether.data.sets.norms.made_egonormia import made_egonormia
from tether.data.sets.norms.made_normbank import made_normbank
from tether.data.sets.norms.made_normdial import made_normdial
from tether.data.sets.norms.made_stream import made_stream
from tether.evaluate.norms import NormReport, NormScores, choice_scores, evaluate_groups, flip_accuracy, kind_table
from tether.tasks.norms import (
    EmbeddingChooser,
    ModelTexts,
    NormClassifier,
    NormEncoder,
    NormThinker,
    TfidfEncoder,
    norm_encoder,
)
from tether.tasks.norms.classifier import Head
from tether.tasks.norms.encoders import LETTERS, MINILM, TFIDF
from tether.workflows.models import Model, opened

Task = Literal["normbank", "stream-norms", "normdial", "norm-conflicts", "egonormia"]
MADE = "made"
HEAD, REPORT, PAGE, JUDGEMENTS, LEARNT = "head.safetensors", "report.json", "report.md", "judged.csv", "learnt.json"
FIELDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "normbank": (("behaviour",), ("behaviour", "constraints")),
    "stream-norms": (("message",), ("message", "user_context")),
    "normdial": (("turn",), ("turn", "history")),
    "norm-conflicts": (("second",), ("first", "second")),
}
"""What each task reads without and with its context."""
OURS = "sentences of ours by a grammar: they try the head, and say nothing of anybody's norms"
_MADE: Mapping[str, Callable[[Path, int], Path]] = {
    "normbank": lambda path, seed: made_normbank(path, rows=1200, seed=seed),
    "stream-norms": lambda path, seed: made_stream(path, chats=300, seed=seed),
    "normdial": lambda path, seed: made_normdial(path, seed=seed),
    "norm-conflicts": lambda path, seed: made_conflicts(path, seed=seed),
    "egonormia": lambda path, seed: made_egonormia(path, items=240, seed=seed),
}


@dataclass(frozen=True, repr=False)
class NormRun:
    """What ``norms`` did.

    Attributes:
        report: figures and who judged; None where a file without labels was judged.
        rows: numbers of the rows that were judged.
        said: the label of each.
        margins: how far each label lay above the next best score; no probability.
        files: that were written.
        remarks: what to beware of.
    """

    report: NormReport | None
    rows: tuple[int, ...]
    said: tuple[str, ...]
    margins: tuple[float, ...]
    files: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        """The figures, or how many rows were judged."""
        lines = self.report.lines() if self.report is not None else []
        return "\n".join(lines) or f"NormRun({len(self.rows):,} rows judged)"

    def _repr_markdown_(self) -> str:
        return self.report.markdown() if self.report is not None else repr(self)


@checked
def norms(
    task: Task,
    file: str | Path,
    *,
    out: str | Path | None = None,
    encoder: Model | NormEncoder | None = None,
    head: Head = "svm",
    trained: str | Path | None = None,
    fields: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    judged_by: str | None = None,
    test: Inner = 0.25,
    skip_unknown: bool = False,
    seed: Whole = 0,
    random_weights: bool = False,
    device: str = "auto",
    raw_csv: bool = False,
) -> NormRun:
    """Train a head on a set of norms and measure it on groups held out, or judge a file by a head trained before.

    Figures have chance and an interval over groups beside them, and stand beside those of the same head without the
    context that the set is about. A split that the file names is kept. EgoNormia has no head: choosers answer it, and
    the held-in items are what they find alike.

    Args:
        task: which format the file has.
        file: the file or folder; ``made`` for sentences of ours, to try it.
        out: folder for the head, report.md, report.json and judged.csv; None writes nothing.
        encoder: ``tfidf``, ``tfidf-letters`` (for chat, and languages without spaces), ``minilm``, or a model; None is
            ``tfidf``, or with ``trained`` the TF-IDF or ``minilm`` of that head. A head on a model asks for the model.
        head: ``svm``, ``logistic`` or ``mlp``.
        trained: folder of an earlier run, whose head judges the file; nothing is learnt then, so that ``head``,
            ``test`` and ``seed`` do nothing and ``fields`` is refused.
        fields: names of the fields to read; None takes the task's own.
        columns: what NormBank's file calls its columns, by their own names: ``{"behavior": "what"}``.
        judged_by: who gave the file's labels, for the report; None says that the file does not say, and who judged in
            the set as published. Refused with ``made``.
        test: share of the groups that are held out where the file names no split.
        skip_unknown: leave out NormDial's turns with a label that is none, instead of an error.
        seed: of the split and the head.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        raw_csv: write texts that a spreadsheet would run as formulas as they are.

    Raises:
        InputError: a file that is not of the format, with its row numbers; one class only; a group on both sides; or a
            head of another task or encoder.

    Example:
        >>> import tether
        >>> run = tether.norms("normbank", "made")
        >>> full = run.report.arms["behaviour, constraints"]
        >>> full.macro_f1.value > full.macro_f1.chance
        True
    """
    if columns and (task != "normbank" or str(file) == MADE):
        raise InputError("--columns: only a file of normbank has columns that may be called otherwise; leave it out")
    if judged_by is not None and str(file) == MADE:
        raise InputError("--judged-by: sentences of ours have their labels by a grammar; leave it out")
    if judged_by is not None and not judged_by.strip():
        raise InputError(f"--judged-by: expected who judged, got {judged_by!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(file)
        if str(file) == MADE:
            path = _MADE[task](Path(folder) / "made", seed)
        where = None if out is None else Path(out)
        if task == "egonormia":
            if trained is not None or fields is not None:
                raise InputError("egonormia: choosers answer it without a head; leave --trained and --fields out")
            with_words = _encoder(encoder, random_weights=random_weights, device=device)
            return _chosen(path, file, encoder=with_words, test=test, seed=seed, judged_by=judged_by, out=where)
        table = open_norms(task, path, skip_unknown=skip_unknown, labelled=trained is None, columns=columns)
        who = _judges(file, judged_by, published=table.judged)
        table = replace(table, name=MADE if str(file) == MADE else table.name, judged=who)
        digest = _digest(path)
        if trained is not None:
            if fields is not None:
                raise InputError("--fields: a trained head reads the fields that it has learnt from; leave it out")
            mine = None if encoder is None else _encoder(encoder, random_weights=random_weights, device=device)
            return _judged(
                task, table, Path(trained), str(file), digest, encoder=mine, out=where, raw_csv=raw_csv
            )  # fmt: skip
        encoding = _encoder(encoder, random_weights=random_weights, device=device)
        return _trained(
            task, table, str(file), digest, encoder=encoding, head=head, fields=fields, test=test, seed=seed,
            out=where, raw_csv=raw_csv,
        )  # fmt: skip


def open_norms(
    task: str, path: str | Path, *, skip_unknown: bool = False, labelled: bool = True,
    columns: Mapping[str, str] | None = None,
) -> NormTable:  # fmt: skip
    """A file of one of the four sets with labels as a table; its own split is seen to keep groups on one side.

    Without ``labelled`` NormBank's column of labels may be missing; ``columns`` are for NormBank alone, see ``norms``.
    """
    if task == "normbank":
        table = load_normbank(path, labelled=labelled, columns=columns)
    elif task == "stream-norms":
        table = chat_table(load_stream_norms(path), name=str(path))
    elif task == "normdial":
        table = turn_table(load_normdial(path, unknown="skip" if skip_unknown else "refuse"), name=str(path))
    else:
        table = load_norm_conflicts(path)
    check_disjoint(table)
    return table


def ablate_context(
    train: NormTable,
    test: NormTable,
    *,
    arms: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] = FIELDS["stream-norms"],
    encoder: Model | NormEncoder | None = None,
    head: Head = "svm",
    numbers: bool = False,
    seed: Whole = 0,
) -> dict[str, NormScores]:
    """Figures on ``test`` of one head for each choice of fields, learnt from ``train``.

    Args:
        train: rows to learn from.
        test: rows of other groups.
        arms: names of the fields of each arm, by name or as they stand.
        encoder: see ``norms``.
        head: which.
        numbers: whether every arm reads the table's numbers, too.
        seed: of the head.

    Raises:
        InputError: a group on both sides, or a field that the tables have not.
    """
    check_apart(train, test)
    named = arms if isinstance(arms, Mapping) else {", ".join(fields): fields for fields in arms}
    encoding = _encoder(encoder, random_weights=False, device="auto")
    common, known = max(train.classes, key=train.labels.count), test.judged_only()
    found = {}
    for name, fields in named.items():
        classifier = NormClassifier(encoding, fields=fields, head=head, numbers=numbers, seed=seed).fit(train)
        found[name] = evaluate_groups(
            known.labels, said=classifier.predict(known), classes=known.classes, groups=known.groups,
            facets=known.facets, common=common,
        )  # fmt: skip
    return found


def _trained(
    task: str, table: NormTable, file: str, digest: str, *, encoder: NormEncoder, head: Head,
    fields: Sequence[str] | None, test: float, seed: int, out: Path | None, raw_csv: bool,
) -> NormRun:  # fmt: skip
    known = table.judged_only()
    if len(set(known.labels)) < 2:
        raise InputError(
            f"{table.name}: all {len(known)} rows have the label {known.labels[0]!r}; expected two at least"
        )
    if known.split is not None and {"train", "test"} <= set(known.split):
        held, how = np.array([int(side == "test") for side in known.split]), "the file's"
    else:
        held, how = group_test_rows(known, share=test, seed=seed), f"{test:.0%} of the groups held out"
    train, asked = known.taken(np.flatnonzero(held == 0)), known.taken(np.flatnonzero(held))
    check_apart(train, asked)
    base, full = FIELDS[task]
    full = full if fields is None else known.named(fields)
    arms = {", ".join(names): names for names in (*((base,) if base != full else ()), full)}
    found: dict[str, NormScores] = {}
    flips: dict[str, tuple[float, int]] = {}
    common = max(known.classes, key=train.labels.count)
    classifier = NormClassifier(encoder, fields=full, head=head, seed=seed)
    for name, names in arms.items():
        numbers = bool(known.numbers) and names == full and fields is None
        classifier = NormClassifier(encoder, fields=names, head=head, numbers=numbers, seed=seed).fit(train)
        said = classifier.predict(asked)
        name = f"{name}, numbers" if numbers else name
        found[name] = evaluate_groups(
            asked.labels, said=said, classes=asked.classes, groups=asked.groups, facets=asked.facets, common=common
        )
        if task == "normbank":
            flips[name] = flip_accuracy(asked.labels, said=said, groups=asked.groups)
    said, margins = _said(classifier, asked)
    report = NormReport(
        task=task, file=(file, digest), judged=table.judged, encoder=(encoder.name, encoder.digest),
        settings={"head": head, "fields": ", ".join(full), "split": how, "seed": seed},
        learnt=(len(train), len(set(train.groups))), arms=found, flips=flips, remarks=table.remarks,
    )  # fmt: skip
    files: tuple[Path, ...] = ()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        classifier.save(out / HEAD)
        write_json(
            out / LEARNT,
            {"task": task, "common": common, "head": file_digest(out / HEAD),
             "groups": sorted({_mark(group) for group in train.groups})},
        )  # fmt: skip
        files = (out / HEAD, out / LEARNT, *_written(out, report, asked, said, margins, raw_csv=raw_csv))
    return NormRun(report, asked.rows, said, margins, files, tuple(table.remarks))


def _judged(
    task: str, table: NormTable, folder: Path, file: str, digest: str, *, encoder: NormEncoder | None,
    out: Path | None, raw_csv: bool,
) -> NormRun:  # fmt: skip
    learnt = read_json(folder / LEARNT)
    if not isinstance(learnt, dict) or learnt.get("task") != task:
        got = learnt.get("task") if isinstance(learnt, dict) else learnt
        raise InputError(f"{folder / LEARNT}: expected a head on {task}, got one on {got!r:.80}")
    groups = learnt.get("groups")
    if not isinstance(groups, list) or not all(isinstance(one, str) for one in groups):
        raise InputError(f"{folder / LEARNT}: groups: expected a list of texts, got {groups!r:.80}")
    classifier = NormClassifier.load(folder / HEAD, encoder=_same_name(encoder))
    if learnt.get("head") != file_digest(folder / HEAD):
        raise InputError(f"{folder / LEARNT}: was written with another {HEAD} than lies beside it; train again")
    said, margins = _said(classifier, table)
    marks = set(groups)
    new = [row for row in range(len(table)) if table.labels[row] and _mark(table.groups[row]) not in marks]
    labelled = sum(map(bool, table.labels))
    remarks = list(table.remarks)
    if labelled and (old := labelled - len(new)):
        remarks.append(
            f"{old:,} of {labelled:,} labelled rows are of groups that were learnt from; no figure counts them"
        )
    report = None
    if new:
        asked = table.taken(new)
        scores = evaluate_groups(
            asked.labels, said=[said[row] for row in new], classes=asked.classes, groups=asked.groups,
            facets=asked.facets, common=str(learnt.get("common")),
        )  # fmt: skip
        report = NormReport(
            task=task, file=(file, digest), judged=table.judged,
            encoder=(classifier.encoder.name, classifier.encoder.digest),
            settings={"head": f"of {folder}"}, learnt=(0, len(marks)),
            arms={", ".join(classifier.settings["fields"]): scores}, remarks=remarks,
        )  # fmt: skip
    files = () if out is None else _written(out, report, table, said, margins, raw_csv=raw_csv)
    return NormRun(report, table.rows, said, margins, files, tuple(remarks))


def _chosen(
    path: Path, file: str | Path, *, encoder: NormEncoder, test: float, seed: int, judged_by: str | None,
    out: Path | None,
) -> NormRun:  # fmt: skip
    items = load_egonormia(path)
    order = sorted(items, key=lambda item: hash_int(item.id, seed=seed, salt="norms"))
    count = round(test * len(order))
    asked, known = order[:count], order[count:]
    if not asked or not known:
        raise InputError(f"{path}: expected items to ask and others to learn from, got {len(items)} in all")
    found, last = {}, None
    choosers = {
        "blind": EmbeddingChooser(encoder, context="blind"),
        "scene": EmbeddingChooser(encoder),
        "scene and answers of scenes alike": NormThinker(encoder),
    }
    for name, chooser in choosers.items():
        last = chooser.fit(known).answer(asked)
        found[name] = choice_scores(
            last.best, correct=correct_options(asked), sensible=list(last.sensible),
            sensible_correct=[item.sensibles for item in asked], options=[len(item.behaviors) for item in asked],
        )  # fmt: skip
    assert last is not None
    report = NormReport(
        task="egonormia", file=(str(file), _digest(path)), judged=_judges(file, judged_by, published=JUDGED),
        encoder=(encoder.name, encoder.digest), settings={"held out": f"{test:.0%} of the items", "seed": seed},
        learnt=(len(known), len(known)), choices=found, kinds=kind_table(asked, last.best),
        remarks=("tables published for EgoNormia may be of an evaluator that maps positions wrongly: do not compare",),
    )  # fmt: skip
    files: tuple[Path, ...] = ()
    if out is not None:
        files = _reported(out, report)
        with csv_file(out / JUDGEMENTS, ["id", "action", "justification", "sensible", "correct"]) as rows:
            for item, (action, reason), sensible in zip(asked, last.best.tolist(), last.sensible, strict=True):
                rows.write([item.id, action, reason, " ".join(map(str, sorted(sensible or ()))), item.correct])
        files = (*files, out / JUDGEMENTS)
    picked = tuple(item.behaviors[int(action)] for item, (action, _) in zip(asked, last.best, strict=True))
    places = {item.id: number for number, item in enumerate(items, start=1)}
    rows_ = tuple(places[item.id] for item in asked)
    return NormRun(report, rows_, picked, (float("nan"),) * len(picked), files)


def _said(classifier: NormClassifier, table: NormTable) -> tuple[tuple[str, ...], tuple[float, ...]]:
    scores = classifier.scores(table)
    ordered = np.sort(scores, axis=1)
    labels = tuple(classifier.classes_[place] for place in scores.argmax(axis=1))
    return labels, tuple((ordered[:, -1] - ordered[:, -2]).tolist())


def _written(
    out: Path,
    report: NormReport | None,
    table: NormTable,
    said: Sequence[str],
    margins: Sequence[float],
    *,
    raw_csv: bool,
) -> tuple[Path, ...]:
    out.mkdir(parents=True, exist_ok=True)
    with csv_file(out / JUDGEMENTS, ["row", "id", "judged", "margin", "label"], raw_csv=raw_csv) as rows:
        ids = table.ids or ("",) * len(table)
        for row, name, label, margin, true in zip(table.rows, ids, said, margins, table.labels, strict=True):
            rows.write([row, name, label, f"{margin:.4f}", true])
    return (out / JUDGEMENTS, *(() if report is None else _reported(out, report)))


def _reported(out: Path, report: NormReport) -> tuple[Path, ...]:
    write_json(out / REPORT, report.as_json())
    write_text(out / PAGE, report.markdown())
    return out / REPORT, out / PAGE


def _same_name(encoder: NormEncoder | None) -> str | NormEncoder | None:
    """TF-IDF by its name, as what it has learnt lies in the head's file."""
    return encoder.name if isinstance(encoder, TfidfEncoder) else encoder


def _encoder(encoder: Any, *, random_weights: bool, device: str) -> NormEncoder:
    if encoder is None:
        return TfidfEncoder()
    if isinstance(encoder, (str, Path)) and str(encoder) not in (TFIDF, LETTERS, MINILM):
        try:
            model, name = opened(encoder, device=device, random_weights=random_weights)
        except InputError as error:
            raise type(error)(f"--encoder: {error}; without a model: {TFIDF}, {LETTERS} or {MINILM}") from None
        return ModelTexts(model, name=name)
    return norm_encoder(cast(Any, str(encoder) if isinstance(encoder, Path) else encoder))


def _judges(file: str | Path, said: str | None, *, published: str) -> str:
    """Who judged, as far as it is known: a file in a set's format need not be that set."""
    if str(file) == MADE:
        return OURS
    if said is not None:
        return " ".join(said.split())
    return f"the file does not say (--judged-by does); in the set as published: {published}"


def _mark(group: str) -> str:
    return f"{hash_int(group, salt='norm-groups'):016x}"


def _digest(path: Path) -> str:
    """Of a file, or of names and contents of the files below a folder."""
    if path.is_file():
        return file_digest(path)
    files = sorted(one for one in path.rglob("*") if one.is_file() and one.suffix in (".csv", ".json", ".jsonl"))
    return texts_digest(f"{one.relative_to(path)} {file_digest(one)}" for one in files)
