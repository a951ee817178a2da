"""``tether detect``: which images have a defect, and where, from words or from images without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from torch import nn

from tether.adaptation.heads import Head
from tether.core.anomaly_map import AnomalyMap
from tether.core.atomic_io import csv_file, local
from tether.core.errors import InputError
from tether.core.locks import locked
from tether.core.model_digest import model_digest
from tether.core.ranges import Count, Inner, Whole, checked
from tether.data import open_source
from tether.data.anomaly_files import DefectMasks
from tether.data.bad_rows import BadRows
from tether.data.bad_rows_log import kept_if_refused
from tether.data.in_order import originals
from tether.evaluate.anomaly import AnomalyReport, AnomalyScores
from tether.evaluate.groups import Share, wilson
from tether.tasks.anomaly import Detector, Learning
from tether.tasks.anomaly.gallery import ShownDefect, gallery, shown_defect
from tether.workflows.apart import check_apart
from tether.workflows.detectors import detector_of
from tether.workflows.good_images import GoodImages, GoodSource, pixel_digest
from tether.workflows.map_outputs import MapOutputs, check_report_folder
from tether.workflows.methods import looked_at
from tether.workflows.models import Data, Model, OnStage, Progress, opened, with_total
from tether.workflows.verdicts import verdict_of

SHOWN = 60
"""Images of a page, at most."""
IN_NOTEBOOK = 6
"""Images that a notebook shows, at most."""
BATCH = 32
"""Images that are looked at together, at most."""
MOST_GOOD = 500
"""Good images that are remembered, at most."""
COLUMNS = ("key", "score", "decision", "peak_x", "peak_y", "map")


@dataclass(frozen=True, repr=False)
class DetectedDefects:
    """How unusual a source's images are, and where.

    Attributes:
        keys: of the images, in order.
        scores: of each, 0 to 1, the higher the more unusual.
        maps: by key; with a folder they are read from it when they are asked for.
        peaks: (n, 2) pixel x, y of the most unusual place of each.
        files: names of the maps' files below the folder; empty without one.
        name: what the images show.
        method: name of the detector.
        span: values of no colour and of the full one, in all heat maps.
        good: what the images without defects gave: scores and a threshold.
        labels: by key whether an image's mask shows a defect; images without a mask are not there.
        report: agreement with the masks, or None without them.
        bad: images that could not be read or looked at.
        skipped: those and the good ones, each once where both are of one source.
        kept: maps that were in the folder already.
        among_good: images that are good images, too.
        defective_good: those of them whose mask shows a defect.
        verdict: what the report of a trained head says of it; empty without.
        shown: the most unusual images, to look at.
    """

    keys: Sequence[str]
    scores: Float[np.ndarray, " n"]
    maps: Mapping[str, AnomalyMap]
    peaks: Sequence[tuple[int, int]]
    files: Sequence[str]
    name: str
    method: str
    span: tuple[float, float]
    good: GoodImages = field(default_factory=GoodImages)
    labels: Mapping[str, bool] = field(default_factory=dict)
    report: AnomalyReport | None = None
    bad: int = 0
    skipped: int = 0
    kept: int = 0
    among_good: int = 0
    defective_good: int = 0
    verdict: str = ""
    shown: Sequence[ShownDefect] = ()

    def decisions(self) -> list[str]:
        """``defect`` or ``good`` for each image; empty words without a threshold."""
        threshold = self.good.threshold
        if threshold is None:
            return [""] * len(self.keys)
        return ["defect" if score > threshold.value else "good" for score in self.scores.tolist()]

    def alarms(self) -> tuple[Share, Share] | None:
        """Shares of defective and of normal images that are called defective; None without masks or threshold."""
        if self.good.threshold is None or not self.labels:
            return None
        said = dict(zip(self.keys, self.decisions(), strict=True))
        shares = []
        for label in (True, False):
            called = [said[key] == "defect" for key, one in self.labels.items() if one == label]
            shares.append(wilson(sum(called), n=len(called)))
        return shares[0], shares[1]

    def remarks(self) -> list[str]:
        """The threshold and its promise, how well it agrees with the masks, and what is missing."""
        good, told = self.good, [self.verdict] if self.verdict else []
        if good.threshold is not None:
            count = self.decisions().count("defect")
            told.append(f"{good.threshold}; {count:,} of {len(self.keys):,} images are above it")
        elif good.keys:
            told.append("no decisions: 1 good image gives no threshold; give --good with 2 or more")
        else:
            told.append("no decisions: give --good with images without defects, 19 or more for 5 % false alarms")
        if self.among_good:
            told.append(
                f"{self.among_good:,} of {len(self.keys):,} images are good images, too: their scores are too low, and "
                "the threshold promises nothing for them; keep --good apart"
            )
        if self.defective_good:
            told.append(f"{self.defective_good:,} good images have a defect by --masks; leave them out of --good")
        if good.more:
            told.append(f"of the good images the first {len(good.keys):,} were taken")
        if good.bad:
            told.append(f"{good.bad:,} good images could not be read")
        if self.report is None:
            return [*told, "unmeasured: give --masks with the defects of some images to see how good this is"]
        without = len(self.keys) - len(self.labels)
        first, *lines = self.report.lines()
        told += [
            f"{first}; {without:,} {'images have' if without > 1 else 'image has'} no mask" if without else first,
            *lines,
        ]
        if below := self.report.not_above_chance():
            told.append(f"NOT shown to be better than chance: {', '.join(below)}; {self._instead()}")
        if (alarms := self.alarms()) is not None:
            for what, share in zip(("defective", "normal"), alarms, strict=True):
                if share.n:
                    ends = f"{share.low:.0%} to {share.high:.0%}"
                    told.append(f"of {share.n:,} {what} images {share.rate:.0%} are called defective ({ends})")
            if all(share.n for share in alarms) and alarms[0].low <= alarms[1].rate:
                told.append("NOT shown to call defective images defective more often than normal ones")
        return told

    def _instead(self) -> str:
        """What to try where nothing is shown."""
        if not self.good.keys:
            return "try --good with images without defects, and --with patches"
        if self.method != "patches":
            return "try --with patches"
        return "try another --model, patches:size=N for small defects, or more images with masks"

    def save_scores(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file: key, score, decision, the most unusual place in pixels, and the map's file."""
        with csv_file(path, COLUMNS, raw_csv=raw_csv) as table:
            told = zip(self.keys, self.scores.tolist(), self.decisions(), self.peaks, self.files, strict=True)
            for key, score, decision, (x, y), file in told:
                table.write([key, f"{score:.8f}", decision, x, y, file])

    def page(self, path: str | Path) -> Path:
        """Write the most unusual images under their maps as one HTML file, the highest score first."""
        report, threshold = self.report, self.good.threshold
        figures = [] if report is None else list(_figures(report))
        few = f"the {len(self.shown):,} most unusual of " if len(self.shown) < len(self.keys) else ""
        return gallery(
            self.shown,
            Path(path),
            span=self.span,
            threshold=None if threshold is None else threshold.value,
            title=f"Defects: {self.name}",
            note=f"{few}{len(self.keys):,} images, by {self.method}",
            remarks=self.remarks(),
            figures=figures,
        )

    def __repr__(self) -> str:
        """How many images, and which are the most unusual."""
        best = np.argsort(-self.scores, kind="stable")[:5]
        told = ", ".join(f"{self.keys[number]} {self.scores[number]:.3f}" for number in best)
        return f"DetectedDefects({len(self.keys):,} images of {self.name} by {self.method}: {told})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks())
        few = "".join(one.figure(self.span) for one in self.shown[:IN_NOTEBOOK])
        return f"{lines}<div style='display:flex;flex-wrap:wrap;gap:8px'>{few}</div><p>{escape(repr(self))}</p>"


