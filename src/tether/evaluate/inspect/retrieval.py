"""What the model finds on these pairs, and what it takes for what."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.core.finding import Bars, Figure, Finding, Gallery, Item
from tether.core.geometry import COSINE
from tether.core.ranges import checked
from tether.evaluate.groups import wilson
from tether.evaluate.inspect.above_chance import LEAST_PAIRS, recalls
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import bar_of, share, shown, surely_above
from tether.evaluate.inspect.pairing import Pairing
from tether.evaluate.retrieval import Depths
from tether.evaluate.zero_shot import logits, zero_shot
from tether.tasks.classify.zero_shot import class_weights

AT_CHANCE = 0.55
"""Mean fraction of wrong answers beaten, below which a model tells pairs no better than chance does."""
_SHOWN = 8


@checked
@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Recall both ways with equal captions counted as one answer, zero-shot where rows have a class.

    Args:
        k: the depths.
    """

    title = "Retrieval and zero-shot on these pairs"
    k: Depths = (1, 5, 10)

    def __call__(self, subject: Subject) -> Finding:
        """An alarm when pairs are not separated, or a recall is not clearly above chance."""
        subject.need_pairs(2)
        pairing = subject.pairing
        apart = subject.told_apart
        found = recalls(pairing, images=len(subject.image), k=self.k)
        bars = [bar_of(f"{one.way}, R@{one.depth}", one.figure, strong=not one.clear) for one in found]
        zero = _zero_shot(subject)
        figures = [apart, *(one.figure for one in found), *zero.figures]
        few = len(pairing.image_ranks) < LEAST_PAIRS
        lost = apart.value < AT_CHANCE and not few
        unclear = [] if few else [one for one in subject.recalls if not one.clear]
        first, second = found[0], found[len(self.k)]
        pool = f"among {len(subject.image):,} images and {len(pairing.texts):,} different captions"
        if few:
            sentence = (
                f"With {len(pairing.image)} pairs nothing can be said about retrieval that another few could not turn."
            )
        elif lost:
            sentence = f"The model cannot tell which caption belongs to which image: {shown(apart)} right, chance 50 %."
        elif unclear:
            sentence = f"The model is not clearly better than chance {pool}: {', '.join(map(str, unclear))}{zero.said}."
        else:
            place = "first" if first.depth == 1 else f"among the first {first.depth}"
            sentence = (
                f"A caption finds its image {place} in {shown(first.figure)} of the cases "
                f"(chance {first.chance:.1%}), an image its caption in {shown(second.figure)} ({second.chance:.1%}), "
                f"{pool}{zero.said}."
            )
        level = "unknown" if few else "alarm" if lost or unclear else "note" if zero.unclear else "good"
        return Finding(
            sentence,
            level,
            tuple(figures),
            (Bars("Recall; marked: not clearly above chance", tuple(bars)), *_galleries(subject, pairing)),
            "A recall depends on how many pairs there are and how alike; compare models on the same pairs only. "
            "Equal captions count as one answer here, while tether eval counts each tie against the model. "
            "The intervals tell what other rows could change, not what another training would.",
            subject.eval_command,
        )


@dataclass(frozen=True, slots=True)
class _ZeroShot:
    """Figures, what is said of them, and whether they are not clearly above chance."""

    figures: tuple[Figure, ...] = ()
    said: str = ""
    unclear: bool = False


def _zero_shot(subject: Subject) -> _ZeroShot:
    """Zero-shot by class, with a word on why it is missing when it is."""
    classes = subject.seen.classes
    if not classes:
        return _ZeroShot()
    if len(classes) < 2:
        return _ZeroShot(said=f"; all rows are of the one class {classes[0]!r}, so there is nothing to classify")
    labels = subject.seen.label_numbers
    weights = class_weights(subject.model, classes, batch_size=subject.batch_size)
    scores = logits(subject.points.float(), weights=weights, geometry=subject.seen.geometry)
    found = zero_shot(scores, labels=labels)
    top = share(f"zero-shot, top-1 (chance {100 / len(classes):.1f} %)", found.ranks <= 1)
    figures = [
        top,
        Figure("zero-shot, mean over classes", found.mean_per_class, unit="share"),
    ]
    _, name = min(
        (
            wilson(int(((found.predicted == labels) & (labels == number)).sum()), n=int((labels == number).sum())).high,
            name,
        )
        for number, name in enumerate(classes)
    )
    at = classes.index(name)
    figures.append(share(f"zero-shot, worst class ({name})", (found.predicted == at)[labels == at]))
    unclear = not surely_above(top, 1 / len(classes))
    said = f"; zero-shot over {len(classes)} classes is right in {shown(top)}"
    return _ZeroShot(tuple(figures), f"{said}, not clearly above chance" if unclear else said, unclear)


def _galleries(subject: Subject, pairing: Pairing) -> tuple[Gallery, ...]:
    """The surest pairs, and those in which a wrong caption was preferred most."""
    shown_pairs = []
    measure = "cosine" if pairing.geometry == COSINE else f"similarity ({pairing.geometry.name})"
    order = torch.argsort(pairing.similarity, descending=True, stable=True)
    best = [
        Item(int(pairing.image[at]), pairing.texts[int(pairing.group[at])], f"{pairing.similarity[at]:.2f}")
        for at in order[:_SHOWN]
    ]
    shown_pairs.append(Gallery(f"Surest pairs, with their {measure}", tuple(best)))
    misses = _misses(subject.points, pairing)
    if misses:
        shown_pairs.append(Gallery("Images for which another caption was preferred most", tuple(misses)))
    return tuple(shown_pairs)


def _misses(points: Tensor, pairing: Pairing) -> list[Item]:
    worst = torch.argsort(pairing.beats_texts, stable=True)[: 4 * _SHOWN]
    items = []
    for at in worst.tolist():
        row, group = int(pairing.image[at]), int(pairing.group[at])
        scores = pairing.geometry.similarity(points[row : row + 1], pairing.points)[0]
        place = int(scores.argmax())
        own = pairing.group[pairing.image == row].tolist()
        if place not in own and len(items) < _SHOWN:
            items.append(
                Item(
                    row,
                    pairing.texts[group],
                    f"taken for “{pairing.texts[place]}” ({scores[place]:.2f} over {scores[group]:.2f})",
                )
            )
    return items
