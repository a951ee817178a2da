"""Heads on social norms, on the papers' own files: TF-IDF, MiniLM and the text side of a CLIP beside chance.

    python benchmarks/norms_real.py [--normbank NormBank.csv] [--stream NormVio/] [--normdial NormDial_clean_dataset/]
        [--conflicts dataset/] [--egonormia ood_robot.json] [--answers ood_robot_eval.json] [--activities id2high.json]
        [--clip starter] [--most 1200] [--json OUT]

A set whose path is not given is skipped, and said to be. Nothing is downloaded and nothing of the files is kept. Each
set is cut into three parts by group (five for clauses); each is asked of a linear SVM on the other two, and macro F1 is
that of all answers together, with 95 % intervals over whole groups. Chance says the commonest label everywhere. TF-IDF
reads all rows and, for a like comparison, the ``--most`` rows that the slower encoders read, whole groups in the order
of a hash. ``--clip`` is any model of ``tether.load`` whose text side is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tether
from tether.core.hash_rng import hash_int
from tether.data.sets.norms import (
    NormTable,
    chat_table,
    leave_one_out,
    load_egonormia,
    load_norm_conflicts,
    load_normbank,
    load_normdial,
    load_stream_norms,
    turn_table,
)
from tether.data.sets.norms.egonormia import correct_options
from tether.evaluate.norms import choice_scores, evaluate_egonormia, evaluate_groups
from tether.methods.norm_conflicts import clause_features
from tether.methods.normbank import NormPrompts
from tether.tasks.norms import (
    EmbeddingChooser,
    ModelTexts,
    NormClassifier,
    NormEncoder,
    NormThinker,
    SentenceTexts,
    TfidfEncoder,
    norm_encoder,
)
from tether.tasks.norms.pair_features import Combine

PARTS = 3


@dataclass(frozen=True)
class Arm:
    """What is read of a row, and how."""

    fields: tuple[str, ...]
    combine: Combine = "pair"
    numbers: bool = False

    @property
    def name(self) -> str:
        """As the lines have it."""
        return " + ".join(self.fields) + (" + numbers" if self.numbers else "")


def main() -> None:
    """Read what is given, and print a line for each set, encoder and choice of fields."""
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("normbank", "stream", "normdial", "conflicts", "egonormia", "answers", "activities"):
        ask.add_argument(f"--{name}", type=Path)
    ask.add_argument("--clip", default="starter")
    ask.add_argument("--most", type=int, default=1200)
    ask.add_argument("--json", type=Path)
    given = ask.parse_args()
    clip = ModelTexts(tether.load(given.clip), name=f"text side of {given.clip}")
    told = Told([SentenceTexts(), clip], given.most)
    for name, read in (
        ("conflicts", told.conflicts), ("stream", told.stream), ("normdial", told.normdial),
        ("normbank", told.normbank), ("egonormia", lambda path: told.egonormia(path, given.answers, given.activities)),
    ):  # fmt: skip
        path = getattr(given, name)
        if path is None:
            print(f"{name}: skipped, as no path was given (--{name})", flush=True)
        else:
            read(path)
    if given.json is not None:
        given.json.write_text(json.dumps(told.rows, indent=1) + "\n")


class Told:
    """Figures as they come."""

    def __init__(self, slow: Sequence[NormEncoder], most: int) -> None:
        """Hold the encoders that read part of the rows."""
        self.slow, self.most = slow, most
        self.rows: list[dict[str, object]] = []

    def line(self, data: str, encoder: str, arm: str, **said: object) -> None:
        """One figure."""
        self.rows.append({"data": data, "encoder": encoder, "read": arm, **said})
        figures = ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}" for key, value in said.items()
        )
        print(f"{data} | {encoder} | {arm} | {figures}", flush=True)

    def table(
        self, name: str, table: NormTable, arms: Sequence[Arm], *, words: str = "tfidf", parts: int = PARTS
    ) -> None:
        """Each encoder on each choice of fields."""
        known = table.judged_only()
        count = [known.labels.count(label) for label in known.classes]
        rare = {label for label, n in zip(known.classes, count, strict=True) if 0 < n < 30}
        known = known.taken([row for row, label in enumerate(known.labels) if label not in rare])
        print(
            f"{name}: {len(known):,} rows of {len(set(known.groups)):,} groups; "
            f"labels below 30 rows left out: {len(rare)}"
        )
        some = _some(known, self.most)
        every = [(some, [norm_encoder(words), *self.slow])]
        for rows, encoders in every if len(some) == len(known) else [(known, [norm_encoder(words)]), *every]:
            for encoder in encoders:
                for arm in arms:
                    said, shown = [""] * len(rows), f"{encoder.name}, LinearSVC"
                    for train, test in _parts(rows, parts):
                        head = NormClassifier(encoder, fields=arm.fields, combine=arm.combine, numbers=arm.numbers)
                        found = head.fit(rows.taken(train)).predict(rows.taken(test))
                        for at, label in zip(test, found, strict=True):
                            said[at] = label
                    self.scored(name, shown, arm.name, rows, said)

    def scored(self, name: str, encoder: str, arm: str, rows: NormTable, said: Sequence[str]) -> None:
        """Macro F1 of all answers together."""
        found = evaluate_groups(rows.labels, said=said, classes=rows.classes, groups=rows.groups)
        f1 = found.macro_f1
        self.line(
            name, encoder, arm, macro_f1=f1.value, low=float(f1.low), high=float(f1.high), chance=f1.chance,
            accuracy=found.accuracy.value, accuracy_chance=found.accuracy.chance, rows=found.n, groups=found.groups,
        )  # fmt: skip

    def conflicts(self, path: Path) -> None:
        """Kinds of conflict, contracts held out."""
        table = load_norm_conflicts(path)
        kinds = table.taken([row for row, label in enumerate(table.labels) if label not in ("", "none")])
        arms = [Arm(("first", "second"), how) for how in ("offset", "concat", "pair")]
        for arm in arms:
            self.table(f"clauses, {arm.combine}", kinds, [arm], parts=5)
        from sklearn.svm import LinearSVC

        rows, said = clause_features(kinds.fields["first"], kinds.fields["second"]), [""] * len(kinds)
        for train, test in _parts(kinds, 5):
            svm = LinearSVC(random_state=0, class_weight="balanced").fit(rows[train], np.array(kinds.labels)[train])
            for at, label in zip(test, svm.predict(rows[test]), strict=True):
                said[at] = str(label)
        self.scored("clauses", "17 plain features, LinearSVC", "first + second", kinds, said)

    def stream(self, path: Path) -> None:
        """Which norm a removed message broke, channels held out."""
        table = chat_table(load_stream_norms(path))
        fields = [("message",), ("message", "user_context")]
        arms = [Arm(one, "concat") for one in fields] + [Arm(fields[1], "concat", numbers=True)]
        self.table("live chat, step 3", table, arms)

    def normdial(self, path: Path) -> None:
        """Which turn keeps or breaks a norm, dialogues held out, and one category at a time."""
        for language, words in (("American", "tfidf"), ("Chinese", "tfidf-letters")):
            table = turn_table(load_normdial(path, language=language, unknown="skip"), window=1)
            arms = [Arm(("turn",)), Arm(("turn", "history")), Arm(("norm", "history", "turn"))]
            self.table(f"NormDial, {language}", table, arms[: 3 if language == "American" else 2], words=words)
            order, said = [], []
            for name, train, test in leave_one_out(table):
                head = NormClassifier(words, fields=("turn", "history")).fit(train)
                said += head.predict(test)
                order += [row for row, value in enumerate(table.facets["category"]) if value == name]
            rows, shown = table.taken(order), f"{words}, LinearSVC"
            self.scored(f"NormDial, {language}, new category", shown, "turn + history", rows, said)

    def normbank(self, path: Path) -> None:
        """Expected, normal or taboo, settings with behaviours held out."""
        table = load_normbank(path)
        self.table("NormBank", table, [Arm(("behaviour",)), Arm(("behaviour", "constraints"))])
        some = _some(table.judged_only(), self.most)
        for encoder in self.slow:
            said = NormPrompts(encoder, fields=("behaviour", "constraints")).fit(some).predict(some)
            self.scored("NormBank", f"{encoder.name}, This is ...", "behaviour + constraints", some, said)

    def egonormia(self, path: Path, answers: Path | None, activities: Path | None) -> None:
        """Each scene by choosers that have learnt from all others."""
        items = load_egonormia(path)
        for encoder in (TfidfEncoder(), *self.slow):
            for name, chooser in (
                ("blind", EmbeddingChooser(encoder, context="blind")),
                ("scene", EmbeddingChooser(encoder)),
                ("scene and answers of scenes alike", NormThinker(encoder)),
            ):
                each = [chooser.fit([one for one in items if one is not item]).answer([item]) for item in items]
                found = choice_scores(
                    np.concatenate([one.best for one in each]), correct=correct_options(items),
                    sensible=[one.sensible[0] for one in each], sensible_correct=[item.sensibles for item in items],
                    options=[len(item.behaviors) for item in items],
                )  # fmt: skip
                low, high = found.intervals[2]
                self.line(
                    "EgoNormia", encoder.name, name, action=found.fraction("action"), both=found.fraction("both"),
                    low=low, high=high, chance=found.chance[2], sensible=found.fraction("sensible"), items=found.n,
                )  # fmt: skip
        if answers is not None:
            told = None if activities is None else json.loads(activities.read_text())
            for model, scores in evaluate_egonormia(
                json.loads(answers.read_text()), items=items, activities=told
            ).items():
                low, high = scores.intervals[2]
                self.line(
                    "EgoNormia, answers of the release", model, "-", action=scores.fraction("action"),
                    both=scores.fraction("both"), low=low, high=high, chance=scores.chance[2], items=scores.n,
                )  # fmt: skip


def _some(table: NormTable, most: int) -> NormTable:
    """Whole groups in the order of a hash, until there are as many rows; a group is cut where it alone is too large."""
    order = sorted(range(len(table)), key=lambda row: (hash_int(table.groups[row], salt="norms-real"), row))
    return table.taken(sorted(order[:most]))


def _parts(table: NormTable, parts: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import GroupKFold

    return list(GroupKFold(parts).split(np.zeros(len(table)), groups=table.groups))


if __name__ == "__main__":
    main()
