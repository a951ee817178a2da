"""``tether mine``: text pairs with hard negatives, from text pairs or from images with several captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tether.core.atomic_io import local, write_text
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.protocols import Source
from tether.core.ranges import Count, NonNegative, Whole, checked
from tether.data import open_source
from tether.data.text_pairs import POSITIVES
from tether.models.embed import encode_texts
from tether.tasks.retrieve.mine import mine_hard_negatives
from tether.workflows.models import Data, Model, Progress, opened


@dataclass(frozen=True)
class Mined:
    """A table that the source ``text_pairs`` reads.

    Attributes:
        path: of the table.
        pairs: lines in it.
        groups: rows of the source; pairs of one mean the same.
        negatives: hard negatives of each pair.
        left_out: rows that give no pair.
        positive: mean cosine of a query and the nearest other text of its row.
        hardest: mean cosine of a query and its nearest negative.
        random: mean cosine of a query and any text.
        above: share of the negatives that are nearer than the positive, which are likely no negatives.
    """

    path: Path
    pairs: int
    groups: int
    negatives: int
    left_out: int
    positive: float
    hardest: float
    random: float
    above: float

    def line(self) -> str:
        """How good the negatives are."""
        means = f"positives {self.positive:.2f}, hardest negatives {self.hardest:.2f}, any text {self.random:.2f}"
        return f"mean cosine: {means}; {self.above:.1%} of the negatives are nearer than the positive: likely false"


@checked
def mine(
    source: Data,
    *,
    model: Model,
    out: str | Path,
    negatives: Count = 7,
    skip_top: Whole = 1,
    margin: NonNegative | None = None,
    batch_size: Count = 256,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Mined:
    """Write text pairs with hard negatives: texts that a model finds near to a query, but that belong to another row.

    Of a source with several captions for an image each caption is a query, whose positive is the next caption of the
    same image. No image is opened.

    Args:
        source: what ``data.open_source`` takes; ``text_pairs:path=FILE`` is a table of pairs.
        model: loaded, or a name that ``tether.load`` takes.
        out: a ``.jsonl`` file, written atomically.
        negatives: of each query.
        skip_top: so many of the texts of other rows that are nearest to a query are left out.
        margin: a negative's cosine is at least this much below that of the nearest other text of the query's row; None
            sets no bound.
        batch_size: texts in one forward.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with texts embedded and texts in all, for queries and for positives.

    Raises:
        InputError: no such source or model, no pair in it, or fewer texts than a query needs.
        LockedError: another process writes the table.

    Example:
        >>> import tempfile, tether
        >>> from pathlib import Path
        >>> from tether.workflows.mine import mine
        >>> model = tether.load("tiny", random_weights=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table, out = Path(folder, "captions.csv"), f"{folder}/pairs.jsonl"
        ...     lines = [f"{number}.jpg,{word} {number}" for number in range(9) for word in ("photo", "image")]
        ...     with table.open("w") as file:
        ...         print("image,caption", *lines, sep=chr(10), file=file)
        ...     found = mine(table, model=model, out=out, negatives=2)
        >>> found.pairs, found.groups
        (18, 9)
    """
    out = local(out)
    if out.suffix != ".jsonl":
        raise InputError(f"{out}: expected a name that ends in .jsonl")
    rows = open_source(source, where="SOURCE")
    groups, left_out, bad = _groups(rows)
    if not groups:
        raise InputError(
            f"{rows.name}: no row has a text pair: expected two different captions, or text_pairs:path=FILE"
            + (f"; {left_out} rows are left out, the first that cannot be read: {bad}" if bad else "")
        )
    with locked(out.with_name(f".{out.name}.lock"), purpose="tether mine"):
        encoder, _ = opened(model, device=device, random_weights=random_weights)
        docs = list(dict.fromkeys(text for pairs in groups.values() for _, text in pairs))
        place = {text: number for number, text in enumerate(docs)}
        asked = [(key, query, positive) for key, pairs in groups.items() for query, positive in pairs]
        own = {key: {place[text] for pair in pairs for text in pair if text in place} for key, pairs in groups.items()}
        found = mine_hard_negatives(
            lambda texts: encode_texts(encoder, texts, batch_size=batch_size, on_progress=on_progress).numpy(),
            [query for _, query, _ in asked],
            docs,
            k=negatives,
            skip_top=skip_top,
            margin=margin,
            own=[own[key] for key, _, _ in asked],
        )
        write_text(out, "".join(_lines(asked, docs, found.places)))
        known = found.own[~np.isnan(found.own)]  # a query that is its own answer has none
    return Mined(
        out,
        len(asked),
        len(groups),
        negatives,
        left_out,
        positive=float(known.mean()) if len(known) else 0.0,
        hardest=float(found.scores.max(axis=1).mean()),
        random=float(found.mean.mean()),
        above=float((found.scores > found.own[:, None]).mean()),
    )


def _groups(source: Source) -> tuple[dict[str, list[tuple[str, str]]], int, str]:
    """Pairs by the row they are from, how many rows give none, and the first of these that is bad, with its reason."""
    found: dict[str, list[tuple[str, str]]] = {}
    left_out, bad = 0, ""
    for row in (row for block in source.blocks() for row in source.read(block)):
        texts = [text for text in row.texts if text.strip()]
        positives = row.meta.get(POSITIVES)
        if isinstance(positives, tuple):
            pairs = list(zip(row.texts, map(str, positives), strict=True))
        else:
            texts = list(dict.fromkeys(texts))
            pairs = list(zip(texts, [*texts[1:], *texts[:1]], strict=True)) if len(texts) > 1 else []
        if pairs and not row.bad:
            found.setdefault(row.key, []).extend(pairs)
            continue
        left_out += 1
        bad = bad or (f"{row.key}: {row.bad}" if row.bad else "")
    return found, left_out, bad


def _lines(asked: list[tuple[str, str, str]], docs: list[str], places: np.ndarray) -> Iterator[str]:
    for (key, query, positive), wrong in zip(asked, places.tolist(), strict=True):
        line = {"query": query, "positive": positive, "negatives": [docs[each] for each in wrong], "group": key}
        yield json.dumps(line, ensure_ascii=False) + "\n"
