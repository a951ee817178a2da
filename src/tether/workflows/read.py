"""``tether read``: what stands in images, by a reader of one's own or by RapidOCR."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.atomic_io import csv_file
from tether.core.component import build
from tether.core.edit_distance import LONGEST, KnownWords
from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked
from tether.core.types import ImageLike, Row
from tether.core.words_read import Texts
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.boxes import Unit, cut_box
from tether.data.originals import originals
from tether.data.region_files import NamedRegion, RegionFiles, open_regions
from tether.evaluate.reading import ReadingScores, reading_scores
from tether.tasks.read import READERS, ImageReader, SceneReader, load_reader
from tether.tasks.read.readers import MADE_READER
from tether.tasks.retrieve.embed import make_thumbnail
from tether.tasks.retrieve.gallery import SIDE, gallery
from tether.tasks.retrieve.search import Hit
from tether.workflows.adaptation.texts import open_texts
from tether.workflows.methods import named
from tether.workflows.models import Data, Model, Progress, opened, with_total
from tether.workflows.search import figure

SHOWN = 200
"""Images of a page, at most."""
IN_NOTEBOOK = 24
"""Images that a notebook shows, at most."""


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
    """

    keys: tuple[str, ...]
    regions: tuple[str, ...]
    texts: Texts
    method: str
    nearest: tuple[str, ...] | None = None
    scores: ReadingScores | None = None
    bad: int = 0
    shown: Sequence[Hit] = ()

    def remarks(self) -> list[str]:
        """Who read, how well if that is known, and what to beware of."""
        said = [f"read by {self.method}"]
        if self.scores is not None:
            said += [f"compared with the captions: {line}" for line in self.scores.lines()]
        nothing = sum(not word for word in self.texts.words)
        if nothing:
            said.append(f"nothing was read in {nothing:,} of {len(self.keys):,} images")
        different = len(set(self.texts.words))
        if len(self.keys) >= 8 and different <= len(self.keys) / 8:
            texts = "1 text" if different == 1 else f"{different:,} different texts"
            said.append(f"{texts} in {len(self.keys):,} images: look whether it reads at all")
        return said

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file: ``key``, ``region`` with boxes, ``text``, ``confidence``, ``nearest`` with known words."""
        columns = ["key", *(["region"] if self.regions else []), "text", "confidence"]
        columns += ["nearest"] if self.nearest is not None else []
        with csv_file(path, columns, raw_csv=raw_csv) as table:
            for row, (word, sure) in enumerate(zip(self.texts.words, self.texts.confidence, strict=True)):
                region = [self.regions[row]] if self.regions else []
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
        using: in place of a head, ``rapidocr``.
        model: with ``scene`` the model that the reader learnt to look at scenes with; loaded, or a name.
        regions: table of the boxes of words in whole images, see ``data.region_files``; None reads whole images.
        region_unit: of the boxes; None goes by the table's column ``unit``, or by the numbers.
        scene: look at the whole image besides each box, by a reader of ``tether adapt --recipe read_scene``.
        page: images are whole pages, read by a reader of ``tether adapt --recipe read-page``.
        words: known words: a list, a text file with one on each line, or any source of texts; the nearest of them is
            told beside each text.
        compare: compare with the captions of the images.
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
    if compare and regions is not None:
        raise InputError("--compare: goes with images of a word each; leave out --regions")
    rows = open_source(source, where="IMAGES")
    known = None if words is None else KnownWords(_listed(words))
    reader, method = _reader(head, using, model=model, scene=scene, random_weights=random_weights, device=device)
    if (unit := reader.unit) != ("page" if page else "word"):
        said = f"--page: {method} reads {unit}s"
        raise InputError(f"{said}; {'leave it out' if page else 'say it where images are whole pages'}")
    if page and regions is not None:
        raise InputError("--page: whole pages have no --regions; leave out one of both")
    files = None if regions is None else open_regions(regions, unit=region_unit)
    if files is not None:
        files.check(row.key for block in rows.blocks() for row in rows.read(block))
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    progress = with_total(on_progress, rows)
    keys, places, parts, truths = list[str](), list[str](), list[Texts](), list[str]()
    least, done = list[Hit](), 0
    for some, images in originals(rows, bad=bad, batch_size=batch_size, workers=workers):
        done += len(some)
        for batch in _batches(some, images, files, bad=bad, apart=scene):
            found = _said(reader, batch, scene=scene, batch_size=batch_size)
            keys += batch.keys
            places += batch.places
            parts.append(found)
            if compare:
                truths += [next(iter(row.texts), "") for row in some]
            least = _least(least, batch, found, truths[-len(batch.keys) :] if compare else None, most=shown)
        if progress is not None:
            progress(done, None)
    if not parts:
        raise InputError(f"{rows.name}: {bad.nothing_good() if bad.latest or not done else 'no image has a box'}")
    texts = Texts.joined(parts)
    if compare and not any(truths):
        raise InputError(f"--compare: {rows.name}: no image has a caption")
    scores = reading_scores(*(_cased(some, ignore_case) for some in (texts.words, truths))) if compare else None
    near = None if known is None else tuple(known.nearest(word)[0] for word in texts.words)
    return ReadImages(tuple(keys), tuple(places), texts, method, near, scores, bad.count, least)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Crops that are read together; with a whole image, its boxes."""

    keys: list[str]
    places: list[str]
    crops: list[np.ndarray]
    whole: np.ndarray | None = None
    boxes: np.ndarray | None = None


