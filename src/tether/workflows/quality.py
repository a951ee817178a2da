"""``tether quality``: photos by how good they are, by prompts alone or by what the recipe ``quality`` has trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int

from tether.adaptation.heads import QualityHead
from tether.core.atomic_io import csv_file
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.in_order import originals
from tether.evaluate.imbalance import rank_correlation
from tether.models.texts.prompt_quality import PROMPTS, checked_prompts
from tether.tasks.quality import QualityScorer, sharpness
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.search import Hit
from tether.workflows.both_ends import both_ends
from tether.workflows.models import Data, Model, Progress, opened, with_total
from tether.workflows.search import figure
from tether.workflows.verdicts import verdict_of

SHOWN = 24
"""Images of each end that a notebook and a page show."""
AGREES = 0.5
"""Correlation with sharpness below which it is told that the two disagree."""
UNTRAINED = (
    "by the prompts alone, untrained: captions hardly speak of quality, so look before you trust; "
    "tether adapt --recipe quality trains on images alone"
)


@dataclass(frozen=True, repr=False)
class PhotoQuality:
    """Photos with two measures of each.

    Attributes:
        keys: of the n photos, in the order of their source.
        scores: (n,) 0 to 1, higher where a photo is better.
        sharpness: (n,) variance of the Laplacian, see ``tasks.quality.sharpness``.
        trained: whether a head gave the scores.
        bad: photos that could not be read.
        verdict: what the report of the trained head says of it; empty without.
        hits: the first and the last photos, to look at.
    """

    keys: tuple[str, ...]
    scores: Float[np.ndarray, " n"]
    sharpness: Float[np.ndarray, " n"]
    trained: bool
    bad: int = 0
    hits: Sequence[Hit] = ()
    verdict: str = ""

    @property
    def order(self) -> Int[np.ndarray, " n"]:
        """Numbers of the photos, the best first, equal ones in the order of the source."""
        return np.argsort(-self.scores, kind="stable")

    def remarks(self) -> list[str]:
        """What gave the scores, and what to beware of."""
        said = [f"by a trained head; {self.verdict}".removesuffix("; ") if self.trained else UNTRAINED]
        if (agree := self.agreement()) is not None and agree < AGREES:
            said.append(
                f"the order is not that of sharpness (Spearman's correlation {agree:.2f}): look at both columns; "
                "where blur is all that is wrong, sharpness is surer"
            )
        if len(self.keys) > 1 and np.ptp(self.scores) < 1e-6:
            said.append(
                f"all {len(self.keys):,} photos have one score: they are equal, or the model tells nothing apart"
            )
        return said

    def agreement(self) -> float | None:
        """Spearman's correlation of scores and sharpness; None where one of both does not vary."""
        return rank_correlation(self.scores, self.sharpness) if len(self.keys) > 2 else None

    def save(self, path: str | Path, *, raw_csv: bool = False) -> None:
        """Write a CSV file of ``rank`` (from 1), ``key``, ``score`` and ``sharpness``, the best first."""
        with csv_file(path, ["rank", "key", "score", "sharpness"], raw_csv=raw_csv) as table:
            for place, row in enumerate(self.order, start=1):
                table.write([place, self.keys[row], f"{self.scores[row]:.6f}", f"{self.sharpness[row]:.2f}"])

    def page(self, path: str | Path) -> Path:
        """Write a contact sheet of the best and the worst photos as one HTML file."""
        count, half = len(self.keys), len(self.hits) // 2
        ends, first = {"best first": self.hits}, {}
        if len(self.hits) < count:
            last = f"the last {half:,}"
            ends = {f"the first {half:,}": self.hits[:half], last: self.hits[half:]}
            first = {last: count - half + 1}
        return gallery(
            ends,
            Path(path),
            title="Quality of photos",
            note=f"{count:,} photos",
            remarks=self.remarks(),
            first=first,
            scores="Scores are from 0 to 1, the highest first: an order by one model, not probabilities",
            span=(0.0, 1.0),
        )

    def __repr__(self) -> str:
        """The ends of the order."""
        best, worst = self.order[0], self.order[-1]
        ends = f"{self.keys[best]} {self.scores[best]:.3f} ... {self.keys[worst]} {self.scores[worst]:.3f}"
        return f"PhotoQuality({len(self.keys):,} photos: {ends})"

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{escape(line)}</p>" for line in self.remarks())
        shown = "".join(figure(hit) for hit in self.hits)
        return f"{lines}<div style='display:flex;flex-wrap:wrap;gap:8px'>{shown}</div><p>{escape(repr(self))}</p>"


