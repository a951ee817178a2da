"""How usual each image and each caption is, and the strangest of both (arXiv 2505.06934)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.finding import Finding, Gallery, Item
from tether.core.ranges import Positive, checked
from tether.evaluate.inspect.context import Subject
from tether.evaluate.inspect.intervals import capitalised, exact
from tether.space.whiten import Whitener

LEAST_ROWS = 8
STRANGE = 6.0
"""Robust deviations above the median distance from which a row is called strange."""
_SHOWN = 12


@checked
@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Distance of each row from the mean once whitened; each half of the rows is judged by the other half.

    Rows that a whitener was fitted on look too likely while they are only a few times the dimensions, so no row is
    judged by one that knew it. The covariance is shrunk (Ledoit-Wolf), so few rows do not break it.

    Args:
        strange: robust deviations above the median from which a row counts as strange.
    """

    title = "Likelihood: the strangest images and captions"
    presupposes_skill = True
    strange: Positive = STRANGE

    def __call__(self, subject: Subject) -> Finding:
        """A remark when rows lie far off."""
        figures, drawings, counts, why = [], [], {}, []
        texts = [subject.seen.captions[at] for at in subject.distinct]
        for name, rows in (("image", subject.seen.image), ("caption", subject.seen.text)):
            if name == "caption":  # equal captions are one
                rows = rows[list(subject.distinct)]
            try:
                distance = strangeness(rows.double().numpy(), seed=subject.seed)
            except ValueError as error:
                why.append(f"{name}s: {error}")
                continue
            score = _robust(distance)
            counts[name] = int((score > self.strange).sum())
            order = np.argsort(-distance, kind="stable")[:_SHOWN]
            if name == "image":
                items = tuple(Item(int(row), subject.name_of(int(row)), f"{score[row]:+.1f}") for row in order)
            else:
                items = tuple(Item(None, texts[place], f"{score[place]:+.1f}") for place in order)
            drawings.append(Gallery(f"Strangest {name}s, in robust deviations", items))
            figures += [
                exact(f"strange {name}s", counts[name], unit="count"),
                exact(f"median distance of {name}s in standard deviations", float(np.median(distance))),
                exact(f"largest distance of {name}s", float(distance.max())),
            ]
        if not counts:
            raise InputError("; ".join(why))
        said = " and ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
        off = sum(counts.values())
        sentence = (
            f"{capitalised(said)} lie far from the rest." if off else "No image and no caption lies far from the rest."
        )
        if why:
            sentence += f" Not told: {'; '.join(why)}."
        return Finding(
            sentence,
            "note" if off else "good",
            tuple(figures),
            tuple(drawings),
            "Strange means unlike the other rows here, not wrong: a rare subject is strange too. Blur moves an image "
            "toward the mean and makes it look MORE usual.",
            "tether-lab reproduce w-clip; see docs/guides/geometry.md",
        )


def strangeness(rows: Float[np.ndarray, "n d"], *, seed: int) -> Float[np.ndarray, " n"]:
    """Distance from the mean in standard deviations, every row judged by the half of the rows that it is not in."""
    if len(rows) < LEAST_ROWS:
        raise InputError(f"expected at least {LEAST_ROWS} different rows, got {len(rows)}")
    halves = np.array_split(np.random.default_rng(seed).permutation(len(rows)), 2)
    found = np.empty(len(rows))
    for fitted, judged in (halves, halves[::-1]):
        whitener = Whitener(shrinkage="ledoit_wolf", corr_threshold=None).fit(rows[fitted])
        found[judged] = whitener.mahalanobis(rows[judged])
    return found


def _robust(values: np.ndarray) -> np.ndarray:
    """Deviations from the median in units of 1.48 median absolute deviations."""
    middle = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - middle))
    return (values - middle) / spread if spread > 0 else np.zeros_like(values)
