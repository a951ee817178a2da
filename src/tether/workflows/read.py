"""``tether read``: what stands in images, by a reader of one's own or by RapidOCR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float

from tether.core.atomic_io import csv_file
from tether.core.component import build
from tether.core.edit_distance import LONGEST, KnownWords
from tether.core.errors import InputError
from tether.core.protocols import Source
from tether.core.ranges import Count, Whole, checked
from tether.core.types import ImageLike, Row
from tether.core.words_read import Texts
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.boxes import Unit
from tether.data.in_order import originals
from tether.data.sources.advice import caption_advice
from tether.evaluate.reading import ReadingScores, reading_scores
from tether.tasks.read import ImageReader, load_reader
from tether.tasks.read.readers import MADE_PAGES, MADE_READER, trained_readers
from tether.tasks.retrieve.gallery import SIDE, gallery
from tether.tasks.retrieve.search import Hit
from tether.tasks.retrieve.vectors import make_thumbnail
from tether.workflows.adaptation.texts import open_texts
from tether.workflows.methods import named
from tether.workflows.models import Data, Model, Progress, opened, with_total
from tether.workflows.reading.crops import Crops, crops_of, open_places
from tether.workflows.search import figure
from tether.workflows.verdicts import verdict_of

SHOWN = 200
"""Images of a page, at most."""
IN_NOTEBOOK = 24
"""Images that a notebook shows, at most."""
CROPS_ALONE = (
    "; each was taken for the crop of one word or line: --page --with rapidocr reads whole pages and photos, "
    "--regions rapidocr finds the lines in them first"
)


@dataclass(frozen=True, repr=False)
class ReadImages:
    """What stands in a source's images.

    Attributes:
        keys: of the n texts' images, in the order of their source.
        regions: name of each text's box in its image; empty where whole images were read.
        texts: what was read, with how sure the reader was.
        method: of reading.
        nearest: of each text the nearest known word, where some were given.
        scores: how well captions were met, where they were compared with.
        bad: images that could not be read.
        shown: the texts that were least sure, to look at.
        unit: what an image was taken for, ``word`` or ``page``.
        verdict: what the report of the reader says of it; empty without.
        boxes: (n, 4) x0, y0, x1, y1 of each text's box in pixels of its image; none where whole images were read.
    """

    keys: tuple[str, ...]
    regions: tuple[str, ...]
    texts: Texts
    method: str
    nearest: tuple[str, ...] | None = None
    scores: ReadingScores | None = None
    bad: int = 0
    shown: Sequence[Hit] = ()
    unit: str = "word"
    boxes: Float[np.ndarray, "n 4"] | None = None
    verdict: str = ""

    def remarks(self) -> list[str]:
        """Who read, how well if that is known, and what to beware of."""
        said = [f"read by {self.method}", *([self.verdict] if self.verdict else [])]
        if self.scores is not None:
            said += [f"compared with the captions: {line}" for line in self.scores.lines()]
        nothing = sum(not word for word in self.texts.words)
        if nothing:
            what, hint = ("boxes", "") if self.regions else ("images", "" if self.unit == "page" else CROPS_ALONE)
            said.append(f"nothing was read in {nothing:,} of {len(self.keys):,} {what}{hint}")
        different = len(set(self.texts.words))
        if len(self.keys) >= 8 and different <= len(self.keys) / 8:
            texts = "1 text" if different == 1 else f"{different:,} different texts"
            said.append(f"{texts} in {len(self.keys):,} images: look whether it reads at all")
        return said

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file: ``key``, ``region`` and its pixels if any, ``text``, ``confidence``, maybe ``nearest``."""
        columns = ["key", *(["region", "x0", "y0", "x1", "y1"] if self.regions else []), "text", "confidence"]
        columns += ["nearest"] if self.nearest is not None else []
        with csv_file(path, columns, raw_csv=raw_csv) as table:
            for row, (word, sure) in enumerate(zip(self.texts.words, self.texts.confidence, strict=True)):
                region = [self.regions[row]] if self.regions else []
                region += [] if self.boxes is None else [f"{end:.2f}" for end in self.boxes[row]]
                near = [] if self.nearest is None else [self.nearest[row]]
                table.write([self.keys[row], *region, word, f"{sure:.6f}", *near])

    def page(self, path: str | Path) -> Path:
        """Write one HTML page with images and what was read in them, the least sure first."""
        few = f"the {len(self.shown):,} least sure of " if len(self.shown) < len(self.keys) else ""
        return gallery(
            {"least sure first": self.shown},
            Path(path),
            title="What stands in images",
            note=f"{few}{len(self.keys):,} texts",
            remarks=self.remarks(),
            scores="Scores are the reader's own confidence, 0 to 1: they order its answers, and are not calibrated",
            span=(0.0, 1.0),
        )

    def __repr__(self) -> str:
        """The first texts."""
        first = ", ".join(f"{key}: {word}" for key, word in zip(self.keys[:5], self.texts.words, strict=False))
        return f"ReadImages({len(self.keys):,} texts by {self.method}: {first})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks())
        shown = "".join(figure(hit) for hit in self.shown[:IN_NOTEBOOK])
        return f"{lines}<div style='display:flex;flex-wrap:wrap;gap:8px'>{shown}</div><p>{escape(repr(self))}</p>"


