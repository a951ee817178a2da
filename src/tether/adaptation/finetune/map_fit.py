"""New maps for a composed encoder from its own pairs, in closed form; the towers rest, equal pairs give equal maps."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.maps import JoinedMaps

KEEPS = (0.0, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0)
SCALES = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0, 28.0, 40.0, 57.0, 80.0, 100.0)


@dataclass(frozen=True, slots=True)
class FittedMaps:
    """A composed encoder with new maps, and what was seen while it was fitted.

    Attributes:
        model: the encoder; it shares its towers with the one that it was made from.
        keep: weight of the earlier maps' part, 0 where they are left out.
        recall: text-to-image R@1, R@5 and R@10 on the pairs held out in turn, each fold a pool of its own.
        before: the same of the earlier maps.
        pool: images in a fold.
    """

    model: ComposedEncoder
    keep: float
    recall: tuple[float, float, float]
    before: tuple[float, float, float]
    pool: int


@dataclass(frozen=True, slots=True)
class _Affine:
    """Rows less ``mean``, times ``matrix``."""

    mean: Float[Tensor, " w"]
    matrix: Float[Tensor, "w d"]

    def __call__(self, rows: Float[Tensor, "n w"]) -> Float[Tensor, "n d"]:
        return F.normalize((rows - self.mean) @ self.matrix, dim=1)


class MapFit:
    """Regularised canonical correlation analysis of the two towers' rows, beside the maps that were there.

    The directions in which images and their texts vary together, each times its correlation, are the new part of the
    joint space; what the earlier maps gave is the other part, with the weight ``keep``. On few pairs the earlier part
    carries the model, on many the new one does; the weight is found by cross-validation unless given.

    Args:
        image_ridge: added to the images' covariance, in units of its trace over the number of images.
        text_ridge: the same of the texts.
        dim: most directions.
        keep: weight of the earlier maps; None finds it by cross-validation.
        folds: of the cross-validation, over images, drawn with a fixed seed: sorted data says nothing.
    """

    @checked
    def __init__(
        self,
        *,
        image_ridge: Positive = 3.0,
        text_ridge: Positive = 1.0,
        dim: Count = 256,
        keep: Annotated[float, Ge(0)] | None = None,
        folds: Annotated[int, Ge(2)] = 5,
    ) -> None:
        """Keep the settings."""
        self.image_ridge, self.text_ridge, self.dim, self.keep, self.folds = image_ridge, text_ridge, dim, keep, folds

    def fit(
        self,
        model: ComposedEncoder,
        images: Float[Tensor, "n w"],
        texts: Float[Tensor, "m t"],
        *,
        owners: Int[Tensor, " m"],
    ) -> FittedMaps:
        """New maps from rows of ``model.before_maps()``.

        Args:
            model: the encoder; it stays as it is.
            images: rows of the image tower.
            texts: rows of the text tower.
            owners: the image that each text belongs to; every image has at least one.

        Raises:
            InputError: rows that do not fit the towers or each other, or fewer images than four for each fold.
        """
        self._check(model, images, texts, owners)
        with torch.no_grad():
            earlier = _earlier(model, images, texts)
            rows = (images.double(), texts.double())
            fold = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)) % self.folds
            scores = []
            for number in range(self.folds):
                held, words = fold == number, fold[owners] == number
                image, text = self._maps(rows[0][~held], rows[1][~words], _renumbered(owners[~words], ~held))
                new = text(rows[1][words]) @ image(rows[0][held]).T
                old = earlier[1][words].double() @ earlier[0][held].double().T
                scores.append((new, old, _renumbered(owners[words], held)))
            choices = KEEPS if self.keep is None else (self.keep,)
            recalls = [_recall([(_mixed(new, old, keep), owner) for new, old, owner in scores]) for keep in choices]
            best = max(range(len(choices)), key=lambda place: sum(recalls[place]))
            keep = choices[best]
            found = [(_mixed(new, old, keep), owner) for new, old, owner in scores]
            made = self._joined(model, self._maps(*rows, owners), keep=keep, scale=_scale(found))
        before = _recall([(old, owner) for _, old, owner in scores])
        return FittedMaps(made, keep, recalls[best], before, pool=len(images) // self.folds)

    def _check(self, model: ComposedEncoder, images: Tensor, texts: Tensor, owners: Tensor) -> None:
        for side, rows, width in (
            ("images", images, model.parts.image.width),
            ("texts", texts, model.parts.text.width),
        ):
            if rows.ndim != 2 or rows.shape[1] != width:
                raise InputError(f"{side}: expected rows of the tower, (n, {width}), got {tuple(rows.shape)}")
        if len(images) < 4 * self.folds:
            raise InputError(f"images: expected at least {4 * self.folds} for {self.folds} folds, got {len(images)}")
        if owners.shape != (len(texts),) or not torch.equal(owners.unique().cpu(), torch.arange(len(images))):
            raise InputError(f"owners: expected the image of each of {len(texts)} texts, every image with one at least")

    def _maps(
        self, images: Float[Tensor, "n w"], texts: Float[Tensor, "m t"], owners: Int[Tensor, " m"]
    ) -> tuple[_Affine, _Affine]:
        """Both sides' directions, each times its correlation."""
        count, (image_mean, text_mean) = len(images), (images.mean(0), texts.mean(0))
        a, b = images - image_mean, texts - text_mean
        many = torch.bincount(owners, minlength=count)[:, None]
        own = torch.zeros(count, b.shape[1], dtype=b.dtype).index_add(0, owners, b) / many
        left = _whitening(a, self.image_ridge / count)
        right = _whitening(b, self.text_ridge / count)
        u, correlation, v = torch.linalg.svd(left @ (a.T @ own / count) @ right, full_matrices=False)
        kept = min(self.dim, count - 1, len(correlation))
        scaled = correlation[:kept]
        return (
            _Affine(image_mean, left @ u[:, :kept] * scaled),
            _Affine(text_mean, right @ v.T[:, :kept] * scaled),
        )

    def _joined(
        self, model: ComposedEncoder, maps: tuple[_Affine, _Affine], *, keep: float, scale: float
    ) -> ComposedEncoder:
        """The encoder with the new maps, beside the earlier ones where they are kept."""
        settings = {}
        for side, new in zip(("image", "text"), maps, strict=True):
            width, size = new.matrix.shape
            earlier = model.config[f"{side}_map"]
            parts = [{"kind": "linear", "width": width, "dim": size}, *([earlier] if keep else [])]
            dim, weights = size + (earlier["dim"] if keep else 0), [1.0, keep][: len(parts)]
            settings[side] = {"kind": "joined", "width": width, "dim": dim, "parts": parts, "weights": weights}
        made = ComposedEncoder(
            model.parts.image, model.parts.text, image_map=settings["image"], text_map=settings["text"]
        )
        sides = ((made.parts.image_map, model.parts.image_map), (made.parts.text_map, model.parts.text_map))
        for (joined, old), new in zip(sides, maps, strict=True):
            assert isinstance(joined, JoinedMaps)
            linear = joined.maps[0]
            assert isinstance(linear, nn.Linear)
            linear.weight.copy_(new.matrix.T)
            linear.bias.copy_(-(new.mean @ new.matrix))
            if keep:
                joined.maps[1] = copy.deepcopy(old)
        made.parts.logit_scale.fill_(torch.tensor(scale).log())
        return made.train(model.training)


