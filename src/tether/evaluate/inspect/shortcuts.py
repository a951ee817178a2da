"""Planted bias: does an attribute decide what the model calls a picture, although the class is another?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.draw import hash_uniform
from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Figure, Finding, Gallery, Item
from tether.evaluate.inspect.figures import exact, mean, share, shown
from tether.evaluate.inspect.subject import Subject
from tether.evaluate.inspect.vocabulary import ATTRIBUTES, heads, kind_of, replaced, spans, words_of
from tether.evaluate.suite import class_rows
from tether.evaluate.zero_shot import logits

LEAST_ROWS = 60
LEAST_CLASS, MOST_CLASSES = 8, 40
MOST_VALUES = 20
ALARM = 0.2
"""Share of the rows that an attribute must pull to its class, for an alarm."""
STRENGTH = 0.3
"""Least strength of such a pull, as a share of what a true caption adds to the cosine.

A model that hardly knows a class is pulled by anything, but weakly.
"""
FIT = 0.65
"""Mean share of wrong answers that a pair must beat, for a choice of class to mean anything."""
TOGETHER = 0.8
"""Cramér's V of class and attribute above which the pairs themselves are the shortcut."""
_FRAMES = 40
_WORDS_ASKED = 300
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class _Question:
    """What is called what: a class and an attribute for each of some rows."""

    name: str
    of: str
    rows: tuple[int, ...]
    classes: tuple[str, ...]
    truth: np.ndarray
    attribute: tuple[str, ...]
    scores: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """(n,) the class that scores best."""
        return self.scores.argmax(axis=1)


class Shortcuts:
    """For every attribute it can find, how often the attribute pulls a picture to a class that it is not.

    Classes are the labels, where rows have them, and the nouns that a colour word stands before. Attributes are the
    colour words and every column with a few values. For each value of an attribute the class it favours is found on one
    half of the rows, and the pull is measured on the other half, against rows without that value: how much more often
    is a picture of another class taken for the favoured one? Without a shortcut that is zero, however weak the model.

    Args:
        alarm: pull that makes an alarm, in (0, 1).
        strength: least strength of such a pull, as a share of what a true caption adds to the cosine, in (0, 1).
    """

    title = "Planted bias: attributes that decide the class"

    def __init__(self, *, alarm: float = ALARM, strength: float = STRENGTH) -> None:
        """Take the limits."""
        for name, value in (("alarm", alarm), ("strength", strength)):
            if not 0 < value < 1:
                raise InputError(f"{name}: expected a share in (0, 1), got {value}")
        self.alarm, self.strength = alarm, strength

    def __call__(self, subject: Subject) -> Finding:
        """An alarm names the attribute and the classes it pulls to.

        Raises:
            InputError: no classes and attributes to compare, or a model that tells no pairs apart.
        """
        apart = float(subject.pairing.told_apart.mean())
        if apart < FIT:
            raise InputError(
                f"the model tells these pairs apart in {apart:.0%} (chance 50%), so its choices mean nothing yet"
            )
        usual = float(subject.pairing.cosine.mean() - subject.image.mean(dim=0) @ subject.text.mean(dim=0))
        questions = [*_by_nouns(subject), *_by_labels(subject)]
        if not questions:
            raise InputError(
                f"found no classes with an attribute to compare: neither {LEAST_ROWS} rows with labels and a column of "
                "few values, nor captions with a colour word before a noun"
            )
        figures: list[Figure] = []
        bars, alarms, bound = [], [], []
        weak: dict[str, None] = {}  # in order, each once
        items: list[Item] = []
        for question in questions:
            right = torch.from_numpy(question.predicted == question.truth)
            figures.append(
                share(f"{question.name}: classes told right (chance {1 / len(question.classes):.0%})", right)
            )
            together = _cramer(question.truth, question.attribute)
            figures.append(exact(f"{question.name}: how much both go together in these pairs (Cramér's V)", together))
            pulled = pull(
                question.predicted,
                question.truth,
                question.attribute,
                keys=[subject.seen.keys[row] for row in question.rows],
            )
            if together > TOGETHER:
                bound.append(question.name)
            if pulled is None:
                continue
            figure = mean(
                f"{question.name}: pulled to the class that the attribute favours", pulled.values, unit="share"
            )
            figures.append(figure)
            firm = strength(question.scores, question.truth, question.attribute, favours=pulled.favours) / usual
            figures.append(exact(f"{question.name}: strength of the pull (share of what a true caption adds)", firm))
            pulls = (figure.low or 0) > self.alarm
            strong = pulls and firm > self.strength
            if pulls and not strong:
                weak[f"the {question.of}"] = None
            bars.append(Bar(question.name, figure.value, figure.low, figure.high, strong))
            if strong:
                alarms.append((question, figure, pulled))
                items += _examples(subject, question, pulled)
        figures += _favourites(subject)
        if alarms:
            question, figure, pulled = max(alarms, key=lambda one: one[1].value)
            ties = ", ".join(f"{value} → {question.classes[number]}" for value, number in pulled.favours[:4])
            sentence = (
                f"The {question.name} decides what a picture is called: {shown(figure)} of the pictures are taken for "
                f"the class that goes with it ({ties})."
            )
            level = "alarm"
        elif bound:
            sentence = (
                f"In these pairs the class and its {' and '.join(bound)} go together nearly always, so it cannot be "
                "told which of them the model looks at."
            )
            level = "note"
        elif weak:
            sentence = f"The model hardly knows {' and '.join(weak)} here, so attributes pull at them, but weakly."
            level = "note"
        else:
            most = max((bar.value for bar in bars), default=0.0)
            sentence = f"No attribute found decides what a picture is called (largest pull {100 * most:.1f} %)."
            level = "good"
        drawings: list[Bars | Gallery] = [Bars("Pull of each attribute (no bias: 0)", tuple(bars))] if bars else []
        if items:
            drawings.append(Gallery("Pictures that the attribute turned", tuple(items[:_SHOWN])))
        return Finding(
            sentence,
            level,
            tuple(figures),
            tuple(drawings),
            "Only attributes that stand in a caption or a column can be found; what nobody wrote down stays unseen. "
            "Nothing here asks for, or guesses, attributes of people.",
            "tether reproduce fairerclip; tether reproduce saner; balance the attribute, then train",
        )


