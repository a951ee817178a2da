"""``tether caption``: a sentence for each image."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.atomic_io import csv_file
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Row
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.in_order import ordered
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts
from tether.tasks.caption.captioner import MADE_CAPTIONER, check_captioner
from tether.tasks.caption.nearest import NearestCaptions
from tether.tasks.caption.text_only import Captioned, Gap, TextOnlyCaptioner, Writing
from tether.tasks.retrieve.gallery import SIDE, gallery
from tether.tasks.retrieve.search import Hit
from tether.tasks.retrieve.vectors import make_thumbnail
from tether.workflows.adaptation.texts import open_texts
from tether.workflows.models import Data, Model, OnStage, Progress, opened, progress_of, with_total

SHOWN = 500
"""Images in a gallery, at most."""
LEAST_TOLD = 8
"""Images from which on captions that are alike are remarked upon."""
SHIFT_IMAGES = 1000
"""Images that a shift of means is taken from, at most."""


@dataclass(frozen=True)
class CaptionedImages:
    """What is said of a source's images.

    Attributes:
        keys: of the images, in order.
        captions: one for each, with its candidates.
        bad: images that could not be read.
        judged: (n,) cosine of each caption to its image by another model, or None.
        remarks: what a reader must know.
        thumbnails: JPEG bytes of the first images, where they were asked for.
    """

    keys: Sequence[str]
    captions: Sequence[Captioned]
    bad: int
    judged: Float[Tensor, " n"] | None = None
    remarks: Sequence[str] = ()
    thumbnails: Sequence[bytes | None] = ()

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file: ``key``, ``caption``, ``score``, ``candidates`` (JSON), ``judge`` where there is one.

        Args:
            path: of the file, written atomically.
            raw_csv: write cells that a spreadsheet would run as formulas as they are, not with an apostrophe.
        """
        columns = ["key", "caption", "score", "candidates", *(["judge"] if self.judged is not None else [])]
        with csv_file(path, columns, raw_csv=raw_csv) as table:
            for number, (key, one) in enumerate(zip(self.keys, self.captions, strict=True)):
                listed = json.dumps([[text, round(score, 6)] for text, score in one.candidates], ensure_ascii=False)
                cells = [key, one.caption, f"{one.score:.6f}", listed]
                table.write([*cells, *([] if self.judged is None else [f"{float(self.judged[number]):.6f}"])])

    def gallery(self, path: str | Path) -> Path:
        """Write one HTML page with the first images, their captions and candidates; it loads nothing from elsewhere."""
        judged = [None] * len(self.keys) if self.judged is None else [f"{one:.3f}" for one in self.judged.tolist()]
        hits = [
            Hit(key, one.score, tuple(dict.fromkeys((one.caption, *dict(one.candidates)))), image, {"judge": by})
            for key, one, image, by in zip(self.keys, self.captions, self.thumbnails, judged, strict=False)
        ]
        note = f"the first {len(hits):,} of {len(self.keys):,} images"
        return gallery({"Captions": hits}, Path(path), title="Captions", note=note, remarks=self.remarks)

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks)
        shown = [(key, one.caption, f"{one.score:.3f}") for key, one in zip(self.keys, self.captions, strict=True)]
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in cells) for cells in shown[:SHOWN])
        table = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"{lines}<table><tr><th>key</th><th>caption</th><th>score</th></tr>{table}</table>"