def _earlier(model: ComposedEncoder, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Unit rows that the present maps give."""
    parts, device = model.parts, model.logit_scale.device
    return (
        F.normalize(parts.image_map(images.to(device)).cpu(), dim=1),
        F.normalize(parts.text_map(texts.to(device)).cpu(), dim=1),
    )


def _whitening(rows: Float[Tensor, "n w"], ridge: float) -> Float[Tensor, "w w"]:
    """The inverse square root of the covariance of centred rows, with ``ridge`` times its trace on the diagonal.

    Fewer rows than their width span few directions, which are found among the rows; all others have the ridge alone.
    """
    count, width = rows.shape
    values, vectors = torch.linalg.eigh((rows @ rows.T if count < width else rows.T @ rows) / count)
    values = values.clamp_min(0)
    floor = ridge * values.sum()
    root = (values + floor).rsqrt()
    if count >= width:
        return vectors * root @ vectors.T
    # root - floor**-0.5 over the value, in a form that stays finite where the value is 0
    spanned = -root * floor.rsqrt() / ((values + floor).sqrt() + floor.sqrt())
    directions = rows.T @ vectors
    return torch.eye(width, dtype=rows.dtype) * floor.rsqrt() + directions * (spanned / count) @ directions.T


def _mixed(new: Tensor, old: Tensor, keep: float) -> Tensor:
    """Cosines of two parts side by side."""
    return (new + keep**2 * old) / (1 + keep**2)


def _renumbered(owners: Int[Tensor, " m"], kept: Tensor) -> Int[Tensor, " m"]:
    """Numbers of images among those that are kept."""
    return (kept.cumsum(0) - 1)[owners]


def _recall(found: list[tuple[Tensor, Tensor]]) -> tuple[float, float, float]:
    """Text-to-image recall at 1, 5 and 10, over all folds; a tie counts against the query, as in ``evaluate``."""
    ranks = torch.cat([(scores >= scores.gather(1, owner[:, None])).sum(1) for scores, owner in found])
    first, five, ten = (float((ranks <= k).double().mean()) for k in (1, 5, 10))
    return first, five, ten


def _scale(found: list[tuple[Tensor, Tensor]]) -> float:
    """The logit scale under which held-out texts are likeliest to find their image."""

    def loss(scale: float) -> float:
        return sum(float(F.cross_entropy(scale * scores, owner, reduction="sum")) for scores, owner in found)

    return min(SCALES, key=loss)
