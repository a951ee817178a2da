"""Several texts for each image, one of which is drawn at every visit: LaCLIP's rewrites and VeCLIP's mixture."""

from __future__ import annotations

import abc
import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from tether.core.errors import InputError
from tether.core.ranges import Decay, NonNegative, Whole, checked
from tether.data.captions.rng import Chance

_SUM_TOLERANCE = 1e-6


class CaptionTexts(abc.ABC):
    """What both pools share: rows, the chance of each text, and a draw at every visit."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """How many rows of texts."""

    @abc.abstractmethod
    def texts(self, row: int) -> tuple[str, ...]:
        """The texts that a draw chooses among, in order."""

    @abc.abstractmethod
    def drawn(self, row: int, *, u: float) -> str:
        """The text that a uniform number in [0, 1) gives."""

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides a draw, besides the texts, as plain values."""

    def sample(self, row: int, *, generator: Chance) -> str:
        """One text, drawn anew; exactly one number is taken from the generator."""
        return self.drawn(row, u=float(generator.random()))


@final
class CaptionPool(CaptionTexts):
    """A caption and its rewrites, each as likely as the others: what LaCLIP trains on.

    A drawn text of fewer than ``min_pieces`` pieces is replaced by the original, which itself is never looked at. The
    pieces are counted as in the released code, by cutting at single spaces: `` x`` has two.

    Source: arXiv 2305.20088, section 4, and the released ``CsvDatasetAugCap``.

    Example:
        >>> from tether.data.captions import CaptionPool, CaptionSampler
        >>> pool = CaptionPool(["a dog", "two cats"], rewrites=[["a large dog", "one dog on grass"], []])
        >>> pool.texts(0)
        ('a dog', 'a large dog', 'one dog on grass')
        >>> said = CaptionSampler(pool, seed=0)
        >>> said(0) in pool.texts(0), said(1)
        (True, 'two cats')
    """

    @checked
    def __init__(
        self,
        original: Sequence[str],
        *,
        rewrites: Sequence[Sequence[str]],
        min_pieces: Whole = 2,
        weights: Sequence[NonNegative] | None = None,
    ) -> None:
        """Take the texts.

        Args:
            original: n captions.
            rewrites: for each caption its rewrites, any number of them, empty ones allowed.
            min_pieces: least pieces of a text that may be used (>= 0); 0 never falls back.
            weights: chances of the original and of each rewrite, not all 0, of any sum; every caption must then have
                as many rewrites. None: all alike.
        """
        if len(original) != len(rewrites):
            raise InputError(f"rewrites: expected {len(original)} lists, one for each caption, got {len(rewrites)}")
        if not original:
            raise InputError("original: expected at least one caption, got none")
        self._rows = [(text, *others) for text, others in zip(original, rewrites, strict=True)]
        self._bounds = None if weights is None else bounds(weights, where="weights")
        self._weights = None if weights is None else [float(weight) for weight in weights]
        self.min_pieces = min_pieces
        if weights is not None:
            for number, row in enumerate(self._rows):
                if len(row) != len(weights):
                    raise InputError(
                        f"weights: expected {len(row)}, one for caption {number} and each of its rewrites, got "
                        f"{len(weights)}"
                    )

    def __len__(self) -> int:
        """How many captions."""
        return len(self._rows)

    @property
    def settings(self) -> dict[str, Any]:
        """Least pieces and weights."""
        return {"min_pieces": self.min_pieces, "weights": self._weights}

    @checked
    def texts(self, row: Whole) -> tuple[str, ...]:
        """The original and its rewrites, as they are.

        Args:
            row: of an image, >= 0; taken modulo the number of captions, for a list of images may repeat theirs.
        """
        return self._rows[row % len(self._rows)]

    def pick(self, row: int, *, choice: int) -> str:
        """The text that is used when text ``choice`` is drawn: 0 the original, j its j-th rewrite."""
        texts = self.texts(row)
        if not 0 <= choice < len(texts):
            raise InputError(f"choice: row {row} has texts 0 to {len(texts) - 1}, got {choice}")
        return guarded(texts, choice, min_pieces=self.min_pieces)

    @checked
    def drawn(self, row: Whole, *, u: Decay) -> str:
        """The text that ``u`` in [0, 1) draws."""
        count = len(self.texts(row))
        choice = int(u * count) if self._bounds is None else place_of(u, self._bounds)
        return self.pick(row, choice=choice)