@dataclass(frozen=True, slots=True)
class Pull:
    """For each row asked its pull (1 when it was turned, less the base rate), which rows, and the favoured classes."""

    values: Tensor
    asked: np.ndarray
    favours: tuple[tuple[str, int], ...]


def pull(predicted: np.ndarray, truth: np.ndarray, attribute: Sequence[str], *, keys: Sequence[str]) -> Pull | None:
    """How much more often rows with a value are taken for the class the value favours, of rows of other classes.

    Args:
        predicted: (n,) class each row is taken for.
        truth: (n,) class it is of.
        attribute: (n,) value of its attribute.
        keys: (n,) names that decide which half a row is in.

    Returns:
        the pull of each row that a favoured class was found for, or None when there is none.
    """
    values = np.array(attribute)
    half = hash_uniform(keys, salt="shortcuts") < 0.5
    found, asked, favours = [], [], Counter()
    for fitted in (half, ~half):
        for value in dict.fromkeys(attribute):
            favoured = _favoured(predicted, truth, values == value, fitted)
            if favoured is None:
                continue
            judged = ~fitted & (truth != favoured)
            here, elsewhere = judged & (values == value), judged & (values != value)
            if here.sum() < 2 or elsewhere.sum() < 2:
                continue
            base = float((predicted[elsewhere] == favoured).mean())
            found.append((predicted[here] == favoured) - base)
            asked.append(np.flatnonzero(here))
            favours[(value, int(favoured))] += int((predicted[here] == favoured).sum())
    if not found:
        return None
    return Pull(
        torch.from_numpy(np.concatenate(found)), np.concatenate(asked), tuple(pair for pair, _ in favours.most_common())
    )


def strength(
    scores: np.ndarray, truth: np.ndarray, attribute: Sequence[str], *, favours: Sequence[tuple[str, int]]
) -> float:
    """How much higher the favoured class scores where the value is, of rows of other classes; a mean of cosines.

    Args:
        scores: (n, c) cosines with the classes.
        truth: (n,) class of each row.
        attribute: (n,) value of its attribute.
        favours: values with the class that each favours.
    """
    centred, values = scores - scores.mean(axis=1, keepdims=True), np.array(attribute)
    found = []
    for value, favoured in favours:
        here, elsewhere = (values == value) & (truth != favoured), (values != value) & (truth != favoured)
        if here.any() and elsewhere.any():
            found.append(centred[here, favoured].mean() - centred[elsewhere, favoured].mean())
    return float(np.mean(found)) if found else 0.0


def _favoured(predicted: np.ndarray, truth: np.ndarray, has: np.ndarray, used: np.ndarray) -> int | None:
    """The class that rows with the value are wrongly taken for most beyond the others."""
    best, where = -np.inf, None
    for number in np.unique(predicted[used & has]):
        here, elsewhere = used & has & (truth != number), used & ~has & (truth != number)
        if here.sum() < 2 or elsewhere.sum() < 2:
            continue
        gain = (predicted[here] == number).mean() - (predicted[elsewhere] == number).mean()
        if gain > best:
            best, where = gain, int(number)
    return where


