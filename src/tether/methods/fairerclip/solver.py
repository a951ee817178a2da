"""The solves of FairerCLIP in turn: images, then texts and images again, each with the other side's codes held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError
from tether.methods.fairerclip.hsic import HsicMap, RandomFeatures, draw_features, hsic_solve, plus_minus


@dataclass(frozen=True)
class FairerKernels:
    """The random features of both sides: of embeddings, and of the other side's codes.

    Attributes:
        image: of image embeddings.
        text: of text embeddings.
        image_codes: of the text codes, as the image side sees them.
        text_codes: of the image codes, as the text side sees them.
    """

    image: RandomFeatures
    text: RandomFeatures
    image_codes: RandomFeatures
    text_codes: RandomFeatures


@dataclass(frozen=True)
class FairerSolve:
    """One of the solves in turn.

    Attributes:
        side: whose map was solved for.
        found: the map.
        codes: (n, k) codes of that side's training rows.
        labels: (n,) number of each row's class as this solve took it.
    """

    side: Literal["image", "text"]
    found: HsicMap
    codes: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"]


@dataclass(frozen=True)
class SolverSettings:
    """What the solves need of ``FairerClip``'s settings; see there.

    Attributes:
        n_features: random features of embeddings.
        n_code_features: random features of codes.
        dim: columns of a code.
        tau: weights of each side, ``image`` and ``text``.
        gamma: ridge of each side.
        sigma: width of the kernels.
        kernels: random features to use instead of drawing them.
    """

    n_features: int
    n_code_features: int
    dim: int
    tau: Mapping[str, tuple[float, float]]
    gamma: Mapping[str, float]
    sigma: float | Literal["median"]
    kernels: FairerKernels | None


class Solver:
    """Both sides' features, maps and codes while they are solved in turn."""

    def __init__(
        self,
        settings: SolverSettings,
        *,
        X: np.ndarray,
        text: np.ndarray,
        attribute: np.ndarray | None,
        rng: np.random.RandomState,
    ) -> None:
        """Hold both sides' rows; nothing is drawn yet."""
        self.settings, self.X, self.text, self.attribute, self.rng = settings, X, text, attribute, rng
        self.features: dict[str, RandomFeatures] = {}
        self.seen: dict[str, RandomFeatures] = {}
        if settings.kernels is not None:
            self.features = {"image": settings.kernels.image, "text": settings.kernels.text}
            self.seen = {"image": settings.kernels.image_codes, "text": settings.kernels.text_codes}
        self.maps: dict[str, np.ndarray] = {}
        self.codes: dict[str, np.ndarray] = {}
        self.solves: list[FairerSolve] = []

    def solve(self, side: Literal["image", "text"], labels: np.ndarray, *, other: np.ndarray | None) -> None:
        """Solve for one side's map with the other side's codes held."""
        settings, classes = self.settings, len(self.text)
        if len(np.unique(labels)) < 2:
            raise InputError("the labels, given or guessed, are all of one class: the codes cannot tell any two apart")
        x = self.X if side == "image" else self.text[labels]
        phi = self._draw(self.features, side, x, count=settings.n_features)(x)
        z = None if other is None else self._draw(self.seen, side, other, count=settings.n_code_features)(other)
        found = hsic_solve(
            phi,
            y=plus_minus(labels, classes=classes),
            s=self.attribute,
            z=z,
            tau=settings.tau[side],
            gamma=settings.gamma[side],
            dim=settings.dim,
        )
        directions = found.directions * _signs(phi @ found.directions, labels)
        codes = phi @ directions
        if other is not None and _opposed(codes[:, : found.rank], other[:, : found.rank]):
            directions, codes = -directions, -codes
        self.maps[side], self.codes[side] = directions, codes
        self.solves.append(FairerSolve(side, HsicMap(directions, found.eigenvalues, found.rank), codes, labels))

    def class_codes(self) -> np.ndarray:
        """Codes of the class texts."""
        return self.features["text"](self.text) @ self.maps["text"]

    def _draw(self, known: dict[str, RandomFeatures], side: str, x: np.ndarray, *, count: int) -> RandomFeatures:
        """The features of this side; drawn for the first rows they see, then kept."""
        if side not in known:
            known[side] = draw_features(x, count=count, width=self.settings.sigma, rng=self.rng)
        return known[side]


def cosines(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """Cosine of every row with every other; 0 where one has no length."""
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (a, b)]
    left, right = (rows / np.where(length > 0, length, 1) for rows, length in zip((a, b), lengths, strict=True))
    return left @ right.T


def _signs(codes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1 or -1 for each column, so that it grows with the number of the class."""
    together = (codes - codes.mean(axis=0)).T @ labels
    return np.where(together < 0, -1.0, 1.0)


def _opposed(codes: np.ndarray, other: np.ndarray) -> bool:
    """Whether more than half of the entries have the other sign."""
    return bool(codes.size) and bool((codes * other < 0).mean() > 0.5)
