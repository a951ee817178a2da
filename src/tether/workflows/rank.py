"""``tether rank``: images in an order that words, a few examples or a trained head give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor

from tether.adaptation.heads import OrderHead, load_head
from tether.adaptation.recipes import OrderRecipe
from tether.core.atomic_io import csv_file
from tether.core.component import build
from tether.core.errors import InputError
from tether.core.image_order import ImageOrder
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, Whole, checked
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.data.rated import read_rated
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_images
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.search import Hit
from tether.workflows.both_ends import both_ends
from tether.workflows.models import Data, Model, Progress, opened, with_total
from tether.workflows.order_ways import OrderWays, Read, Way
from tether.workflows.search import figure

LEAST_EXAMPLES = 8
SHOWN = 24
"""Images of each end that a notebook and a page show."""


@dataclass(frozen=True, repr=False)
class RankedImages:
    """Images in an order.

    Attributes:
        order: keys and scores.
        by: the text.
        used: the way that gave the scores: ``text``, ``ridge`` (on embeddings), ``ridge_patches``, ``adapter`` or
            ``head``.
        correlations: way to Spearman's correlation with the examples, each held out once; empty without examples.
        intervals: 95 % of each.
        examples: how many there were.
        bad: images that could not be read.
        hits: the first and the last images, to look at.
        without_patches: why ridge regression on patches was not tried, where it might have been.
    """

    order: ImageOrder
    by: str
    used: Way
    correlations: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    examples: int = 0
    bad: int = 0
    hits: Sequence[Hit] = ()
    without_patches: str = ""

    def remarks(self) -> list[str]:
        """Which ways were tried, how well each orders held-out examples, and which was used."""
        if not self.correlations:
            how = {"text": "the text alone, unmeasured: give --examples to see how well", "head": "a trained head"}
            return [f"ordered by {how[self.used]}"]
        ends = {way: "{:.2f} to {:.2f}".format(*self.intervals[way]) for way in self.correlations}
        lines = [f"{way}: {value:.2f} ({ends[way]})" for way, value in self.correlations.items()]
        said = f"Spearman's correlation with {self.examples} examples, each held out once; chance is 0"
        if self.without_patches:
            lines.append(f"ridge_patches: not tried: {self.without_patches}")
        return [said, *lines, f"used: {self.used}, the highest; another way may be as good where intervals overlap"]

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file of ``rank`` (from 1), ``key`` and ``score``, the highest first."""
        with csv_file(path, ["rank", "key", "score"], raw_csv=raw_csv) as table:
            for place, (key, score) in enumerate(self.order.ranked(), start=1):
                table.write([place, key, f"{score:.6f}"])

    def page(self, path: str | Path) -> Path:
        """Write a contact sheet of the first and the last images as one HTML file."""
        count, half = len(self.order.keys), len(self.hits) // 2
        ends, first = {self.by: self.hits}, {}
        if len(self.hits) < count:
            last = f"{self.by}: the last {half:,}"
            ends = {f"{self.by}: the first {half:,}": self.hits[:half], last: self.hits[half:]}
            first = {last: count - half + 1}
        unit = "similarities to the text" if self.used == "text" else "in the unit of the examples"
        return gallery(
            ends,
            Path(path),
            title="Images in order",
            note=f"{count:,} images by {self.used}",
            remarks=self.remarks(),
            first=first,
            scores=f"Scores are {unit}, the highest first",
        )

    def __repr__(self) -> str:
        """The ends of the order."""
        (first, high), *_, (last, low) = self.order.ranked()
        return f"RankedImages({len(self.order.keys):,} images by {self.used}: {first} {high:.3f} ... {last} {low:.3f})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks())
        shown = "".join(figure(hit) for hit in self.hits)
        ends = f"<h4>{escape(self.by)}</h4><div style='display:flex;flex-wrap:wrap;gap:8px'>{shown}</div>"
        return f"{lines}{ends}<p>{escape(repr(self))}</p>"


