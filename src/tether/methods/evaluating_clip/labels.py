"""Which labels a model gives to one group of images more often than to another, at a threshold of probability."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Inner, checked
from tether.evaluate.checks import checked_pair
from tether.evaluate.groups import Labels, coded
from tether.evaluate.holm import holm
from tether.evaluate.zero_shot import LOGIT_SCALE

LEAST_EXPECTED = 5.0
"""Below this expected count the chi-square test is not to be trusted, as textbooks have it since Cochran 1954."""


@dataclass(frozen=True, slots=True)
class LabelAssociation:
    """One label in two groups.

    Attributes:
        label: its name.
        frequency_a: fraction of group a's images that get it.
        frequency_b: fraction of group b's.
        difference: the first minus the second.
        chi2: Pearson's statistic without continuity correction, one degree of freedom; 0 where all or none get it.
        p: of the test that was asked for, this label alone.
        p_adjusted: for all labels together, by Holm or by Benjamini and Hochberg.
        least_expected: smallest expected count; below 5 chi-square is not to be trusted.
    """

    label: str
    frequency_a: float
    frequency_b: float
    difference: float
    chi2: float
    p: float
    p_adjusted: float
    least_expected: float


@dataclass(frozen=True, slots=True)
class LabelAssociations:
    """Every label, in the order given.

    Attributes:
        rows: one for each label.
        groups: the two that are compared, a and b.
        n: images of each.
        threshold: probability from which a label counts.
        classes: how many labels the probability is shared among; results depend on it.
        scale: what cosines were multiplied by; results depend on it.
        passed: mean number of labels that an image of the two groups gets.
    """

    rows: tuple[LabelAssociation, ...]
    groups: tuple[Hashable, Hashable]
    n: tuple[int, int]
    threshold: float
    classes: int
    scale: float
    passed: float

    def strongest(self, count: int = 10) -> tuple[LabelAssociation, ...]:
        """The labels with the largest statistic, the first of equals first."""
        return tuple(sorted(self.rows, key=lambda row: -row.chi2)[:count])


@checked
def label_association(
    image: Float[Tensor, "n d"],
    *,
    class_text: Float[Tensor, "c d"],
    group: Labels,
    pair: tuple[Hashable, Hashable],
    threshold: Inner,
    groups: Sequence[Hashable] | None = None,
    labels: Sequence[str] | None = None,
    test: Literal["chi2", "fisher", "auto"] = "chi2",
    adjust: Literal["holm", "benjamini_hochberg"] = "holm",
    scale: float = LOGIT_SCALE,
) -> LabelAssociations:
    """How often each label reaches a probability in one group and in another, and whether they differ.

    A softmax over c labels depends on c and on the scale: both are kept with the result, and only results with equal
    ones compare. A lower threshold lets more labels through, and worse ones.

    Source: arXiv 2108.02818, whose thresholds are 0.005 and 0.04.

    Args:
        image: (n, d) unit images.
        class_text: (c, d) unit label prompts.
        group: (n,) of each image.
        pair: the two groups to compare; images of others are left out.
        threshold: probability from which a label counts.
        groups: all there may be; one of the pair without an image then has n = 0 and NaN as frequencies. None takes
            those that occur.
        labels: (c,) names; None numbers them.
        test: ``chi2`` is the paper's, ``fisher`` exact, ``auto`` exact only where an expected count is below 5.
        adjust: of the p values, for there are as many tests as labels.
        scale: multiplier of cosines.
    """
    image, class_text = checked_pair(image, class_text)
    names = tuple(map(str, range(len(class_text)))) if labels is None else tuple(labels)
    if len(names) != len(class_text):
        raise InputError(f"labels: expected {len(class_text)} names, got {len(names)}")
    known, code = coded(group, name="group", known=groups)
    if len(code) != len(image):
        raise InputError(f"group: expected one for each of {len(image)} images, got {len(code)}")
    if pair[0] == pair[1] or any(one not in known for one in pair):
        raise InputError(f"pair: expected two of the groups {', '.join(map(str, known))}, got {pair!r}")
    passes = ((scale * image @ class_text.T).softmax(dim=1) >= threshold).cpu()
    sides = [passes[code == known.index(one)] for one in pair]
    n = (len(sides[0]), len(sides[1]))
    a, b = (side.sum(dim=0).numpy() for side in sides)
    often = [hits / size if size else np.full(len(names), np.nan) for hits, size in zip((a, b), n, strict=True)]
    chi2, least = _chi2(a, b, n=n)
    p = stats.chi2.sf(chi2, df=1)
    for place in range(len(names)):
        if test == "fisher" or (test == "auto" and least[place] < LEAST_EXPECTED):
            table = [[a[place], n[0] - a[place]], [b[place], n[1] - b[place]]]
            p[place] = stats.fisher_exact(table).pvalue
    together = holm(p) if adjust == "holm" else stats.false_discovery_control(p)
    rows = tuple(
        LabelAssociation(
            name,
            float(often[0][at]),
            float(often[1][at]),
            float(often[0][at] - often[1][at]),
            float(chi2[at]),
            float(p[at]),
            float(together[at]),
            float(least[at]),
        )
        for at, name in enumerate(names)
    )
    passed = float(torch.cat(sides).sum(dim=1).double().mean())
    return LabelAssociations(rows, pair, n, threshold, len(names), scale, passed)


def _chi2(a: np.ndarray, b: np.ndarray, *, n: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's statistic of each label's 2 x 2 table, and its smallest expected count."""
    yes, total = (a + b).astype(np.float64), sum(n)
    no = total - yes
    cross = a * (n[1] - b) - b * (n[0] - a).astype(np.float64)
    below = yes * no * n[0] * n[1]
    chi2 = np.divide(total * cross**2, below, out=np.zeros_like(yes), where=below > 0)
    return chi2, np.minimum(yes, no) * min(n) / max(total, 1)
