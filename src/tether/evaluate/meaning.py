"""What the figures of a finished run mean: learnt or learnt by heart, enough data or not, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tether.core.atomic_io import write_json
from tether.core.printable import printable
from tether.core.shape import read_record
from tether.data.sources.split import held_out_word
from tether.training.epochs import MANY_EPOCHS

FILE = "meaning.json"
_DEPTHS = (10, 5, 1)
_BY_HEART = 0.25
"""Recall of images learnt from above that of held-out ones, both among equally many, from which it is remarked on."""
_FEW_HELD_OUT = 50
_NUMBER = (int, float)
_SHAPE = {
    "source": str,
    "images": int,
    "captions": int,
    "epochs": (*_NUMBER, None),
    "pool": int,
    "depth": int,
    "held_out": _NUMBER,
    "low": _NUMBER,
    "high": _NUMBER,
    "chance": _NUMBER,
    "train": (*_NUMBER, None),
    "before": (*_NUMBER, None),
    "scratch": bool,
    "shared?": (int, None),
}


@dataclass(frozen=True, slots=True)
class Meaning:
    """A run's figures in sentences.

    Attributes:
        source: of the held-out pairs.
        images: rows that were learnt from, an image with its captions each.
        captions: their captions.
        epochs: passes over them; None for a fit in closed form, which sees them once.
        pool: images held out, among which each caption looks for its own.
        depth: how many of the first images are looked at: ten, or fewer where that is a large part of the pool.
        held_out: share of held-out captions whose image is among these.
        low: lower end of its 95 % interval over images.
        high: upper end.
        chance: what a model that knows nothing reaches.
        train: the same share among equally many images that were learnt from; None where it was not measured.
        before: the held-out share of the model that the run began from; None where there was none, or it is gone.
        scratch: whether the model began with random weights.
        shared: captions of held-out images that the run's text pairs hold; None for a run without text pairs.
    """

    source: str
    images: int
    captions: int
    epochs: float | None
    pool: int
    depth: int
    held_out: float
    low: float
    high: float
    chance: float
    train: float | None
    before: float | None
    scratch: bool
    shared: int | None = None

    @property
    def learnt(self) -> bool:
        """Whether held-out images are found more often than by chance, beyond what their number lets vary."""
        return self.low > self.chance

    @property
    def by_heart(self) -> bool:
        """Whether images that were learnt from are found far more often than others."""
        return self.train is not None and self.train - self.held_out > _BY_HEART

    def lines(self) -> Iterator[str]:
        """The sentences, the most important first."""
        found = f"{self.held_out:.0%} of the captions ({self.low:.0%} to {self.high:.0%}; chance {self.chance:.0%})"
        first = "put their image first" if self.depth == 1 else f"find their image among the first {self.depth}"
        yield f"Among {self.pool:,} held-out images of {self.source}, {found} {first}."
        if self.before is not None:
            gained = "" if self.held_out > self.before else ", no fewer: the run gained nothing"
            yield f"The model that it began from found {self.before:.0%}{gained}."
        if not self.learnt:
            yield "That is not clearly better than chance: the model cannot be used on new images."
        if self.train is not None:
            known = f"Among as many images that it learnt from, {self.train:.0%} do"
            if self.pool < _FEW_HELD_OUT:
                yield f"{known}; with so few, that says little about whether it learnt them by heart."
            elif self.by_heart:
                yield f"{known}: it has learnt its pairs by heart; the held-out figure is what new images will see."
            else:
                yield f"{known}, so it has not learnt them by heart."
        if self.shared:
            yield (
                f"Its text pairs hold {self.shared:,} captions of held-out images: text_retrieval on these is too good "
                "and says nothing of new texts."
            )
        times = "" if self.epochs is None else f", in {self.epochs:.3g} epoch{'' if self.epochs == 1 else 's'}"
        yield f"It learnt from {self.images:,} images with {self.captions:,} captions{times}."
        if self.scratch and self.images < 100_000:
            yield "That is too little to learn from random weights: millions of pairs are usual. Start from a model."
        if self.epochs is not None and self.epochs > MANY_EPOCHS and self.by_heart:
            yield f"More than {MANY_EPOCHS} passes mostly repeat what is known: fewer epochs, or more data."
        if self.pool < _FEW_HELD_OUT:
            yield f"With {self.pool} held-out images the figure is rough; its interval says how rough."

    def next_steps(self, folder: Path, *, data: object) -> Iterator[str]:
        """Commands to go on with.

        Args:
            folder: of the run, as the user named it.
            data: of its settings; they may be another's, so what is no plain name or path is not repeated.
        """
        source = data.get("source") if isinstance(data, Mapping) else data
        known = isinstance(source, str) and not source.startswith(("hf:", "-")) and "://" not in source
        name = _quoted(source) if known else "photos/"
        pairs = "PAIRS"
        if known and isinstance(source, str) and isinstance(data, Mapping) and data.get("name") == "split":
            pairs = _quoted(held_out_word(source, data))
        if self.scratch:
            yield f"tether train {name} --out {_quoted(f'{folder}-from-starter')}"
        if self.learnt:
            yield f'tether search {name} "a dog on a beach" --model {_quoted(folder)} --html found.html'
        if self.shared is not None:
            yield f"tether eval {_quoted(folder)} {pairs} --measure retrieval --measure text_retrieval"
        yield f"tether inspect {_quoted(folder)} --pairs {pairs}"

    def save(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_json(folder / FILE, asdict(self))


def read_meaning(folder: Path) -> Meaning | None:
    """What a run's folder says of itself, or None.

    Raises:
        InputError: a file that is malformed.
    """
    values = read_record(folder / FILE, _SHAPE)
    return None if values is None else Meaning(**values)


def _quoted(word: object) -> str:
    return shlex.quote(printable(str(word)))


def depth_for(pool: int) -> int:
    """How many of the first images are looked at, so that chance does not find most of them."""
    return next((depth for depth in _DEPTHS if 2 * depth <= pool), 1)


def recall_of(metrics: Mapping[str, float], *, depth: int) -> tuple[float, float, float, float]:
    """The recall of the texts at a depth, the ends of its interval, and chance."""
    name = f"text_to_image_r{depth}"
    low, high = (metrics.get(f"{name}_{side}", metrics[name]) for side in ("low", "high"))
    return metrics[name], low, high, metrics[f"{name}_chance"]