@checked
def rank(
    source: Data,
    *,
    model: Model,
    by: str | None = None,
    against: str | None = None,
    examples: Data | None = None,
    column: str = "score",
    using: Literal["ridge", "adapter"] = "ridge",
    rows: Read = "auto",
    settings: Mapping[str, Any] | None = None,
    head: str | Path | OrderHead | None = None,
    folds: Annotated[int, Ge(2), Le(20)] = 4,
    seed: Whole = 0,
    shown: Whole = SHOWN,
    batch_size: Count = 64,
    workers: Whole = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> RankedImages:
    """Order images by words, by a few rated examples, or by a head of ``tether adapt --recipe order``.

    With examples, the text alone and ridge regression on embeddings and on patches (and the adapter, if asked for) are
    compared on examples that each did not learn from, and the best of them, fitted on all, orders the images.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        by: what images are ordered by, the most of it first; with a head of one text it may be left out.
        against: its opposite, which makes the order by text better.
        examples: images with a column of numbers, or a table with ``key`` and that column whose keys are the source's.
        column: of the examples.
        using: ``adapter`` also trains the adapter, which takes a minute or more, five times.
        rows: what ridge regression reads: ``embedding``, ``patches``, or ``auto``, both where the model shows patches.
        settings: of the recipe ``order``, for the adapter.
        head: the folder of a head, or a head, of this very model.
        folds: parts that the examples are split into, each held out once.
        seed: of the parts and of training.
        shown: images of each end that are kept to be looked at.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row of the source instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.
        on_step: told each step of the adapter and how many there are.

    Raises:
        InputError: no words, options that do not go together, fewer than two images or ``LEAST_EXAMPLES`` examples, or
            what ``data.rated.read_rated`` refuses.
        UnsupportedModelError: an adapter, or ``patches``, for a model that shows no tokens.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.rank("scenes:rows=5,size=64", by="many things", against="one thing", model=model, shown=0)
        >>> len(found.order.ranked()), found.used
        (5, 'text')
    """
    made = load_head(head) if isinstance(head, (str, Path)) else head
    by = _words(
        by,
        made,
        idle={
            "--against": against,
            "--examples": examples,
            "--with": using == "adapter" or None,
            "--rows": None if rows == "auto" else rows,
        },
    )
    pool = open_source(source, where="IMAGES")
    rated = None if examples is None else read_rated(examples, column=column, among=pool)
    if rated is not None and len(rated.numbers) < LEAST_EXAMPLES:
        raise InputError(f"--examples: {len(rated.numbers)} are too few to measure; expected at least {LEAST_EXAMPLES}")
    if rows != "auto" and rated is None:
        raise InputError(f"--rows {rows}: ridge regression learns from examples; give --examples RATED.csv")
    if using == "adapter" and rated is None:
        raise InputError("--with adapter: it learns from examples; give --examples RATED.csv")
    wanted = {**(settings or {}), "name": "order", "text": by, "column": column}
    recipe = cast(OrderRecipe, build(wanted, {"order": OrderRecipe}, where="--with adapter", finite=True))
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    cast(torch.nn.Module, encoder).eval()
    found = OrderWays(encoder, by=by, against=against)
    if rated is not None:
        taught = recipe if using == "adapter" else None
        found.learn(rated, read=rows, recipe=taught, folds=folds, seed=seed, workers=workers, on_step=on_step)
    if isinstance(made, OrderHead):
        made.check(encoder)
        place, used, score = made.classes.index(by), cast(Way, "head"), made.logits
        found.reader, score_all = made.reader(encoder), lambda some: score(some)[:, place].numpy()
    else:
        used, score_all = found.best(seed=seed)
    bad = BadRows.anew(pool.name, path=bad_rows, strict=strict)
    keys: list[str] = []
    scores: list[np.ndarray] = []
    for some, vectors in _vectors(found.reader, pool, bad=bad, batch_size=batch_size, workers=workers):
        keys += some
        scores.append(score_all(vectors))
        if (told := with_total(on_progress, pool)) is not None:
            told(len(keys), None)
    if not keys:
        raise InputError(f"{pool.name}: {bad.nothing_good()}")
    if len(keys) < 2:
        raise InputError(f"{pool.name}: expected at least two images to order, got {len(keys)}")
    order = ImageOrder(tuple(keys), np.concatenate(scores).astype(np.float64))
    measured = found.measured
    return RankedImages(
        order,
        by,
        used,
        {} if measured is None else dict(zip(found.ways, measured.value.tolist(), strict=True)),
        {} if measured is None else {way: measured.interval(number) for number, way in enumerate(found.ways)},
        0 if measured is None else measured.n,
        bad.count,
        both_ends(pool, order.ranked(), shown=shown),
        found.without_patches,
    )


def _words(by: str | None, head: object, *, idle: Mapping[str, object]) -> str:
    """What to order by; a head has texts of its own, and nothing is learnt beside it."""
    if head is None:
        if by is None or not by.strip():
            raise InputError("--by: expected what to order by, such as --by 'how damaged', or --head FOLDER")
        return by
    if not isinstance(head, OrderHead):
        raise InputError("--head: expected one that orders images (tether adapt --recipe order), got one of classes")
    if given := [option for option, value in idle.items() if value is not None]:
        raise InputError(f"{given[0]}: a head has learnt its order; leave it out")
    by = head.classes[0] if by is None and len(head.classes) == 1 else by
    if by not in head.classes:
        raise InputError(f"--by: the head orders by {', '.join(map(repr, head.classes))}, not by {by!r}")
    return by


def _vectors(
    reader: DualEncoder, source: Source, *, bad: BadRows, batch_size: int, workers: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Keys and rows of all good images; embeddings through the feature cache."""
    if isinstance(reader, CachedEncoder):
        for rows, image in reader.rows_of(source, batch_size=batch_size, workers=workers, on_bad=bad):
            yield [row.key for row in rows], image
        return
    for rows, pixels in ordered(
        source, image_spec=reader.image_spec, batch_size=batch_size, workers=workers, on_bad=bad
    ):
        yield [row.key for row in rows], encode_images(reader, [pixels])
