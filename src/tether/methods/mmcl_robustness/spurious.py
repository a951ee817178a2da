"""A world of vectors with a cue that deceives, and what contrastive learning scores in it (arXiv 2310.04971)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from jaxtyping import Float, Int

from tether.core.ranges import Count, Inner, NonNegative, Share, checked

Caption = Literal["rich", "class"] | tuple[Share, Share]
"""``rich`` says all, ``class`` only the class word; or the probabilities of saying the shape's and the cue's detail."""


@dataclass(frozen=True, slots=True)
class SpuriousPairs:
    """Pairs of the world.

    Attributes:
        image: (n, dim_image).
        text: (n, dim_text).
        label: (n,) the class, 0 or 1.
        cue: (n,) which class the cue speaks for, 0 or 1.
    """

    image: Float[np.ndarray, "n i"]
    text: Float[np.ndarray, "n t"]
    label: Int[np.ndarray, " n"]
    cue: Int[np.ndarray, " n"]


@dataclass(frozen=True, slots=True)
class SpuriousAccuracy:
    """Share told rightly.

    Attributes:
        minority: where the cue speaks for the other class.
        majority: where it speaks for the right one.
        ood: where it tells nothing, the mean of the two.
        id: as in training.
    """

    minority: float
    majority: float
    ood: float
    id: float


class SpuriousWorld:
    """Two classes, a core feature that varies within each, and a cue that hardly varies and mostly agrees.

    A label is +1 or -1. An image is made of ``z = (core, cue)`` with core ~ N(label, sigma_core^2) and cue ~
    N(a, sigma_cue^2), where a is the label with probability p and else its opposite; two orthogonal directions of a
    wide space carry them, with noise over everything. A caption is made of the same two values in a space of its own;
    what it does not say of the core it replaces by the label, and of the cue by nothing.

    The cue deceives a classifier because it varies so little: with ``sigma_cue`` near ``sigma_core`` there is nothing
    to see.

    Source: arXiv 2310.04971, data model 1 of section 4. In how a caption says less, the paper's masks are read as
    above.

    Args:
        dim_image: width of the images.
        dim_text: width of the captions.
        sigma_core: standard deviation of the core feature.
        sigma_cue: of the cue.
        noise: standard deviation of each coordinate; None takes 1 / sqrt(width) of either side.
        caption: what captions say.
        seed: of the directions, so that training and test share them.

    Attributes:
        class_text: (2, dim_text) prompts of class 0 and class 1, which say the label and nothing else.
    """

    @checked
    def __init__(
        self,
        *,
        dim_image: Annotated[int, Ge(2)] = 100,
        dim_text: Annotated[int, Ge(2)] = 50,
        sigma_core: NonNegative = 1.0,
        sigma_cue: NonNegative = 0.05,
        noise: NonNegative | None = None,
        caption: Caption = "rich",
        seed: int = 0,
    ) -> None:
        """Draw the directions."""
        self.sigma_core, self.sigma_cue = sigma_core, sigma_cue
        self._details = _details(caption)
        rng = np.random.default_rng(seed)
        self._image_axes, self._text_axes = (
            np.linalg.qr(rng.standard_normal((dim, 2)))[0].T for dim in (dim_image, dim_text)
        )
        self._noise = tuple(1 / math.sqrt(dim) if noise is None else noise for dim in (dim_image, dim_text))
        self.class_text: Float[np.ndarray, "2 t"] = np.outer([-1.0, 1.0], self._text_axes[0])

    @checked
    def draw(self, n: Count, *, p: Inner, rng: np.random.Generator) -> SpuriousPairs:
        """``n`` pairs in which the cue agrees with the class with probability ``p``; one half tells nothing."""
        label = rng.choice([-1.0, 1.0], size=n)
        cue = np.where(rng.random(n) < p, label, -label)
        z = np.stack([label, cue], axis=1) + rng.standard_normal((n, 2)) * [self.sigma_core, self.sigma_cue]
        says = rng.random((n, 2)) < self._details
        said = np.where(says, z, np.stack([label, np.zeros(n)], axis=1))
        image, text = (
            values @ axes + noise * rng.standard_normal((n, axes.shape[1]))
            for values, axes, noise in zip((z, said), (self._image_axes, self._text_axes), self._noise, strict=True)
        )
        return SpuriousPairs(image, text, (label > 0).astype(np.int64), (cue > 0).astype(np.int64))


@checked
def theory_accuracy(
    p: Inner, *, sigma_core: NonNegative, sigma_cue: NonNegative, caption: Caption = "rich"
) -> SpuriousAccuracy:
    """What linear contrastive learning scores zero-shot after endlessly many pairs of the world, exactly.

    An image is judged by ``u * core + v * cue`` with u the covariance of the core and what is said of it, ``1 +
    sigma_core^2`` when captions are rich and 1 when they only name the class, and v = ``2 p - 1`` that of the cue and
    the class. Noise that is independent on both sides adds nothing to the covariance; on the image it is neglected.

    Source: arXiv 2310.04971, theorem 4.1, in closed form.

    Args:
        p: probability that the cue agreed in training.
        sigma_core: standard deviation of the core feature.
        sigma_cue: of the cue.
        caption: what captions said.

    Example:
        >>> from tether.methods.mmcl_robustness import theory_accuracy
        >>> for caption in ("rich", "class"):  # in training the cue agrees in 95 of 100 images
        ...     found = theory_accuracy(0.95, sigma_core=1.0, sigma_cue=0.05, caption=caption)
        ...     print(caption, round(found.id, 2), round(found.ood, 2))  # as in training, and without the cue
        rich 0.92 0.82
        class 0.95 0.76
    """
    core, cue = 1 + _details(caption)[0] * sigma_core**2, 2 * p - 1
    spread = math.hypot(core * sigma_core, cue * sigma_cue)
    minority, majority = (_above_zero(core + side * cue, spread) for side in (-1, 1))
    return SpuriousAccuracy(minority, majority, (minority + majority) / 2, (1 - p) * minority + p * majority)


def _above_zero(mean: float, spread: float) -> float:
    """Probability that a normal variable of positive mean is positive."""
    return 1.0 if spread == 0 else 0.5 * (1 + math.erf(mean / spread / math.sqrt(2)))


def _details(caption: Caption) -> tuple[float, float]:
    if caption == "rich":
        return 1.0, 1.0
    if caption == "class":
        return 0.0, 0.0
    return caption
