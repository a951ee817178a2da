"""Few images a class: the same draws for every method, on the classes learnt and on classes never shown."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean, median, stdev
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from annotated_types import MinLen
from jaxtyping import Int
from scipy.stats import t as student_t

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.core.runtime_protocol import ByAttributes
from tether.data.labelled import LabelledRows, draw_parts

SHOTS = (1, 2, 4, 8, 16)
LEVEL = 0.95
"""Of the intervals over draws."""
Numbers = Int[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class Draw:
    """The few images of one draw.

    Attributes:
        seed: of the draw.
        shots: images a class.
        classes: numbers of the classes that are learnt, in order.
        train: places among the training rows of the images to learn from.
        validation: the same of images to choose settings on: as many a class as there are shots, at most four.
    """

    seed: int
    shots: int
    classes: tuple[int, ...]
    train: tuple[int, ...]
    validation: tuple[int, ...]


@runtime_checkable
class FewShotAnswer(Protocol, metaclass=ByAttributes):
    """What a method has learnt from a draw."""

    def __call__(self, rows: Numbers, classes: tuple[int, ...]) -> Numbers | None:
        """The class of each test row, one of the numbers ``classes``; None where it does not know these classes."""
        ...


Method = Callable[[Draw], FewShotAnswer | None]
"""Learns from a draw; None where it cannot learn from so few."""


@dataclass(frozen=True, slots=True)
class FewShotFigure:
    """How one method did on one draw.

    Attributes:
        method: its name.
        shots: images a class.
        seed: of the draw.
        accuracy: share right of test images of the classes learnt, among these; None where it could not learn.
        unseen: the same of the other classes, among those; None where there are none or it does not know them.
        seconds: of processor time to learn.
        asking: of processor time for all answers.
    """

    method: str
    shots: int
    seed: int
    accuracy: float | None
    unseen: float | None
    seconds: float
    asking: float

    @property
    def harmonic(self) -> float | None:
        """Harmonic mean of both accuracies, as base-to-new tables have it."""
        if self.accuracy is None or self.unseen is None:
            return None
        return harmonic_mean(self.accuracy, self.unseen)


@dataclass(frozen=True, slots=True)
class OverDraws:
    """A mean over draws with Student's 95 % interval; of one draw there is none."""

    value: float
    low: float | None
    high: float | None
    draws: int

    @classmethod
    def of(cls, values: Sequence[float]) -> OverDraws:
        """Of at least one number."""
        centre, count = mean(values), len(values)
        if count == 1:
            return cls(centre, None, None, 1)
        half = float(student_t.ppf((1 + LEVEL) / 2, count - 1)) * stdev(values) / count**0.5
        return cls(centre, centre - half, centre + half, count)


@dataclass(frozen=True, slots=True)
class FewShotRow:
    """One method with so many shots, over all draws.

    Attributes:
        method: its name.
        shots: images a class.
        accuracy: on the classes learnt.
        unseen: on the others.
        harmonic: mean of both.
        seconds: of processor time to learn, the median.
        asking: the same for all answers.
    """

    method: str
    shots: int
    accuracy: OverDraws | None
    unseen: OverDraws | None
    harmonic: OverDraws | None
    seconds: float
    asking: float


