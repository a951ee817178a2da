"""Norm conflicts: do two clauses contradict each other, and of what kind is it, from the rows of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tether_lab.lab.card import Card, Claim, Condition, Trial

if TYPE_CHECKING:
    import numpy as np

    from tether_lab.lab.lab import Lab

PAIRS, FOLDS, DIRECTIONS = 400, 5, 100

CARD = Card.of(
    "norm-conflicts",
    claim=Claim(
        says="For the kind of a conflict the rows of both clauses side by side are better than their "
        "difference, by 0.05 "
        "of macro F1, on actions that were not learnt from.",
        metric=f"macro F1 over four kinds of conflict, {FOLDS} folds by action",
        margin=0.05,
        baseline="the difference of both rows, with the same linear SVM",
        scale=f"{PAIRS} pairs of clauses of a grammar of ours, half of them conflicts; TF-IDF brought down to "
        f"{DIRECTIONS} directions",
        equal="pairs, folds, encoder and SVM; neither side has a setting that was tried out",
        conditions=(
            Condition(
                says="For conflict or not, the difference is 0.05 of F above saying conflict always.",
                ours="binary_offset",
                than="binary_always",
                least=0.05,
            ),
            Condition(
                says="There it is 0.05 above the mean of both rows, which does not see the order.",
                ours="binary_offset",
                than="binary_mean",
                least=0.05,
            ),
            Condition(
                says="Side by side stays 0.05 better for the kind when half of the pairs are swapped at random.",
                ours="concat_swapped",
                than="offset_swapped",
                least=0.05,
            ),
        ),
    ),
    differences=(
        "TF-IDF and, in the figures beside, MiniLM stand in for sent2vec of 600 dimensions, which was not at hand; the "
        "paper's numbers are not comparable.",
        "Means over folds are reported; the release picks the best fold and tests that one.",
        "Folds keep an action, or a contract, on one side; the release's do not.",
        "Both files of the grammar have the changed clause second. In the release only conflicts have, so that "
        "order and "
        "style tell them from two clauses of a contract.",
        "The release's reader for a network merges two kinds of conflict by mistake, which is not copied.",
    ),
    tried={
        "Seeds 10 and 11 with a first grammar, whose kinds had words of their own.": (
            "Side by side 0.92, difference 0.74, mean 0.89 for the kind: the words gave it away, so "
            "both clauses "
            "got conditions and other words more often."
        ),
        "Seeds 10 and 11 with the grammar that is used.": (
            "For the kind 0.74 side by side, 0.64 for the difference, 0.53 for the mean, 0.81 for [a, "
            "b, ab, |a - b|] and "
            "1.00 for the features; for conflict or not 0.73, 0.69, 0.68, 0.78 and 0.94. With MiniLM 0.55 each "
            "for the kind."
        ),
        "The release's 228 conflicts, contracts held out, at once and once.": (
            "0.31 side by side and 0.28 for the difference, 0.77 for the features; with pairs swapped "
            "0.22 and 0.27. "
            "With MiniLM 0.40 and 0.28."
        ),
    },
    minutes=1.5,
)


def reproduce(lab: Lab) -> Trial:
    """Write pairs, hold actions out, and compare what the rows of two clauses are made into."""
    import numpy as np
    from sklearn.svm import LinearSVC

    from tether.data.sets.norms import load_norm_conflicts
    from tether.data.sets.norms.made_conflicts import made_conflicts
    from tether.evaluate.norms import evaluate_pairs
    from tether.methods.norm_conflicts import CentroidConflict, ConflictClassifier, clause_features
    from tether.tasks.norms import SentenceTexts, TfidfEncoder
    from tether_lab.worlds.norm_sets import clip_texts, starter_texts, written

    table = written(lambda path: made_conflicts(path, pairs=lab.steps(PAIRS, 120), seed=lab.seed), load_norm_conflicts)
    kinds, sides = table.codes, tuple(np.array(table.fields[name]) for name in ("first", "second"))
    turned = np.random.default_rng(lab.seed).random(len(kinds)) < 0.5
    swapped = np.where(turned, sides[1], sides[0]), np.where(turned, sides[0], sides[1])

    def score(part: Any, *, binary: bool, clauses: tuple[np.ndarray, ...] = sides, encoder: Any = None) -> float:
        labels = (kinds > 0).astype(np.int64) if binary else kinds
        chosen = np.arange(len(kinds)) if binary else np.flatnonzero(kinds > 0)
        said = np.empty(len(kinds), dtype=np.int64)
        for train, test in folds(chosen, np.array(table.groups)[chosen]):
            if part == "always":
                said[test] = np.bincount(labels[train]).argmax() if not binary else 1
                continue
            if encoder is None and part == "features":
                rows = clause_features(clauses[0].tolist(), clauses[1].tolist())
                said[test] = LinearSVC(random_state=0).fit(rows[train], labels[train]).predict(rows[test])
                continue
            made = encoder or TfidfEncoder(components=lab.steps(DIRECTIONS, 20)).fit(
                [*clauses[0][train], *clauses[1][train]]
            )
            known, asked = (
                np.stack([made.encode(side[at].tolist()) for side in clauses], axis=1)  # pyrefly: ignore
                for at in (train, test)
            )
            said[test] = part.fit(known, labels[train]).predict(asked)
        return float(evaluate_pairs(labels[chosen], said[chosen])[3])

    svm = {how: ConflictClassifier(mode=how) for how in ("offset", "concat", "mean", "pair")}
    texts = {"minilm": SentenceTexts(), "clip": clip_texts(lab), "starter": starter_texts()}
    return Trial(
        baseline=score(svm["offset"], binary=False),
        ours=score(svm["concat"], binary=False),
        notes={
            "mean": score(svm["mean"], binary=False),
            "pair": score(svm["pair"], binary=False),
            "features": score("features", binary=False),
            "concat_swapped": score(svm["concat"], binary=False, clauses=swapped),
            "offset_swapped": score(svm["offset"], binary=False, clauses=swapped),
            **{f"concat_{name}": score(svm["concat"], binary=False, encoder=one) for name, one in texts.items()},
            **{f"offset_{name}": score(svm["offset"], binary=False, encoder=one) for name, one in texts.items()},
            "kind_commonest": score("always", binary=False),
            "binary_always": score("always", binary=True),
            **{f"binary_{how}": score(svm[how], binary=True) for how in svm},
            "binary_features": score("features", binary=True),
            "binary_centroid_offset": score(CentroidConflict(), binary=True),
            **{f"binary_offset_{name}": score(svm["offset"], binary=True, encoder=one) for name, one in texts.items()},
        },
    )


def folds(rows: np.ndarray, groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Row numbers to learn from and to ask, no group on both sides."""
    from sklearn.model_selection import GroupKFold

    return [(rows[train], rows[test]) for train, test in GroupKFold(FOLDS).split(rows, groups=groups)]
