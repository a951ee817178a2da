"""``tether search``: images by words or by an image, in a store or straight from a folder of images."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from html import escape
from pathlib import Path

from tether.core.atomic_io import local
from tether.core.cache_folder import cache_dir
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data import SOURCES, open_source
from tether.evaluate.cutoff import Cutoff, none_above
from tether.models.encoders.truncated import narrowed
from tether.models.model_uri import near
from tether.models.precision import chosen_precision
from tether.models.texts.long_texts import CutNotice, LongTexts
from tether.models.texts.truncation_check import all_whole
from tether.tasks.classify.remarks import unseen_words
from tether.tasks.retrieve.embed import embed
from tether.tasks.retrieve.index import build_index
from tether.tasks.retrieve.lance import table_of
from tether.tasks.retrieve.search import Hit, Searcher
from tether.tasks.retrieve.store import Store
from tether.tasks.retrieve.vectors import make_thumbnail
from tether.workflows.calibration import Wanted, check_cutoff, cutoff_of
from tether.workflows.models import Data, Model, Progress, opened
from tether.workflows.words import Words, with_words

THUMBNAIL = 192  # pixels of the longest side of what is kept of an image


@dataclass(frozen=True, repr=False)
class Found:
    """What was found.

    Attributes:
        hits: query -> rows, best first; with a cutoff, those above it alone.
        images: how many were looked through.
        model: what it is called.
        nearest: query in words -> score of the best row, above the cutoff or not.
        cutoff: from which score on a row fits, or None.
        unseen: what is to be said of words that no caption of the model's run has.
        filtered: whether only rows that pass a condition were looked at.
    """

    hits: Mapping[str, Sequence[Hit]]
    images: int
    model: str
    nearest: Mapping[str, float] = field(default_factory=dict)
    cutoff: Cutoff | None = None
    unseen: Sequence[str] = ()
    filtered: bool = False

    def __getitem__(self, query: str) -> Sequence[Hit]:
        """The hits of one query."""
        return self.hits[query]

    def remarks(self) -> list[str]:
        """What the cutoff means here, and which words the model never saw."""
        return [*([self.cutoff.line(pool=self.images)] if self.cutoff else []), *self.unseen]

    def nothing(self, query: str) -> str:
        """Why a query has no hit, or the empty string."""
        if self.hits[query]:
            return ""
        if self.cutoff is None or query not in self.nearest:
            return "no row passes the filter"
        best = self.nearest[query]
        return none_above(self.cutoff.threshold, best=best, pool=self.images, filtered=self.filtered)

    def __repr__(self) -> str:
        """Queries and their best hits."""
        best = (f"{query!r}: {hits[0].key} {hits[0].score:.3f}" for query, hits in self.hits.items() if hits)
        return f"Found({', '.join([*best, f'{self.images:,} images'])})"

    def _repr_html_(self) -> str:
        rows = [f"<p>{escape(line)}</p>" for line in self.remarks()]
        for query, hits in self.hits.items():
            shown = "".join(figure(hit) for hit in hits) or escape(self.nothing(query))
            rows.append(f"<h4>{escape(query)}</h4><div style='display:flex;flex-wrap:wrap;gap:8px'>{shown}</div>")
        return "".join(rows)


def search(
    where: str | Path,
    queries: str | Sequence[str] = (),
    *,
    model: Model | None = None,
    images: Sequence[Path] = (),
    top: int = 10,
    condition: str | None = None,
    folder: Path | None = None,
    cutoff: Wanted | str = None,
    cutoff_from: Data | None = None,
    dims: int | None = None,
    shortlist: int | None = None,
    order_by: str | None = None,
    long_text: LongTexts = "cut",
    words: Words | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Found:
    """Find images by words or by images.

    Args:
        where: a store of ``tether index``, or a source as ``data.open_source`` takes it, which is embedded first; its
            vectors are kept in the cache, so that the next search is quick.
        queries: words, one or several.
        model: loaded, or a name that ``tether.load`` takes; a store knows its own.
        images: look for images like these.
        top: how many for each query.
        condition: on the columns, such as ``"label = 'cat'"``.
        folder: that was embedded, to show images that have no thumbnail.
        cutoff: give a query in words only rows that score more: a number, or ``auto``, the lowest score that at most
            one in a hundred wrong pairs of image and caption exceeds, fitted on the held-out pairs of the model's run.
        cutoff_from: pairs that the model did not learn from, to fit the cutoff on instead.
        dims: compare the first so many numbers of each vector alone, as a model of ``objective: matryoshka`` allows.
        shortlist: with ``dims``, how many of the best by them are then ranked by all numbers.
        order_by: words by which the hits of each query are put in order, those most like them first.
        long_text: of queries past the model's context: ``cut`` them, read them through ``windows``, or by interpolated
            positions (``stretch``, ``linear``); captions that a cutoff is fitted on are read the same way.
        words: folders of words that ``tether adapt --recipe new_word`` learnt on this model, for queries; with
            ``long_text="cut"`` alone.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with images embedded and images in all.

    Raises:
        InputError: no such store or source, no model, an empty query, nothing to fit a cutoff on, the cutoff of a run
            for a query that is longer than its texts were, or more ``dims`` than the vectors have.

    Example:
        >>> import os, tempfile, tether
        >>> os.environ["TETHER_CACHE"] = tempfile.mkdtemp()
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.search("scenes:rows=5,size=64", "a red circle", model=model, top=2)
        >>> len(found["a red circle"])
        2
    """
    wanted = [queries] if isinstance(queries, str) else list(queries)
    if not wanted and not images:
        raise InputError("search: say what to look for: words, or images")
    if cutoff is not None and not wanted:
        raise InputError("--cutoff: is for queries in words; images have none")
    known = str(model) if isinstance(model, (str, Path)) else None
    check_cutoff(cutoff, name=known, pairs=cutoff_from, option="--cutoff")
    store, encoder, name = open_store(
        str(where), model=model, device=device, random_weights=random_weights, on_progress=on_progress
    )
    searcher = Searcher(store, model=encoder, long_text=long_text)
    unseen = unseen_words(wanted, model=encoder, name=name)
    if words is not None:
        if long_text != "cut" or cutoff == "auto":
            raise InputError("--words: goes with --long-text cut, and with no cutoff or a number")
        worded = with_words(encoder, words)
        searcher.model = searcher.reader = worded
        unseen = unseen_words([worded.plain(text) for text in wanted], model=encoder, name=name)
    reader = searcher.model if cutoff_from is None and all_whole(wanted, searcher.model) else searcher.reader
    seen = narrowed(reader, dims if shortlist is None else None)  # which scores the cutoff is for
    if cutoff == "auto" and cutoff_from is None and seen is not encoder:
        raise InputError(
            f"--cutoff auto: that of {name} is for whole vectors and texts of up to {encoder.tokenizer.context_length} "
            f"tokens, here are {seen.dim} of {encoder.dim} numbers and --long-text {long_text}; fit one with "
            "--cutoff-from PAIRS, or give a number: --cutoff 0.25"
        )
    used = cutoff_of(cutoff, model=seen, name=name, pairs=cutoff_from, option="--cutoff")
    asked = {"top": top, "where": condition, "dims": dims, "shortlist": shortlist}
    with CutNotice(searcher.reader).watching():
        found = {text: searcher.text(text, **asked) for text in wanted}
    nearest = {text: float(ranking.scores[0]) for text, ranking in found.items() if len(ranking.scores)}
    found |= {f"like {path}": searcher.image(path, **asked) for path in images}
    hits = {query: searcher.hits(ranking, images=folder) for query, ranking in found.items()}
    if used is not None:
        hits |= {text: [hit for hit in hits[text] if hit.score > used.threshold] for text in wanted}
    if order_by is not None:
        hits = {query: searcher.ordered_by(some, order_by) for query, some in hits.items()}
    return Found(hits, len(store), name, nearest, used, unseen, filtered=condition is not None)


def open_store(
    where: str,
    *,
    model: Model | None,
    device: str = "auto",
    random_weights: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Store, DualEncoder, str]:
    """A store, or one made of a source, with the model that made its vectors; arguments are those of ``search``."""
    if table_of(where, None) is not None:
        store = Store.open(where)
        if model is None:
            if not store.model:
                raise InputError(f"{where}: does not say which model made its vectors; give --model")
            model = near(store.model, written_in=where, again=f"tether search {where} --model NAME ...")
        return store, *opened(model, device=device, random_weights=random_weights)
    named = where.partition(":")[0] in SOURCES
    if not named and "://" not in where and not has_magic(where) and not local(where).exists():
        raise InputError(f"{where}: no such store; make one with: tether index; or name a folder or file of images")
    source = open_source(where, where="search: a source of images")
    if model is None:
        raise InputError(f"{where}: no store but a source of images; say what embeds them: --model starter, or a run")
    encoder, name = opened(model, device=device, random_weights=random_weights)
    digest = model_digest(encoder)  # pyrefly: ignore - every model of tether.load is a module
    rows = where if named else source.name  # a set's version does not say its settings
    key = f"{hash_int(f'{rows} {source.version} {digest} {THUMBNAIL}'):016x}"
    place = cache_dir() / "search" / key
    vectors, stored = place / "vectors.parquet", place / "store"
    done = embed(
        source,
        model=encoder,
        model_name=name,
        out=vectors,
        thumbnail=THUMBNAIL,
        precision=chosen_precision(encoder),
        workers=1,
        on_progress=on_progress,
    )
    if table_of(stored, None) is None or len(Store.open(stored)) != done.rows:
        return build_index(vectors, out=stored, existing="replace"), encoder, name
    return Store.open(stored), encoder, name


def figure(hit: Hit) -> str:
    """A hit as HTML, its image inside."""
    try:
        data = make_thumbnail(Row(hit.key, hit.image), side=THUMBNAIL)
    except InputError:
        data = None
    shown = f"<img style='height:120px' src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>" if data else ""
    return f"<figure style='margin:0'>{shown}<figcaption>{escape(hit.key)} {hit.score:.3f}</figcaption></figure>"