@checked
def read(
    source: Data,
    *,
    head: str | Path | ImageReader | None = None,
    using: str | Mapping[str, Any] | None = None,
    model: Model | None = None,
    regions: str | Path | None = None,
    region_unit: Unit | None = None,
    scene: bool = False,
    page: bool = False,
    words: Data | Iterable[str] | None = None,
    compare: bool = False,
    ignore_case: bool = False,
    shown: Whole = SHOWN,
    batch_size: Count = 64,
    workers: Whole = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> ReadImages:
    """Read what stands in images, each the crop of a word, or in boxes of images.

    Args:
        source: what ``data.open_source`` takes.
        head: folder of a reader that ``tether adapt --recipe read`` made, or a reader.
        using: in place of a head, ``rapidocr``, which reads crops, or with ``page`` all lines of an image.
        model: with ``scene`` the model that the reader learnt to look at scenes with; loaded, or a name.
        regions: table of the boxes of words in whole images, see ``data.region_files``, or ``rapidocr``, whose detector
            finds lines; None reads whole images.
        region_unit: of the boxes; None goes by the table's column ``unit``, or by the numbers.
        scene: look at the whole image besides each box, by a reader of ``tether adapt --recipe read_scene``.
        page: images are whole pages or photos, read by ``rapidocr`` or a reader of ``tether adapt --recipe read-page``.
        words: known words: a list, a text file with one on each line, or any source of texts; the nearest of them is
            told beside each text.
        compare: compare with the captions of the images, or with the column ``text`` of the boxes.
        ignore_case: capitals count as small letters where texts are compared.
        shown: texts that are kept to be looked at, the least sure ones.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load models.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: neither head nor ``using``, or both; no such reader; a reader of words for pages or one of pages for
            words; a scene without boxes, or by another model than
            the reader learnt with; a box that no image has; not one good row.
        MissingExtraError: ``rapidocr`` is not installed.

    Example:
        >>> import tether
        >>> from tether.models import create
        >>> from tether.tasks.read import Charset, DualReader
        >>> reader = DualReader(create("tiny").eval(), charset=Charset("abc"), max_length=3, heads=4)
        >>> found = tether.read("lettering:rows=3", head=reader, words=["cab", "bac"])
        >>> len(found.texts), set(found.nearest) <= {"cab", "bac"}
        (3, True)
    """
    if scene and regions is None:
        raise InputError("--scene: goes with --regions, the boxes of words in whole images")
    if page and regions is not None:
        raise InputError("--page: whole pages have no --regions; leave out one of both")
    rows = open_source(source, where="IMAGES")
    known = None if words is None else KnownWords(_listed(words))
    files, places = (None, None) if regions is None else open_places(regions, unit=region_unit)
    if files is not None:
        files.check(row.key for block in rows.blocks() for row in rows.read(block))
    if compare:
        _check_truths(rows, regions, known=files is not None and files.texts)
    unit = "page" if page else "word"
    given = {"model": model, "scene": scene, "random_weights": random_weights, "device": device}
    reader, method = _reader(head, using, unit=unit, **given)
    if reader.unit != unit:
        said = f"--page: {method} reads {reader.unit}s"
        raise InputError(f"{said}; {'leave it out' if page else 'say it where images are whole pages'}")
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    progress = with_total(on_progress, rows)
    every, parts, least, done = list[Crops](), list[Texts](), list[Hit](), 0
    for some, images in originals(rows, bad=bad, batch_size=batch_size, workers=workers):
        done += len(some)
        for crops in crops_of(some, images, places, bad=bad, apart=scene):
            found = _said(reader, crops, scene=scene, batch_size=batch_size)
            parts.append(found)
            least = _least(least, crops, found, compared=compare, most=shown)
            every.append(replace(crops, images=[], whole=None))
        if progress is not None:
            progress(done, None)
    if not parts:
        found_none = "no line was found in any image" if files is None else "no image has a box"
        raise InputError(f"{rows.name}: {bad.nothing_good() if bad.latest or not done else found_none}")
    texts = Texts.joined(parts)
    truths = [text for crops in every for text in crops.truths]
    scores = reading_scores(*(_cased(some, ignore_case) for some in (texts.words, truths))) if compare else None
    near = None if known is None else tuple(known.nearest(word)[0] for word in texts.words)
    return ReadImages(
        tuple(key for crops in every for key in crops.keys),
        tuple(name for crops in every for name in crops.names),
        texts,
        method,
        near,
        scores,
        bad.count,
        least,
        unit,
        None if places is None else np.concatenate([crops.boxes for crops in every]),
        verdict_of(head),
    )


def _check_truths(rows: Source, regions: str | Path | None, *, known: bool) -> None:
    """Refuse to compare with texts that nobody gave, before anything is read."""
    if regions is not None and not known:
        raise InputError(f"--compare: {regions}: boxes say what stands in them by a column text; there is none")
    if regions is None and not any(
        text.strip() for block in rows.blocks() for row in rows.read(block) for text in row.texts
    ):
        raise InputError(f"--compare: {rows.name}: no image has a caption{caption_advice(rows.name)}")


def _reader(
    head: str | Path | ImageReader | None,
    using: str | Mapping[str, Any] | None,
    *,
    unit: str,
    model: Model | None,
    scene: bool,
    random_weights: bool,
    device: str,
) -> tuple[ImageReader, str]:
    """The reader, and what it is called."""
    made_by = MADE_PAGES if unit == "page" else MADE_READER
    if head is not None and using is not None:
        raise InputError("--head: goes without --with; leave out one of both")
    if head is None and using is None:
        raise InputError(f"--head: expected the folder of a reader ({made_by} makes one), or --with rapidocr")
    if model is not None and not scene:
        raise InputError("--model: a reader has a model of its own; another one looks at whole images, with --scene")
    if using is not None:
        if scene:
            raise InputError("--scene: goes with --head, a reader of tether adapt --recipe read_scene")
        given = named(using)
        made = build(given, trained_readers(page=unit == "page"), where="--with", finite=True)
        return cast(ImageReader, made), str(given.get("name"))
    if not isinstance(head, (str, Path)):
        assert head is not None
        reader, name = head, type(head).__name__
    else:
        if scene and model is None:
            raise InputError("--scene: expected --model, the one that the reader learnt to look at scenes with")
        sees = None if model is None else opened(model, device=device, random_weights=random_weights)[0]
        reader, name = load_reader(head, model=sees, device=device, made_by=made_by), str(head)
    if scene and not reader.scenes:
        raise InputError(f"--scene: {name} reads crops alone; tether adapt --recipe read_scene reader={name} goes on")
    return reader, name


def _said(reader: ImageReader, batch: Crops, *, scene: bool, batch_size: int) -> Texts:
    crops = cast("list[ImageLike]", batch.images)
    if not scene:
        return reader.read(crops, batch_size=batch_size)
    assert batch.whole is not None
    looker = cast(Any, reader)
    boxes = torch.from_numpy(batch.shares).float().clamp(0, 1) if looker.settings["position"] else None
    index = [0] * len(crops)
    return looker.read(crops, scenes=[batch.whole], scene_index=index, boxes=boxes, batch_size=batch_size)


def _least(least: list[Hit], crops: Crops, found: Texts, *, compared: bool, most: int) -> list[Hit]:
    """The least sure texts so far, the least sure first."""
    for row in np.argsort(found.confidence, kind="stable")[:most].tolist():
        sure = float(found.confidence[row])
        if len(least) == most and sure >= least[-1].score:
            break
        meta = {"region": crops.names[row]} if crops.names else {}
        meta |= {"caption": crops.truths[row]} if compared else {}
        image = make_thumbnail(Row(crops.keys[row], crops.images[row]), side=SIDE)
        word = found.words[row]
        right = word == crops.truths[row] if compared else None
        least.append(Hit(crops.keys[row], sure, (word or "(nothing)",), image, meta, right))
        least = sorted(least, key=lambda hit: hit.score)[:most]
    return least


def _cased(texts: Sequence[str], ignore_case: bool) -> list[str]:
    return [text.lower() if ignore_case else text for text in texts]


def _listed(words: Data | Iterable[str]) -> list[str]:
    if isinstance(words, (list, tuple)):
        return [str(word) for word in words]
    source = open_texts(cast(Data, words), where="--words")
    listed = (row for block in source.blocks() for row in source.read(block) if not row.bad)
    found = list[str]()
    for row in listed:
        some = [text.strip() for text in row.texts if text.strip()]
        if any(len(text) > LONGEST for text in some):
            raise InputError(f"--words: {row.key}: expected a word of at most {LONGEST:,} characters, got more")
        found += some
    if not found:
        raise InputError(f"--words: {words}: expected at least one word")
    return found