@final
class MixedCaptions(CaptionTexts):
    """Texts of several sources, such as alt-texts and written descriptions, mixed with given chances.

    Every visit draws a source anew; a fixed division of the rows would lose most of what mixing gains. Where the
    drawn source has nothing to say of a row, the fallback speaks, or else the first source that does.

    Source: arXiv 2310.07699, section 3.3.

    Example:
        >>> from tether.data.captions import MixedCaptions
        >>> sources = {"alt": ["lamp_0231.jpg", "sale!!!"], "vecap": ["a red lamp on a desk", ""]}
        >>> pool = MixedCaptions(sources, probs={"alt": 0.5, "vecap": 0.5})
        >>> pool.drawn(0, u=0.2), pool.drawn(0, u=0.7)
        ('lamp_0231.jpg', 'a red lamp on a desk')
        >>> pool.drawn(1, u=0.7)  # a source that is silent gives way
        'sale!!!'
    """

    def __init__(
        self, sources: Mapping[str, Sequence[str]], *, probs: Mapping[str, float], fallback: str = "alt"
    ) -> None:
        """Take the texts.

        Args:
            sources: n texts by the name of their source; an empty text says nothing.
            probs: chance of each source, of sum 1; their order is the order of the cumulative chances.
            fallback: source that speaks where the drawn one is silent.
        """
        if not sources:
            raise InputError("sources: expected at least one, got none")
        if set(probs) != set(sources):
            raise InputError(f"probs: expected one for each of {', '.join(sources)}, got {', '.join(probs) or 'none'}")
        if fallback not in sources:
            raise InputError(f"fallback: expected one of {', '.join(sources)}, got {fallback!r}")
        lengths = {name: len(texts) for name, texts in sources.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"sources: expected equally many texts of each, got {lengths}")
        self._bounds = bounds(list(probs.values()), where="probs", total=1.0)
        self.probs = {name: float(value) for name, value in probs.items()}
        self.fallback = fallback
        self._rows = list(zip(*(sources[name] for name in probs), strict=True))
        if not self._rows:
            raise InputError("sources: expected at least one row, got none")
        for number, row in enumerate(self._rows):
            if not any(text.strip() for text in row):
                raise InputError(f"sources: no source says anything of row {number}")

    def __len__(self) -> int:
        """How many rows."""
        return len(self._rows)

    @property
    def settings(self) -> dict[str, Any]:
        """The chances, in their order, and the fallback."""
        return {"probs": [[name, value] for name, value in self.probs.items()], "fallback": self.fallback}

    def texts(self, row: int) -> tuple[str, ...]:
        """What each source says of a row, in the order of the chances."""
        if not 0 <= row < len(self._rows):
            raise InputError(f"row: expected 0 to {len(self._rows) - 1}, got {row}")
        return self._rows[row]

    @checked
    def drawn(self, row: int, *, u: Decay) -> str:
        """The text that ``u`` in [0, 1) draws, mapped through the cumulative chances."""
        texts = self.texts(row)
        return spoken(texts, place_of(u, self._bounds), fallback=list(self.probs).index(self.fallback))


@final
class CaptionSampler:
    """Draws from a pool with a generator of its own; its state lets a restored run draw the same texts.

    Each worker has its own generator, else all would draw alike. Nothing is seeded anew from epoch to epoch.
    """

    @checked
    def __init__(self, pool: CaptionTexts, *, seed: Whole, worker: Whole = 0) -> None:
        """Start the generator.

        Args:
            pool: what is drawn from.
            seed: of the run (>= 0).
            worker: number of this worker (>= 0).
        """
        self.pool = pool
        self._generator = np.random.default_rng([seed, worker])

    def __call__(self, row: int) -> str:
        """One text of a row, drawn anew."""
        return self.pool.sample(row, generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        """Where the generator stands, the number of rows, and what decides a draw."""
        return {"generator": self._generator.bit_generator.state, "rows": len(self.pool), **self.pool.settings}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where another sampler stopped.

        Raises:
            InputError: it drew from other rows, or with other chances.
        """
        mine = {"rows": len(self.pool), **self.pool.settings}
        theirs = {key: value for key, value in state.items() if key != "generator"}
        if theirs != mine:
            raise InputError(f"the state is of a pool with {theirs}, this one has {mine}")
        self._generator.bit_generator.state = state["generator"]


def guarded(texts: Sequence[str], choice: int, *, min_pieces: int) -> str:
    """Text ``choice``, or the first where that has fewer pieces between single spaces than ``min_pieces``."""
    text = texts[choice]
    return texts[0] if len(text.split(" ")) < min_pieces else text


def spoken(texts: Sequence[str], choice: int, *, fallback: int) -> str:
    """Text ``choice``; where that is blank the fallback, and where that is blank too the first that is not."""
    for text in (texts[choice], texts[fallback], *texts):
        if text.strip():
            return text
    return texts[choice]


def bounds(weights: Sequence[float], *, where: str, total: float | None = None) -> list[float]:
    """Upper ends of the stretches of [0, 1) that belong to each weight; the last end of a positive one is 1."""
    values = [float(weight) for weight in weights]
    if not values or not all(0 <= value < math.inf for value in values) or not sum(values) > 0:
        raise InputError(f"{where}: expected finite numbers of at least 0, not all 0, got {list(weights)}")
    if total is not None and abs(sum(values) - total) > _SUM_TOLERANCE:
        raise InputError(f"{where}: expected a sum of {total:g}, got {sum(values):.6g}")
    ends = list(itertools.accumulate(values))
    return [end / ends[-1] for end in ends]


def place_of(u: float, ends: Sequence[float]) -> int:
    """The first stretch that ends above ``u``."""
    return bisect.bisect_right(ends, u)