@dataclass(frozen=True, slots=True)
class FewShotTable:
    """All methods on all draws.

    Attributes:
        figures: one for each method and draw.
    """

    figures: tuple[FewShotFigure, ...]

    def rows(self) -> list[FewShotRow]:
        """Method by method in the order they were given, shots ascending."""
        found = []
        for method in dict.fromkeys(one.method for one in self.figures):
            for shots in sorted({one.shots for one in self.figures}):
                mine = [one for one in self.figures if (one.method, one.shots) == (method, shots)]
                parts = {name: _over(mine, name) for name in ("accuracy", "unseen", "harmonic")}
                seconds, asking = (median(getattr(one, name) for one in mine) for name in ("seconds", "asking"))
                found.append(FewShotRow(method, shots, **parts, seconds=seconds, asking=asking))
        return found

    def difference(self, first: str, second: str, *, shots: int, of: str = "accuracy") -> OverDraws:
        """Mean of the first method less the second over the draws that both learnt from, pair by pair.

        Args:
            first: a method.
            second: another.
            shots: images a class.
            of: ``accuracy``, ``unseen`` or ``harmonic``.

        Raises:
            InputError: no draw has both figures.
        """
        sides = [
            {one.seed: getattr(one, of) for one in self.figures if (one.method, one.shots) == (name, shots)}
            for name in (first, second)
        ]
        pairs = [(sides[0][seed], sides[1][seed]) for seed in sides[0] if seed in sides[1]]
        values = [one - other for one, other in pairs if one is not None and other is not None]
        if not values:
            raise InputError(f"{first}, {second}: no draw of {shots} shots has {of} of both")
        return OverDraws.of(values)

    def lines(self) -> list[str]:
        """The table as text: accuracies in per cent."""
        wide = max(len(one.method) for one in self.figures)
        return [
            f"{'method':<{wide}}{'shots':>6}{'learnt':>16}{'unseen':>16}{'harmonic':>16}{'CPU s':>10}{'asking':>9}",
            *(
                f"{row.method:<{wide}}{row.shots:>6}{_per_cent(row.accuracy):>16}{_per_cent(row.unseen):>16}"
                f"{_per_cent(row.harmonic):>16}{row.seconds:>10.3f}{row.asking:>9.3f}"
                for row in self.rows()
            ),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return {"figures": [asdict(one) for one in self.figures], "rows": [asdict(row) for row in self.rows()]}


@checked
def few_shot(
    methods: Mapping[str, Method],
    *,
    train: LabelledRows,
    test: LabelledRows,
    unseen: Collection[str] = (),
    shots: Annotated[Sequence[Count], MinLen(1)] = SHOTS,
    draws: Count = 5,
    on_figure: Callable[[FewShotFigure], None] | None = None,
) -> FewShotTable:
    """Let each method learn from the same few images and answer the same questions.

    Draw d of all methods, and of all sets of classes, takes the same images of a class: which depends on their bytes
    and d alone (``data.labelled.draw_parts``). Test images of the classes learnt are classified among these, those of
    the unseen classes among the unseen ones, as in base-to-new tables (arXiv 2203.05557, section 4.1). The order of the
    methods turns from draw to draw, so that a machine that slows down favours none.

    Args:
        methods: by name.
        train: images to draw from.
        test: images to ask about; its classes are those of ``train``, in the same order.
        unseen: names of classes of which no image is shown; the others are learnt.
        shots: images a class.
        draws: how many, seeds 0 to n - 1.
        on_figure: told each figure.

    Raises:
        InputError: no method, other classes in ``test``, fewer than two classes learnt or unseen, a class without test
            images or with fewer images than shots and validation need, or an answer that is none of the classes.

    Example:
        >>> import numpy as np
        >>> from tether.data import open_source
        >>> from tether.data.labelled import read_labels
        >>> from tether.evaluate.few_shot import few_shot
        >>> rows = read_labels(open_source("digits", where="example"))
        >>> def first_of_all(draw):  # names every image after the first class there is
        ...     return lambda test_rows, classes: np.full(len(test_rows), classes[0])
        >>> table = few_shot({"first": first_of_all}, train=rows, test=rows, unseen=["8", "9"], shots=[1, 2], draws=2)
        >>> [(row.shots, round(row.accuracy.value, 2), round(row.unseen.value, 2)) for row in table.rows()]
        [(1, 0.12, 0.47), (2, 0.12, 0.47)]
    """
    if not methods:
        raise InputError("methods: expected at least one")
    if train.classes != test.classes:
        raise InputError(f"test: expected the classes {list(train.classes)!r:.200}, got {list(test.classes)!r:.200}")
    strange = [name for name in unseen if name not in train.classes]
    if strange:
        raise InputError(f"unseen: {strange[0]!r} is none of the {len(train.classes)} classes")
    learnt = tuple(number for number, name in enumerate(train.classes) if name not in unseen)
    others = tuple(number for number, name in enumerate(train.classes) if name in unseen)
    if len(learnt) < 2 or len(others) == 1:
        raise InputError(f"unseen: expected at least two classes on either side, got {len(learnt)} and {len(others)}")
    labels = np.array(test.labels)
    for number, name in enumerate(test.classes):
        if number not in labels:
            raise InputError(f"test: class {name!r} has no image")
    found, names = list[FewShotFigure](), list(methods)
    for turn, (seed, count) in enumerate(itertools.product(range(draws), shots)):
        draw = draw_of(train, classes=learnt, shots=count, seed=seed)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            figure = _figure(name, methods[name], draw, labels=labels, others=others)
            found.append(figure)
            if on_figure is not None:
                on_figure(figure)
    order = {name: place for place, name in enumerate(names)}
    return FewShotTable(tuple(sorted(found, key=lambda one: (order[one.method], one.shots, one.seed))))


def draw_of(train: LabelledRows, *, classes: tuple[int, ...], shots: int, seed: int) -> Draw:
    """Draw images of some classes.

    Args:
        train: rows to draw from.
        classes: numbers of the classes.
        shots: images of each.
        seed: of the draw.

    Raises:
        InputError: a class with fewer images than that needs.
    """
    places = [place for place, label in enumerate(train.labels) if label in set(classes)]
    some = rows_at(train, places, classes=classes)
    parts = draw_parts(some, shots=shots, validation=True, test_share=None, seed=seed)
    back = [tuple(places[row] for row in part) for part in (parts.train, parts.validation)]
    return Draw(seed, shots, classes, *back)


def rows_at(rows: LabelledRows, places: Sequence[int], *, classes: Sequence[int] | None = None) -> LabelledRows:
    """Some rows, which all have one of some classes; the classes are numbered anew in the order given."""
    numbers = range(len(rows.classes)) if classes is None else classes
    new = {number: place for place, number in enumerate(numbers)}
    return replace(
        rows,
        classes=tuple(rows.classes[number] for number in numbers),
        places=tuple(rows.places[place] for place in places),
        labels=tuple(new[rows.labels[place]] for place in places),
        digests=tuple(rows.digests[place] for place in places),
    )


def _figure(name: str, method: Method, draw: Draw, *, labels: Numbers, others: tuple[int, ...]) -> FewShotFigure:
    begun = time.process_time()
    answer = method(draw)
    learning = time.process_time() - begun
    begun = time.process_time()
    learnt, unseen = (_score(name, answer, classes, labels=labels) for classes in (draw.classes, others))
    return FewShotFigure(name, draw.shots, draw.seed, learnt, unseen, learning, time.process_time() - begun)


def _score(name: str, answer: FewShotAnswer | None, classes: tuple[int, ...], *, labels: Numbers) -> float | None:
    if answer is None or not classes:
        return None
    rows = np.flatnonzero(np.isin(labels, classes))
    said = answer(rows, classes)
    if said is None:
        return None
    if said.shape != rows.shape or not np.isin(said, classes).all():
        raise InputError(f"{name}: expected one of the classes {classes} for each of {len(rows)} rows")
    return float((said == labels[rows]).mean())


def harmonic_mean(first: float, second: float) -> float:
    """Of two shares; 0 where both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def _over(figures: Sequence[FewShotFigure], name: str) -> OverDraws | None:
    values = [value for one in figures if (value := getattr(one, name)) is not None]
    return OverDraws.of(values) if values else None


def _per_cent(value: OverDraws | None) -> str:
    if value is None:
        return "-"
    half = "" if value.high is None else f" +- {100 * (value.high - value.value):.1f}"
    return f"{100 * value.value:.1f}{half}"