@checked
def detect(
    source: Data,
    *,
    model: Model,
    out: str | Path | None = None,
    good: Data | None = None,
    using: str | Mapping[str, Any] | Detector | None = None,
    head: str | Path | Head | None = None,
    name: str = "object",
    masks: str | Path | None = None,
    false_alarms: Inner | None = None,
    most_good: Count = MOST_GOOD,
    shown: Whole = SHOWN,
    replace_maps: bool = False,
    raw_csv: bool = False,
    batch_size: Count = BATCH,
    workers: Whole = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
    on_stage: OnStage | None = None,
) -> DetectedDefects:
    """Score images by how unusual they are, and say where, from words or from images without defects.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        out: folder for ``scores.csv``, ``index.html``, ``maps/KEY.tiff``, ``heat/KEY.png`` and, with good images,
            ``good.json`` and what a method learnt from them; a second call keeps maps of the same images, model, good
            images and settings. None keeps maps in memory.
        good: images without defects, as ``source``; they are remembered, and give a threshold.
        using: a name of ``tasks.anomaly.DETECTORS``, with settings as ``patches:size=448`` or a mapping, or a detector;
            None takes what ``head`` is for, else ``patches`` with ``good`` or where the image tower is no vision
            transformer, else ``winclip``.
        head: what ``tether adapt`` made of this very model by ``anomaly-prompts``, for ``anomalyclip``, or by
            ``anomaly-adapters``, for ``adaptclip``, or its folder.
        name: what the images show, such as ``magnetic tile``; ``winclip`` and ``clap`` read it.
        masks: folder of PNG files with the defects of images, black where there is none; an image without one is not
            measured.
        false_alarms: share of normal images that may be called defective; None takes 0.05, or what so many good images
            can promise.
        most_good: good images that are taken, at most; all that is read of them is held in memory.
        shown: images that are kept to be looked at, the most unusual ones.
        replace_maps: write maps in ``out`` anew that were made with other settings, in place of refusing.
        raw_csv: write cells of tables that a spreadsheet would run as formulas as they are.
        batch_size: images that are looked at together, at most.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped, of ``source`` and of ``good``; written anew.
        random_weights: accept models without trained weights.
        device: where to load the model.
        on_progress: called with images done and, where the source knows, images in all.
        on_stage: called so, too, with the name ``good`` while good images are looked at.

    Raises:
        InputError: no good images for a method that needs some, too few for ``false_alarms``, masks that do not fit, a
            head of another method, kind or model, a folder with other maps, or not one good row.
        LockedError: another process writes to ``out``.
        UnsupportedModelError: an encoder that the method cannot use.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> good = "scenes:rows=4,size=64"
        >>> found = tether.detect("scenes:rows=3,size=64", model=model, good=good, using="patches")
        >>> found.scores.shape, found.maps[found.keys[0]].pixels().shape, found.good.threshold.rate
        ((3,), (64, 64), 0.2)
    """
    rows = open_source(source, where="IMAGES")
    check_apart(out, source)
    check_apart(out, good, holds="good images")
    check_apart(out, masks, holds="masks")
    check_report_folder(out)
    known_rows = None if good is None else open_source(good, where="--good")
    truths = None if masks is None else DefectMasks(masks, where="--masks")
    made = detector_of(using, head=head, good=good is not None)
    if good is None and false_alarms is not None:
        raise InputError("--false-alarms: is promised by images without defects; give --good")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    cast(nn.Module, encoder).eval()
    detector, method = made(encoder)
    if detector.needs_good and good is None:
        raise InputError(f"--with: {method} compares with images without defects; give --good")
    detector.prepare(encoder, name)
    place = None if out is None else local(out)
    with nullcontext() if place is None else locked(place, purpose="tether detect"):
        with kept_if_refused(bad_rows):  # that of the run before names what its results lack
            bad, support = BadRows.anew(rows.name, path=bad_rows, strict=strict), None
            if known_rows is not None:
                support = GoodSource(
                    known_rows,
                    detector,
                    most=most_good,
                    rate=false_alarms,
                    batch_size=batch_size,
                    workers=workers,
                    bad=BadRows(known_rows.name, path=bad_rows, strict=strict),
                    on_progress=None if on_stage is None else partial(on_stage, "good"),
                )
            settings = {
                **detector.settings(),
                "model": model_digest(cast(nn.Module, encoder)),
                "good": support and support.digest,
            }
            outputs = MapOutputs(place, name=detector.name, settings=settings, replace_maps=replace_maps)
            outputs.check(rows)
        if isinstance(detector, Learning):
            detector.keep_in(outputs.folder)
        known = GoodImages()
        if support is not None:
            support.scores = outputs.good_scores(support.keys)
            known = support.images()
            outputs.put_good(known.keys[: len(known.scores)], known.scores)
        progress = with_total(on_progress, rows)
        keys, scores, peaks, labels = list[str](), list[float](), list[tuple[int, int]](), dict[str, bool]()
        top, measured, both = list[ShownDefect](), AnomalyScores(), list[str]()
        for some, images in originals(rows, bad=bad, batch_size=batch_size, workers=workers):
            there = [outputs.find(row.key, image) for row, image in zip(some, images, strict=True)]
            if support is not None and None in there:
                support.remember()
            for key, image, found, old in looked_at(some, images, there=there, look=detector.predict, bad=bad):
                truth = None if truths is None else truths.read(key, size=found.size)
                outputs.put(key, found, old=old)
                keys.append(key)
                scores.append(found.score)
                if support is not None and pixel_digest(image) in support.digests:
                    both.append(key)
                peaks.append(found.peak())
                if truth is not None:
                    labels[key] = bool(truth.any())
                    measured.add(found, mask=truth)
                if shown and (len(top) < shown or found.score > top[-1].found.score):
                    top.append(shown_defect(key, image, found, truth=truth))
                    top = sorted(top, key=lambda one: -one.found.score)[:shown]
            if progress is not None:
                progress(len(keys), None)
        if not keys:
            raise InputError(f"{rows.name}: {bad.nothing_good()}")
        if truths is not None and not labels:
            raise truths.nothing_for(keys)
        answer = DetectedDefects(
            keys=keys,
            scores=np.array(scores),
            maps=outputs.maps,
            peaks=peaks,
            files=[outputs.name_of(key) for key in keys],
            name=detector.name,
            method=method,
            span=outputs.span(),
            good=known,
            labels=labels,
            report=measured.report() if labels else None,
            bad=bad.count,
            skipped=bad.count + (known.bad if known_rows is not None and known_rows.name != rows.name else 0),
            kept=outputs.kept,
            among_good=len(both),
            defective_good=sum(labels.get(key, False) for key in both),
            verdict=verdict_of(head),
            shown=top,
        )
        if outputs.folder is not None:
            outputs.write_heat()
            answer.save_scores(outputs.folder / "scores.csv", raw_csv=raw_csv)
            answer.page(outputs.folder / "index.html")
    return answer


def _figures(report: AnomalyReport) -> Iterator[tuple[str, str, str]]:
    for name, one in zip(
        ("Image AUROC", "Average precision", "Pixel AUROC", f"AUPRO, {report.limit:.0%}"), report.figures(), strict=True
    ):
        if one.measured is not None:
            low, high = (100 * end for end in one.measured.interval)
            yield name, f"{one.measured.value:.1%}", f"95 %: {low:.1f} to {high:.1f}; chance {100 * one.chance:.1f}"
