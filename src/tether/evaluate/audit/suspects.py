"""What is suspect, sorted, each with its reason in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.data.review import Suspect
from tether.evaluate.audit.captions import caption_fit
from tether.evaluate.audit.confident import doubt, likely_wrong, pooled
from tether.evaluate.audit.judges import Neighbours, outlying
from tether.evaluate.inspect.pairing import Pairing

FAR = 5.0
"""Robust standard deviations above the median from which a row is an outlier."""
UNFIT = 0.75
"""A caption is suspect where it beats a smaller share of the wrong captions and images than this."""
_SHOWN = 5
_LETTERS = 90


@dataclass(frozen=True, slots=True)
class JudgedLabels:
    """What speaks for each class of each row.

    Attributes:
        labels: (n,) numbers of the given classes.
        classes: their names.
        probe: (n, c) out-of-fold probabilities.
        near: neighbours.
        zero_shot: (n, c) probabilities by the names of the classes, or None.
        together: (n, c) all of them pooled.
        doubt: (n,) 0 to 1, against each label.
        wrong: (n,) rows whose label is likely wrong.
    """

    labels: Int[np.ndarray, " n"]
    classes: tuple[str, ...]
    probe: Float[np.ndarray, "n c"]
    near: Neighbours
    zero_shot: Float[np.ndarray, "n c"] | None
    together: Float[np.ndarray, "n c"]
    doubt: Float[np.ndarray, " n"]
    wrong: Bool[np.ndarray, " n"]


def judge(
    labels: Int[np.ndarray, " n"],
    *,
    classes: Sequence[str],
    probe: Float[np.ndarray, "n c"],
    near: Neighbours,
    zero_shot: Float[np.ndarray, "n c"] | None = None,
) -> JudgedLabels:
    """Pool what judges say, and find the labels that they speak against."""
    judges = [probe, near.probabilities(labels, classes=len(classes)), *([] if zero_shot is None else [zero_shot])]
    together = pooled(judges, labels)
    return JudgedLabels(
        labels,
        tuple(classes),
        probe,
        near,
        zero_shot,
        together,
        doubt(together, labels),
        likely_wrong(together, labels),
    )


def label_suspects(judged: JudgedLabels, *, keys: Sequence[str]) -> list[Suspect]:
    """Rows whose label is likely wrong, the most doubtful first."""
    rows = np.flatnonzero(judged.wrong)
    rows = rows[np.argsort(-judged.doubt[rows], kind="stable")]
    found = []
    for row in rows.tolist():
        given, better = int(judged.labels[row]), int(judged.together[row].argmax())
        names = judged.classes
        near = judged.near.rows[row]
        reason = f"Labelled {names[given]!r}, but {_of_neighbours(judged, row, better)}"
        says = int(judged.probe[row].argmax())
        sure = f"({judged.probe[row, says]:.0%})"
        reason += f"; a probe that did not learn it says {names[says]!r} {sure}"
        if judged.zero_shot is not None and int(judged.zero_shot[row].argmax()) == better != given:
            reason += ", and of the names of the classes that one fits best, too"
        found.append(
            Suspect(
                "label",
                keys[row],
                names[given],
                names[better] if better != given else "",
                float(judged.doubt[row]),
                f"{reason}.",
                row,
                tuple(near[:_SHOWN].tolist()),
            )
        )
    return found


def _of_neighbours(judged: JudgedLabels, row: int, better: int) -> str:
    """Such as: its 10 nearest images are all 'cat'."""
    classes = [int(judged.labels[other]) for other in judged.near.rows[row]]
    count, given = Counter(classes), int(judged.labels[row])
    most, times = count.most_common(1)[0]
    if times == len(classes):
        return f"its {len(classes)} nearest images are all {judged.classes[most]!r}"
    shown = better if count[better] else most
    own = f"{count[given]}" if count[given] else "none"
    told = f"{count[shown]} of its {len(classes)} nearest images are {judged.classes[shown]!r}"
    return told if shown == given else f"{told} and {own} {judged.classes[given]!r}"


def caption_suspects(
    pairing: Pairing, image: Float[Tensor, "n d"], *, keys: Sequence[str], scale: float
) -> list[Suspect]:
    """Captions that fit their image hardly better than a random one, the least fitting first."""
    fit = caption_fit(pairing, image, scale=scale)
    order = torch.argsort(fit, stable=True)
    places = order[pairing.told_apart[order] < UNFIT].tolist()
    found = []
    for place in places:
        row, group = int(pairing.image[place]), int(pairing.group[place])
        scores = pairing.geometry.similarity(image[row : row + 1], pairing.points)[0]
        best = int(scores.argmax())
        worse, others = 1 - float(pairing.beats_texts[place]), 1 - float(pairing.beats_images[place])
        reason = (
            f"{worse:.0%} of the other captions fit this image better, best {_short(pairing.texts[best])}; "
            f"{others:.0%} of the other images fit this caption better."
        )
        found.append(Suspect("caption", keys[row], pairing.texts[group], "", -float(fit[place]), reason, row))
    return found


def copy_suspects(
    groups: Int[np.ndarray, " n"], *, keys: Sequence[str], labels: Sequence[str], own: int, against: str
) -> list[Suspect]:
    """Rows that look like one of the other side, and of one side those that look alike under several labels.

    Args:
        groups: number of each row's group of images alike, those of the other side last.
        keys: of all rows.
        labels: of all rows, empty where there is none; or none at all.
        own: how many rows are of the source that is audited.
        against: what the other side is called.
    """
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    across, clashes = [], []
    for rows in (some for some in members.values() if len(some) > 1):
        mine, theirs = [row for row in rows if row < own], [row for row in rows if row >= own]
        for row in mine:
            if theirs:
                first = theirs[0]
                reason = f"Looks the same as {keys[first]!r} of {against}{_label(labels, row, first)}."
                across.append(_copy(keys, labels, row, first, score=1.0, reason=reason))
            elif labels and (other := next((one for one in mine if labels[one] != labels[row]), None)) is not None:
                reason = f"Looks the same as {keys[other]!r}{_label(labels, row, other)}."
                clashes.append(_copy(keys, labels, row, other, score=0.5, reason=reason))
    return [*across, *clashes]


def _label(labels: Sequence[str], row: int, other: int) -> str:
    if not labels or not labels[other] or labels[row] == labels[other]:
        return ""
    return f", which is labelled {labels[other]!r} and not {labels[row]!r}"


def _copy(keys: Sequence[str], labels: Sequence[str], row: int, other: int, *, score: float, reason: str) -> Suspect:
    return Suspect("copy", keys[row], labels[row] if labels else "", keys[other], score, reason, row, (other,))


def outlier_suspects(near: Neighbours, *, keys: Sequence[str], labels: Sequence[str]) -> list[Suspect]:
    """Rows that lie far from all others, the farthest first."""
    far = outlying(near.distance)
    typical = float(np.median(near.cosine.mean(axis=1)))
    found = []
    for row in np.argsort(-far, kind="stable"):
        if far[row] < FAR:
            break
        reason = (
            f"Unlike all others: its {near.rows.shape[1]} nearest images have a mean cosine of "
            f"{near.cosine[row].mean():.2f}, where {typical:.2f} is usual."
        )
        given = labels[row] if labels else ""
        near_rows = tuple(near.rows[row][:_SHOWN].tolist())
        found.append(Suspect("outlier", keys[row], given, "", float(far[row]), reason, int(row), near_rows))
    return found


def _short(text: str) -> str:
    return repr(text if len(text) <= _LETTERS else f"{text[: _LETTERS - 3]}...")