def caption(
    source: Data,
    *,
    model: Model,
    captioner: str | Path | TextOnlyCaptioner | None = None,
    texts: Data | Sequence[str] | None = None,
    candidates: int = 1,
    rerank: bool = True,
    sample: bool = False,
    longest: int = 32,
    shortest: int = 0,
    tone: str = "",
    regions: int = 0,
    gap: Gap = "noise",
    judge: Model | None = None,
    thumbnails: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
    on_stage: OnStage | None = None,
) -> CaptionedImages:
    """Write a caption of each image, or find the nearest of given ones.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        captioner: what ``tether adapt --recipe caption_from_texts`` made on this very model.
        texts: in place of a captioner, sentences to choose from: a list, a text file with one on each line, or any
            source of texts. A captioner that is no better is not worth its cost.
        candidates: written for each image, each from noise of its own; or nearest sentences that are listed.
        rerank: take the candidate that is nearest to the image, else the first.
        sample: draw tokens by chance, in place of a search for the likeliest caption.
        longest: most tokens of a caption.
        shortest: least tokens.
        tone: words that stand before each caption and are no part of it, such as ``a poem about``.
        regions: parts of the image that are told beside it; the release has 10.
        gap: see ``tasks.caption.Writing``; a shift is learnt from these images.
        judge: another model that scores each chosen caption too: the first one's own score is what it was chosen by.
        thumbnails: keep small images for ``gallery``.
        seed: of noise and sampling.
        batch_size: images in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept models without trained weights.
        device: where to load the models.
        on_progress: called with images done and, where the source knows, images in all.
        on_stage: called so, too, with the name of what else reads them: ``shift`` or ``judge``.

    Raises:
        InputError: neither captioner nor texts, or both; a captioner of another model; no texts; not one good row.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.caption("scenes:rows=5,size=64", model=model, texts=["a circle", "a square"])
        >>> len(found.captions)
        5
    """
    if captioner is None and texts is None:
        raise InputError(
            f"--captioner: expected the folder of a captioner ({MADE_CAPTIONER} makes one), or --texts with sentences "
            "to choose from"
        )
    if texts is not None:
        wanted = {"--captioner": captioner is not None, "--sample": sample, "--tone": bool(tone)}
        wanted |= {"--shortest": shortest > 0, "--regions": regions > 0, "--no-rerank": not rerank}
        if idle := [option for option, given in (wanted | {"--gap": gap != "noise"}).items() if given]:
            raise InputError(f"{idle[0]}: does not go with --texts, which are chosen from as they are; leave it out")
    if isinstance(captioner, (str, Path)):
        check_captioner(captioner, where="--captioner")
    rows = open_source(source, where="SOURCE")
    sentences = None if texts is None else sentences_of(texts)
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    judging = None if judge is None else opened(judge, device=device, random_weights=random_weights)[0]
    writing = Writing(
        n_noise=candidates, rerank=rerank, how="sample" if sample else "beams", longest=longest, shortest=shortest,
        prompt=tone, gap=gap, regions=regions,
    )  # fmt: skip
    if sentences is not None:
        written, remarks = _found(NearestCaptions(encoder, sentences), encoder, top=candidates)
    else:
        used = captioner
        if isinstance(captioner, (str, Path)):
            used = TextOnlyCaptioner.load(captioner, model=encoder)
        assert isinstance(used, TextOnlyCaptioner)
        if gap in ("shift", "both"):
            told = progress_of(on_stage, "shift", source=rows, limit=SHIFT_IMAGES)
            some = CachedEncoder(encoder).rows_of(
                rows, batch_size=batch_size, workers=workers, limit=SHIFT_IMAGES, on_progress=told
            )
            used.learn_shift_(torch.cat([image for _, image in some]))
        written, remarks = _written(used, writing, seed=seed)
    bad = BadRows.anew(rows.name, path=bad_rows, strict=strict)
    keys: list[str] = []
    found: list[Captioned] = []
    small: list[bytes | None] = []
    progress = with_total(on_progress, rows)
    batches = ordered(rows, image_spec=encoder.image_spec, batch_size=batch_size, workers=workers, on_bad=bad)
    for some, pixels in batches:
        keys += [row.key for row in some]
        found += written([row.key for row in some], pixels)
        if thumbnails:
            small += [make_thumbnail(row, side=SIDE) for row in some[: max(0, SHOWN - len(small))]]
        if progress is not None:
            progress(len(keys), None)
    if not keys:
        raise InputError(f"{rows.name}: {bad.nothing_good()}")
    if sentences is None:
        remarks = [*remarks, _variety(found)]
    judged = None
    if judging is not None:
        told = progress_of(on_stage, "judge", source=rows)
        judged = _judged(judging, rows, keys, found, batch_size=batch_size, workers=workers, on_progress=told)
    return CaptionedImages(keys, found, bad.count, judged, remarks, small)


def sentences_of(texts: Data | Sequence[str]) -> list[str]:
    """Sentences from a list, a text file with one on each line, or any source; empty lines of a file do not count.

    Raises:
        InputError: no such file or source, or nothing in it.
    """
    if isinstance(texts, (list, tuple)):
        return list(texts)
    source = open_texts(texts, where="--texts")  # pyrefly: ignore - lists are gone
    listed = (row for block in source.blocks() for row in source.read(block) if not row.bad)
    found = [text.strip() for row in listed for text in row.texts]
    if not any(found):
        raise InputError(f"--texts: {texts}: expected at least one sentence")
    return [text for text in found if text]


Write = Callable[[Sequence[str], Tensor], list[Captioned]]


def _found(nearest: NearestCaptions, model: DualEncoder, *, top: int) -> tuple[Write, list[str]]:
    reader = CachedEncoder(model)

    def write(keys: Sequence[str], pixels: Tensor) -> list[Captioned]:
        with torch.no_grad():
            return nearest(reader.encode_image(pixels.to(model.logit_scale.device)).pooled, top=top)

    return write, [f"Captions are the nearest of {len(nearest.texts):,} given sentences; none was written."]


def _written(captioner: TextOnlyCaptioner, writing: Writing, *, seed: int) -> tuple[Write, list[str]]:
    settings: dict[str, Any] = vars(writing)
    reason = captioner.without_regions if writing.regions else None

    def write(keys: Sequence[str], pixels: Tensor) -> list[Captioned]:
        return captioner.generate(pixels, keys=keys, seed=seed, **settings)

    return write, [] if reason is None else [reason]


def _variety(found: Sequence[Captioned]) -> str:
    """How many captions differ: a captioner that does not listen says the same of all images."""
    different = len({one.caption for one in found})
    hint = ""
    if len(found) >= LEAST_TOLD and different <= len(found) / 4:
        hint = ": it hardly listens to the image; give its training more steps or texts, or take --texts"
    return f"{different:,} different captions of {len(found):,} images{hint}"


def _judged(
    judge: DualEncoder,
    source: Source,
    keys: Sequence[str],
    found: Sequence[Captioned],
    *,
    batch_size: int,
    workers: int,
    on_progress: Progress | None = None,
) -> Float[Tensor, " n"]:
    """Cosine of each chosen caption to its image by another model, which reads the images once more."""
    rows: Iterator[tuple[list[Row], Tensor]] = CachedEncoder(judge).rows_of(
        source, batch_size=batch_size, workers=workers, on_bad=BadRows(source.name), on_progress=on_progress
    )
    seen = {row.key: vector for some, image in rows for row, vector in zip(some, image, strict=True)}
    image = torch.stack([seen.get(key, torch.full((judge.dim,), torch.nan)) for key in keys])
    return F.cosine_similarity(image, encode_texts(judge, [one.caption for one in found]), dim=1)