def _reader(
    head: str | Path | ImageReader | None,
    using: str | Mapping[str, Any] | None,
    *,
    model: Model | None,
    scene: bool,
    random_weights: bool,
    device: str,
) -> tuple[ImageReader, str]:
    """The reader, and what it is called."""
    if (head is None) == (using is None):
        raise InputError(f"--head: expected the folder of a reader ({MADE_READER} makes one), or --with rapidocr")
    if model is not None and not scene:
        raise InputError("--model: a reader has a model of its own; another one looks at whole images, with --scene")
    if using is not None:
        if scene:
            raise InputError("--scene: goes with --head, a reader of tether adapt --recipe read_scene")
        given = named(using)
        free = {name: kind for name, kind in READERS.items() if kind.file is None}
        return cast(ImageReader, build(given, free, where="--with", finite=True)), str(given.get("name"))
    if not isinstance(head, (str, Path)):
        assert head is not None
        reader, name = head, type(head).__name__
    else:
        if scene and model is None:
            raise InputError("--scene: expected --model, the one that the reader learnt to look at scenes with")
        sees = None if model is None else opened(model, device=device, random_weights=random_weights)[0]
        reader, name = load_reader(head, model=sees, device=device), str(head)
    if scene and not isinstance(reader, SceneReader):
        raise InputError(f"--scene: {name} reads crops alone; tether adapt --recipe read_scene reader={name} goes on")
    return reader, name


def _batches(
    rows: Sequence[Row],
    images: Sequence[UInt8[Tensor, "3 h w"]],
    files: RegionFiles | None,
    *,
    bad: BadRows,
    apart: bool,
) -> Iterator[_Batch]:
    """Crops of these images; those of each image apart where it is looked at as a whole."""
    if files is None:
        yield _Batch([row.key for row in rows], [], [_array(image) for image in images])
        return
    found = list[tuple[Row, Tensor, list[NamedRegion]]]()
    for row, image in zip(rows, images, strict=True):
        try:
            found.append((row, image, files.of(row.key, size=(image.shape[1], image.shape[2]))))
        except InputError as error:
            bad.add(row.key, str(error))
    for some in [[one] for one in found] if apart else [found]:
        each = [(row, image, region) for row, image, regions in some for region in regions]
        if each:
            yield _Batch(
                [row.key for row, _, _ in each],
                [region.name for _, _, region in each],
                [_array(cut_box(image, region.box.tolist())) for _, image, region in each],
                _array(some[0][1]) if apart else None,
                np.stack([region.box for _, _, region in each]) if apart else None,
            )


def _said(reader: ImageReader, batch: _Batch, *, scene: bool, batch_size: int) -> Texts:
    crops = cast("list[ImageLike]", batch.crops)
    if not scene:
        return reader.read(crops, batch_size=batch_size)
    assert batch.whole is not None
    assert batch.boxes is not None
    looker = cast(SceneReader, reader)
    boxes = torch.from_numpy(batch.boxes).float().clamp(0, 1) if looker.settings["position"] else None
    index = [0] * len(crops)
    return looker.read(crops, scenes=[batch.whole], scene_index=index, boxes=boxes, batch_size=batch_size)


def _array(image: UInt8[Tensor, "3 h w"]) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def _least(least: list[Hit], batch: _Batch, found: Texts, truths: Sequence[str] | None, *, most: int) -> list[Hit]:
    """The least sure texts so far, the least sure first."""
    for row in np.argsort(found.confidence, kind="stable")[:most].tolist():
        sure = float(found.confidence[row])
        if len(least) == most and sure >= least[-1].score:
            break
        truth = None if truths is None else truths[row]
        meta = {"region": batch.places[row]} if batch.places else {}
        meta |= {} if truth is None else {"caption": truth}
        image = make_thumbnail(Row(batch.keys[row], batch.crops[row]), side=SIDE)
        word = found.words[row]
        least.append(
            Hit(batch.keys[row], sure, (word or "(nothing)",), image, meta, None if truth is None else word == truth)
        )
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