@checked
def quality(
    source: Data,
    *,
    model: Model,
    head: str | Path | QualityHead | None = None,
    prompts: Sequence[str] | None = None,
    grid: Count = 2,
    shown: Whole = SHOWN,
    batch_size: Count = 64,
    workers: Whole = 1,
    strict: bool = False,
    bad_rows: Path | None = None,
    random_weights: bool = False,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> PhotoQuality:
    """Score photos from 0 to 1 by opposite prompts, in parts of their own pixels, and measure how sharp they are.

    Args:
        source: what ``data.open_source`` takes.
        model: loaded, or a name that ``tether.load`` takes.
        head: folder of ``tether adapt --recipe quality``, or its head; ``model`` is then the model it gave.
        prompts: good and bad in turn, without a head; None takes ``models.texts.prompt_quality.PROMPTS``.
        grid: parts of a photo in each direction, see ``tasks.quality.native_windows``.
        shown: photos of each end that are kept to be looked at.
        batch_size: parts in one forward.
        workers: threads that decode ahead.
        strict: stop at the first bad row instead of skipping it.
        bad_rows: JSON-lines file that names the rows skipped; written anew.
        random_weights: accept a model without trained weights.
        device: where to load the model.
        on_progress: called with photos done and, where the source knows, photos in all.

    Raises:
        InputError: no photo, prompts beside a head, or a head of another model or recipe.
        UnsupportedModelError: a model that does not compare by cosine.

    Example:
        >>> import tether
        >>> model = tether.load("tiny", random_weights=True)
        >>> found = tether.quality("scenes:rows=5,size=64", model=model, shown=0)
        >>> len(found.scores), found.trained
        (5, False)
    """
    if head is not None and prompts is not None:
        raise InputError("prompts: a head has its own; leave them out")
    if prompts is not None:
        checked_prompts(prompts, where="--prompt")
    photos = open_source(source, where="IMAGES")
    encoder, _ = opened(model, device=device, random_weights=random_weights)
    cast(torch.nn.Module, encoder).eval()
    scorer = _scorer(encoder, head, prompts, grid=grid, batch_size=batch_size)
    bad = BadRows.anew(photos.name, path=bad_rows, strict=strict)
    progress = with_total(on_progress, photos)
    keys: list[str] = []
    scores: list[np.ndarray] = []
    sharp: list[float] = []
    for rows, images in originals(photos, bad=bad, batch_size=batch_size, workers=workers):
        keys += [row.key for row in rows]
        scores.append(scorer.score(images).double().cpu().numpy())
        sharp += [sharpness(image) for image in images]
        if progress is not None:
            progress(len(keys), None)
    if not keys:
        raise InputError(f"{photos.name}: {bad.nothing_good()}")
    found = PhotoQuality(tuple(keys), np.concatenate(scores), np.array(sharp), head is not None, bad.count)
    ranked = [(keys[row], float(found.scores[row])) for row in found.order]
    return replace(found, hits=both_ends(photos, ranked, shown=shown), verdict=verdict_of(head))


def _scorer(
    encoder: DualEncoder,
    head: str | Path | QualityHead | None,
    prompts: Sequence[str] | None,
    *,
    grid: int,
    batch_size: int,
) -> QualityScorer:
    if isinstance(head, QualityHead):
        head.check(encoder)
        return QualityScorer(encoder, head.prompts, scale=head.scale, text=head.text, grid=grid, batch_size=batch_size)
    if head is not None:
        return QualityScorer.load(head, encoder, grid=grid, batch_size=batch_size)
    return QualityScorer(encoder, PROMPTS if prompts is None else prompts, grid=grid, batch_size=batch_size)
