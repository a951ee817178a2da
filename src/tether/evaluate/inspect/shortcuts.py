"""Planted bias: does an attribute decide what the model calls an image, although the class is another?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Bars, Figure, Finding, Gallery, Item
from tether.core.ranges import Inner, checked
from tether.data.words import words_of
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import bar_of, difference, exact, mean, share, shown, surely_above
from tether.evaluate.inspect.shortcut_scores import Pull, aligned, cramers_v, pull, strength
from tether.evaluate.inspect.vocabulary import ATTRIBUTES, heads, kind_of, replaced, spans
from tether.evaluate.zero_shot import logits
from tether.tasks.classify.zero_shot import class_weights

LEAST_ROWS = 60
LEAST_CLASS, MOST_CLASSES = 8, 40
LEAST_TOGETHER = 8
MOST_VALUES = 20
ALARM = 0.2
"""Fraction of the rows that an attribute must pull to its class, for an alarm."""
STRENGTH = 0.5
"""How strongly the attribute alone must call for its class, as a fraction of what a true caption adds to the cosine.

Models that learnt a full bias reach 0.9 and more, those that had one example in twenty to learn better from about 0.5,
barely trained or overtrained clean ones at most 0.43.
"""
STRANGE = 0.15
"""Fraction of that which true captions must lose where the attribute contradicts the class; clean models lose none."""
KNOWN = 1.5
"""Classes are known where they are told right this many times as often as by chance."""
SURE = 0.75
"""Mean fraction of wrong answers that pairs with attribute and class together must beat; below it nothing is learnt."""
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


@checked
@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """For every attribute it can find, how often the attribute pulls an image to a class that it is not.

    Classes are the labels, where rows have them, and the nouns that a colour word stands before. Attributes are every
    column with a few values and, for the nouns, the colour words. For each value of an attribute the class it favours
    is found on one half of the rows, and the pull is measured on the other half, against rows without that value: how
    much more often is an image of another class taken for the favoured one?

    A model that hardly knows the classes is pulled too, by whatever it does know. So an alarm asks for one thing more:
    that the attribute alone calls for its class strongly, and either that true captions fit worse where it contradicts
    the class, as they do in a model that only ever saw both together, or that the classes are known all the same.

    Args:
        alarm: pull that makes an alarm.
    """

    title = "Planted bias: attributes that decide the class"
    presupposes_skill = True
    alarm: Inner = ALARM

    def __call__(self, subject: Subject) -> Finding:
        """An alarm names the attribute and the classes it pulls to."""
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
            together = cramers_v(question.truth, question.attribute)
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
            pulls = surely_above(figure, self.alarm)
            bias, more = _biased(subject, question, pulled, right) if pulls else (False, [])
            figures += more
            strong = pulls and bias
            if pulls and not strong:
                weak[f"the {question.of}"] = None
            bars.append(bar_of(question.name, figure, strong=strong))
            if strong:
                alarms.append((question, figure, pulled))
                items += _examples(subject, question, pulled)
        figures += _favourites(subject)
        if alarms:
            question, figure, pulled = max(alarms, key=lambda one: one[1].value)
            ties = ", ".join(f"{value} → {question.classes[number]}" for value, number in pulled.favours[:4])
            sentence = (
                f"The {question.name} decides what an image is called: {shown(figure)} of the images are taken for "
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
            which = " and ".join(weak)
            sentence = (
                f"The model hardly knows {which} here: attributes pull at them, with no sign of a bias behind it."
            )
            level = "note"
        else:
            most = max((bar.value for bar in bars), default=0.0)
            sentence = f"No attribute found decides what an image is called (largest pull {100 * most:.1f} %)."
            level = "good"
        drawings: list[Bars | Gallery] = [Bars("Pull of each attribute (no bias: 0)", tuple(bars))] if bars else []
        if items:
            drawings.append(Gallery("Images that the attribute turned", tuple(items[:_SHOWN])))
        return Finding(
            sentence,
            level,
            tuple(figures),
            tuple(drawings),
            "Only attributes that stand in a caption or a column can be found; what nobody wrote down stays unseen. "
            "Nothing here asks for, or guesses, attributes of people.",
            "tether-lab reproduce fairerclip; tether-lab reproduce saner; balance the attribute, then train",
        )


def _biased(subject: Subject, question: _Question, pulled: Pull, right: Tensor) -> tuple[bool, list[Figure]]:
    """Whether the pull comes from a bias that was learnt, and the figures that tell."""
    places = torch.tensor([subject.first_caption[row] for row in question.rows])
    rows = torch.tensor(question.rows)
    together = torch.from_numpy(aligned(question.truth, question.attribute, favours=pulled.favours)) & (places >= 0)
    apart = ~together & (places >= 0)
    if together.sum() < LEAST_TOGETHER or apart.sum() < LEAST_TOGETHER:
        return False, []
    beats = torch.zeros(len(subject.image), dtype=torch.float64)
    beats[subject.pairing.image] = subject.pairing.told_apart
    cosine = (subject.image[rows] * subject.text[places]).sum(dim=1)
    adds = cosine - subject.image.mean(dim=0) @ subject.text.mean(dim=0)
    usual = float(adds[together].mean())
    if usual <= 0 or float(beats[rows[together]].mean()) < SURE:
        return False, []
    strange = difference(
        f"{question.name}: what true captions lose where it contradicts the class",
        adds[together] / usual,
        adds[apart] / usual,
    )
    firm = strength(question.scores, question.truth, question.attribute, favours=pulled.favours) / usual
    figures = [strange, exact(f"{question.name}: strength of the pull (share of what a true caption adds)", firm)]
    known = surely_above(share("", right), KNOWN / len(question.classes))
    return firm > STRENGTH and (known or surely_above(strange, STRANGE)), figures


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
        if cramers_v(truth, here) < 1:
            questions.append(_Question(f"column {name} (over nouns)", "nouns", rows, nouns, truth, here, scores))
    return questions


def _without_colour(caption: str) -> str:
    changes = [(one, "") for one in _colours(caption)]
    return " ".join(replaced(caption, changes).split())


def _by_labels(subject: Subject) -> list[_Question]:
    """Labels against columns; against colour words the nouns are asked."""
    classes = subject.seen.classes
    if not 2 <= len(classes) <= MOST_CLASSES or len(subject.image) < LEAST_ROWS:
        return []
    truth = subject.seen.label_numbers.numpy()
    weights = F.normalize(class_weights(subject.model, classes, batch_size=subject.batch_size), dim=1)
    scores = logits(subject.image, weights=weights, scale=1.0).double().numpy()
    everything = tuple(range(len(truth)))
    questions = []
    for name, values in _usable_columns(subject).items():
        if cramers_v(truth, values) < 1:
            questions.append(_Question(f"column {name}", "labels", everything, classes, truth, values, scores))
    return questions


def _usable_columns(subject: Subject) -> dict[str, tuple[str, ...]]:
    return {
        name: values
        for name, values in subject.columns.items()
        if 2 <= len(set(values)) <= MOST_VALUES and values != subject.seen.labels
    }


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
            f"{question.classes[question.truth[at]]}, called {question.classes[question.predicted[at]]}",
            f"{question.name}: {question.attribute[at]}",
        )
        for at in turned[:_SHOWN]
    ]
