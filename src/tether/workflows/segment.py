"""``tether segment``: the class of each pixel, from words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tether.adaptation.heads import Head
from tether.core.atomic_io import csv_file
from tether.core.component import build
from tether.core.errors import InputError, NotFiniteError, UnsupportedModelError
from tether.core.masks import BACKGROUND, NO_CLASS, Masks
from tether.core.model_digest import model_digest
from tether.core.palette import palette_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Share, Whole, checked
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.in_order import originals
from tether.data.mask_files import LabelFolder
from tether.evaluate.dense import DenseReport, MaskScores
from tether.evaluate.one_class import OneClass
from tether.models.features.windows import Windows
from tether.tasks.classify.prompts import classes_of
from tether.tasks.classify.remarks import alike_classes, unseen_words
from tether.tasks.segment import DenseSegmenter, Segmenter
from tether.tasks.segment.gallery import ShownMasks, gallery, shown_masks
from tether.workflows.apart import check_apart
from tether.workflows.mask_outputs import MaskOutputs, blank
from tether.workflows.methods import looked_at
from tether.workflows.models import Data, Model, Progress, opened, with_total
from tether.workflows.segmenters import segmenter_of

SHOWN = 60
"""Images of a page, at most."""
IN_NOTEBOOK = 6
"""Images that a notebook shows, at most."""
BATCH = 8
"""Images that are looked at together, at most; so many are lost when a run is stopped."""


@dataclass(frozen=True, repr=False)
class SegmentedImages:
    """The masks of a source's images.

    Attributes:
        keys: of the images, in order.
        masks: by key; with a folder they are read from it when they are asked for.
        areas: (n, k) share of each image that each class covers.
        like: masks of one pixel, which hold the classes and their colours.
        method: name of the segmenter.
        report: agreement with the labels, or None without them.
        one_class: what one class at every pixel would have, likewise.
        bad: images that could not be read or looked at.
        kept: masks that were in the folder already.
        unlabelled: images without a label; 0 without labels.
        shown: the first images, to look at.
        unseen: what is to be said of classes that are read alike, and of words that no caption of the model's run has.
    """

    keys: Sequence[str]
    masks: Mapping[str, Masks]
    areas: Float[np.ndarray, "n k"]
    like: Masks
    method: str
    report: DenseReport | None = None
    one_class: OneClass | None = None
    bad: int = 0
    kept: int = 0
    unlabelled: int = 0
    shown: Sequence[ShownMasks] = ()
    unseen: Sequence[str] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of their numbers."""
        return self.like.classes

    def mean_areas(self) -> dict[str, float]:
        """Mean share of an image that each class covers."""
        return dict(zip(self.classes, self.areas.mean(axis=0).tolist(), strict=True))

    def remarks(self) -> list[str]:
        """Classes to beware of; how well masks agree with the labels, and one class everywhere would."""
        if self.report is None or self.one_class is None:
            return [
                *self.unseen,
                "unmeasured: give --labels with the true classes of some images to see how good the masks are",
            ]
        without = f"; {self.unlabelled:,} images have no label" if self.unlabelled else ""
        first, *lines = self.report.lines()
        return [*self.unseen, f"{first}{without}", *lines, self.one_class.verdict(self.report)]

    def save_areas(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file of ``key`` and the share of the image, 0 to 1, for each class."""
        with csv_file(path, ["key", *self.classes], raw_csv=raw_csv) as table:
            for key, row in zip(self.keys, self.areas.tolist(), strict=True):
                table.write([key, *(f"{share:.6f}" for share in row)])

    def page(self, path: str | Path) -> Path:
        """Write the first images under their masks as one HTML file, with a legend."""
        report = self.report
        figures, bars, verdict = [], [], ""
        if report is not None:
            named = {"Mean IoU": report.miou, "Pixel accuracy": report.accuracy}
            if report.boundary_f1 is not None:
                named[f"Boundary F1, {report.tolerance} px"] = report.boundary_f1
            ends = "95 %: {:.1f} to {:.1f}"
            figures = [
                (what, f"{one.value:.1%}", ends.format(*(100 * end for end in one.interval)))
                for what, one in named.items()
            ]
            bars = [(name, one.value, one.interval) for name, one in report.iou.items()]
            verdict = self.remarks()[-1]
        few = f"the first {len(self.shown):,} of " if len(self.shown) < len(self.keys) else ""
        return gallery(
            self.shown,
            Path(path),
            like=self.like,
            areas=self.mean_areas(),
            note=f"{few}{len(self.keys):,} images, {len(self.classes)} classes, by {self.method}",
            remarks=self.remarks()[: len(self.unseen) + 1],
            verdict=verdict,
            figures=figures,
            bars=bars,
        )

    def __repr__(self) -> str:
        """How many images, and how much of them each class covers."""
        shares = sorted(self.mean_areas().items(), key=lambda one: -one[1])
        told = ", ".join(f"{name} {share:.0%}" for name, share in shares[:8])
        return f"SegmentedImages({len(self.keys):,} images by {self.method}: {told})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks())
        few = "".join(one.figure() for one in self.shown[:IN_NOTEBOOK])
        return f"{lines}<div style='display:flex;flex-wrap:wrap;gap:8px'>{few}</div><p>{escape(repr(self))}</p>"


@checked
def segment(
    source: Data,
    classes: str | Path | Sequence[str],
    *,
    model: Model,
    out: str | Path | None = None,
    using: str | Mapping[str, Any] | Segmenter | None = None,
    head: str | Path | Head | None = None,
    sharpen: str | Path | Head | None = None,
    background: str | Sequence[str] | None = None,
    templates: str | Path | Sequence[str] | None = None,
    windows: Windows | Mapping[str, Any] | None = None,
    labels: str | Path | None = None,
    no_class: int = NO_CLASS,
    tolerance: Whole = 2,
    boxes: bool = False,
    min_area: Share = 0.001,
    palette: str | Sequence[str] | Sequence[Sequence[int]] | None = None,
    shown: Whole = SHOWN,
    replace_masks: bool = False,
    raw_csv: bool = False,
    batch_size: Count = BATCH,
    workers: Whole = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> SegmentedImages:
    """Find the class of each pixel of images of any size, from the names of the classes alone.

    Args:
        source: what ``data.open_source`` takes.
        classes: names with commas between them, a text file with one on each line, or a list; two at least. The one
            called ``background`` stands for the rest: it is not painted and has no boxes.
        model: loaded, or a name that ``tether.load`` takes.
        out: folder for a palette PNG of each image, ``masks.json`` (COCO), ``areas.csv`` and, if wanted, ``boxes.csv``;
            a second call keeps masks of the same images, model and settings. None keeps masks in memory.
        using: a name of ``tasks.segment.SEGMENTERS``, with settings as ``values:least=0.3`` or a mapping, or a
            segmenter; None takes the one that ``head`` is for, else ``values`` where the image tower is a transformer,
            else ``tokens``.
        sharpen: what ``tether adapt --recipe sharpen`` made of this very model, or its folder; it says itself what a
            patch is, so it stands in place of ``using`` and ``head``.
        head: what ``tether adapt`` made of this very model, or its folder: by the recipe ``grouping`` for ``dinoiser``,
            by ``relation`` for ``excel``, by ``mask-text`` for ``mta``, by ``mask-aware`` for ``maft``.
        background: words for what is none of the classes; adds the class ``background``.
        templates: sentences with ``{}``, a name of a built-in set, or a file; None takes the model's own.
        windows: how images are looked at, or some settings of it; None takes the method's own way.
        labels: folder of PNG files with the true class numbers of images, in the order of ``classes``.
        no_class: the value of their pixels that have no class; classes are counted without it.
        tolerance: pixels that a boundary may be off.
        boxes: also write ``boxes.csv``, a box for each connected piece of a class.
        min_area: share of the image from which on a piece gets a box.
        palette: colours as ``#rrggbb``, one for each class; None takes some that everybody can tell apart.
        shown: images that are kept to be looked at.
        replace_masks: write masks in ``out`` anew that were made with other settings, in place of refusing.
        raw_csv: write cells of tables that a spreadsheet would run as formulas as they are.
        batch_size: images that are looked at together, at most.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept models without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.

    Raises:
        InputError: one class alone or one twice, too few colours, labels that do not fit, a folder with other masks,
            or not one good row.
        UnsupportedModelError: an encoder that shows no patches, or not as the method needs them.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.segment("scenes:rows=3,size=64", "circle,star,grass", model=model)
        >>> found.masks[found.keys[0]].size, found.areas.shape
        ((64, 64), (3, 3))
    """
    names = classes_of(classes)
    if len(names) == 1 and ";" in names[0]:
        raise InputError(f"classes: {names[0]!r} is one name; expected commas between names")
    rows = open_source(source, where="IMAGES")
    if boxes and out is None:
        raise InputError("--boxes: they are written to the folder of masks; give --out, or ask masks for their boxes()")
    check_apart(out, source, holds="images")
    check_apart(out, labels, holds="labels")
    encoder, called = opened(model, device=device, random_weights=random_weights)
    cast(nn.Module, encoder).eval()
    if sharpen is not None and (using is not None or head is not None):
        raise InputError("--sharpen: the sharpener says what a patch is; leave --with and --head out")
    segmenter, method = segmenter_of(
        using, encoder, head=head, sharpen=sharpen, background=background, templates=templates
    )
    try:
        segmenter.prepare(encoder, names, windows=_windows(windows, segmenter.own_windows))
    except UnsupportedModelError as error:
        if not (isinstance(segmenter, DenseSegmenter) and segmenter.looks_inside):
            raise
        raise UnsupportedModelError(
            f"--with {method}: {error}; leave --with out to use what this tower shows"
        ) from error
    classes = segmenter.classes
    like = blank(classes, None if palette is None else palette_of(palette, count=len(classes)))
    truths = None if labels is None else LabelFolder(labels, classes, no_class=no_class)
    scores = MaskScores(classes, tolerance=tolerance)
    outputs = MaskOutputs(
        out,
        like=like,
        settings={**segmenter.settings(), "model": model_digest(cast(nn.Module, encoder))},
        boxes=boxes,
        min_area=min_area,
        replace_masks=replace_masks,
        raw_csv=raw_csv,
    )
    progress = with_total(on_progress, rows)
    keys: list[str] = []
    areas: list[list[float]] = []
    small: list[ShownMasks] = []
    unlabelled = 0
    pixels = np.zeros(len(classes), dtype=np.int64)
    with outputs:
        bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
        for some, images in originals(rows, bad=bad, batch_size=batch_size, workers=workers):
            there = [outputs.find(row.key, image) for row, image in zip(some, images, strict=True)]
            look = partial(_masks_of, segmenter)
            for key, image, masks, old in looked_at(some, images, there=there, look=look, bad=bad):
                masks = replace(masks, palette=like.palette)
                outputs.put(key, masks, old=old)
                keys.append(key)
                areas.append(list(masks.areas().values()))
                truth = None if truths is None else truths.read(key, size=masks.size)
                unlabelled += truths is not None and truth is None
                if truth is not None:
                    scores.add(masks.labels, truth=truth)
                    pixels += np.bincount(truth.ravel(), minlength=NO_CLASS + 1)[: len(classes)]
                if len(small) < shown:
                    small.append(shown_masks(key, image, masks, truth=truth))
            if progress is not None:
                progress(len(keys), None)
        if not keys:
            raise InputError(f"{rows.name}: {bad.nothing_good()}")
        if truths is not None and unlabelled == len(keys):
            raise truths.nothing_for(keys)
        report = None if truths is None else scores.report()
        one_class = None if truths is None else OneClass.of(dict(zip(classes, pixels.tolist(), strict=True)))
        found = SegmentedImages(
            keys,
            outputs.masks,
            np.array(areas),
            like,
            method,
            report,
            one_class,
            bad.count,
            outputs.kept,
            unlabelled,
            small,
            _unseen(names, segmenter, model=encoder, called=called),
        )
        if outputs.folder is not None:
            found.save_areas(outputs.folder / "areas.csv", raw_csv=raw_csv)
    return found


def _unseen(names: Sequence[str], segmenter: Segmenter, *, model: DualEncoder, called: str) -> list[str]:
    """What to say of classes, unless their prompts were learnt."""
    if not isinstance(segmenter, DenseSegmenter) or segmenter.learns_texts:
        return []
    texts = [name for name in names if name != BACKGROUND or not segmenter.background]
    alike = []
    if len(segmenter.rows) == len(texts) + len(segmenter.background):  # without other words for them
        alike = alike_classes(texts, segmenter.rows[: len(texts)])
    return [*alike, *unseen_words([name for name in names if name != BACKGROUND], model=model, name=called)]


def _windows(given: Windows | Mapping[str, Any] | None, own: Windows) -> Windows:
    """How images are looked at: the method's own way, but for what is given."""
    if given is None or isinstance(given, Windows):
        return given or own
    wanted = {"name": "windows", **dataclasses.asdict(own), **given}
    return cast(Windows, build(wanted, {"windows": Windows}, where="windows", finite=True))


def _masks_of(segmenter: Segmenter, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[Masks]:
    """The masks of images, whose scores are numbers.

    Raises:
        NotFiniteError: some are not, and no class is the best of them.
    """
    found = segmenter.predict(images)
    if any(one.scores is not None and not np.isfinite(one.scores).all() for one in found):
        raise NotFiniteError("scores of classes are not finite: a model or a head with numbers that are too large")
    return found