def _by_nouns(subject: Subject) -> list[_Question]:
    """Nouns after a colour word; the classes' texts are captions with the colour taken out."""
    captions = subject.seen.captions
    found = heads(captions, kind="colour")
    single = [
        place
        for place, head in enumerate(found)
        if head is not None and sum(kind_of(word) == "colour" for word in words_of(captions[place])) == 1
    ]
    every = [place for place, head in enumerate(found) if head is not None]
    places = single if len(single) >= LEAST_ROWS else every
    counts = Counter(found[place][1] for place in places)  # pyrefly: ignore - None is left out above
    nouns = tuple(sorted(noun for noun, _ in counts.most_common(MOST_CLASSES) if counts[noun] >= LEAST_CLASS))
    places = [place for place in places if found[place][1] in nouns]  # pyrefly: ignore
    if len(nouns) < 2 or len(places) < LEAST_ROWS:
        return []
    frames: dict[str, list[str]] = {noun: [] for noun in nouns}
    for place in places:
        noun = found[place][1]  # pyrefly: ignore
        if len(frames[noun]) < _FRAMES:
            frames[noun].append(_without_colour(captions[place]))
    weights = torch.stack([F.normalize(subject.encode_texts(frames[noun]).mean(dim=0), dim=0) for noun in nouns])
    rows = tuple(subject.owner[places].tolist())
    scores = (subject.image[list(rows)] @ weights.T).double().numpy()
    truth = np.array([nouns.index(found[place][1]) for place in places])  # pyrefly: ignore
    colours = tuple(found[place][0] for place in places)  # pyrefly: ignore
    questions = [_Question("colour word", "nouns", rows, nouns, truth, colours, scores)]
    for name, values in _usable_columns(subject).items():
        here = tuple(values[row] for row in rows)
        if _cramer(truth, here) < 1:
            questions.append(_Question(f"column {name} (over nouns)", "nouns", rows, nouns, truth, here, scores))
    return questions


def _without_colour(caption: str) -> str:
    changes = [(one, "") for one in spans(caption) if one[2] in ATTRIBUTES["colour"]]
    return " ".join(replaced(caption, changes).split())


def _by_labels(subject: Subject) -> list[_Question]:
    """Labels against colour words and columns."""
    classes = subject.seen.classes
    if not 2 <= len(classes) <= MOST_CLASSES or len(subject.image) < LEAST_ROWS:
        return []
    truth = np.array([classes.index(name) for name in subject.seen.labels])
    weights = class_rows(subject.model, classes, templates=None, batch_size=subject.batch_size)
    scores = logits(subject.image, weights=weights, scale=1.0).double().numpy()
    everything = tuple(range(len(truth)))
    questions = []
    for name, values in _usable_columns(subject).items():
        if _cramer(truth, values) < 1:
            questions.append(_Question(f"column {name}", "labels", everything, classes, truth, values, scores))
    return questions


def _usable_columns(subject: Subject) -> dict[str, tuple[str, ...]]:
    return {
        name: values
        for name, values in subject.columns.items()
        if 2 <= len(set(values)) <= MOST_VALUES and values != subject.seen.labels
    }


def _cramer(truth: np.ndarray, attribute: Sequence[str]) -> float:
    """Cramér's V, 0 for independent and 1 for bound."""
    _, rows = np.unique(truth, return_inverse=True)
    _, columns = np.unique(np.array(attribute), return_inverse=True)
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    least = min(table.shape) - 1
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / least)) if least else 0.0


def _favourites(subject: Subject) -> list[Figure]:
    """Colour words: how often the right one is chosen among all of the captions', everything else unchanged."""
    found = [(place, one) for place, caption in enumerate(subject.seen.captions) if len(one := _colours(caption)) == 1]
    counts = Counter(one[0][2] for _, one in found)
    words = sorted(word for word in counts if counts[word] >= LEAST_CLASS)
    found = [(place, one[0]) for place, one in found if one[0][2] in words][:_WORDS_ASKED]
    if len(words) < 2 or len(found) < LEAST_ROWS:
        return []
    texts = [replaced(subject.seen.captions[place], [(one, word)]) for place, one in found for word in words]
    scores = subject.encode_texts(texts).view(len(found), len(words), -1)
    image = subject.image[subject.owner[[place for place, _ in found]]]
    chosen = torch.einsum("nwd,nd->nw", scores, image).argmax(dim=1)
    truth = torch.tensor([words.index(one[2]) for _, one in found])
    wrong = [((chosen == number)[truth != number].double().mean().item(), word) for number, word in enumerate(words)]
    most, favourite = max(wrong)
    return [
        share(f"colour word told right among {len(words)} (chance {1 / len(words):.0%})", chosen == truth),
        exact(f"most often said wrongly: “{favourite}”", most, unit="share"),
    ]


def _colours(caption: str) -> list[tuple[int, int, str]]:
    return [one for one in spans(caption) if one[2] in ATTRIBUTES["colour"]]


def _examples(subject: Subject, question: _Question, pulled: Pull) -> list[Item]:
    turned = [at for at in pulled.asked.tolist() if question.predicted[at] != question.truth[at]]
    return [
        Item(
            question.rows[at],
            f"a {question.classes[question.truth[at]]}, called {question.classes[question.predicted[at]]}",
            f"{question.name}: {question.attribute[at]}",
        )
        for at in turned[:_SHOWN]
    ]
