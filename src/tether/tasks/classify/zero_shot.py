"""A classifier from words alone: one unit vector for each class, the mean of its prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry, check_finite, geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Share, checked
from tether.core.types import Batch
from tether.models.embed import Progress, encode_images, encode_texts
from tether.tasks.classify.calibrate import Calibration, fit_scale, labelled_scores
from tether.tasks.classify.descriptions import Descriptions, Mean, described_weights, descriptions_of, sentences_of
from tether.tasks.classify.prompts import SLOT, checked_templates, classes_of, own_templates

_ROUNDING = 1e-5
"""Numbers of rows of length 1 that differ by less are equal but for rounding."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Classes against images.

    Attributes:
        classes: the c class names.
        cosine: (b, c) similarity in [-1, 1]; for a model with another geometry, that geometry's.
        probability: (b, c) softmax of ``scale * cosine``; rows sum to 1.
        scale: multiplier of the cosine.
        calibrated: whether ``scale`` was fitted on labelled images; if not, it is the model's own, and the
            probabilities only order the classes of one image.
    """

    classes: tuple[str, ...]
    cosine: Float[Tensor, "b c"]
    probability: Float[Tensor, "b c"]
    scale: float
    calibrated: bool

    @checked
    def order(self, *, top: Count) -> Int[Tensor, "b k"]:
        """Class numbers of the ``top`` most similar, best first, ties to the first class; at most c of them."""
        return torch.argsort(self.cosine, dim=1, descending=True, stable=True)[:, :top]

    @checked
    def labels(self, *, abstain: Share = 0.0, above: float | None = None) -> tuple[str | None, ...]:
        """The best class of each image; None where its probability is below ``abstain`` or its cosine not ``above``."""
        best = self.order(top=1)
        sure = self.probability.gather(1, best)[:, 0] >= abstain
        if above is not None:
            sure &= self.cosine.gather(1, best)[:, 0] > above
        return tuple(
            self.classes[i] if yes else None for i, yes in zip(best[:, 0].tolist(), sure.tolist(), strict=True)
        )


def class_weights(
    model: DualEncoder,
    classes: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    batch_size: int = 256,
    on_progress: Progress | None = None,
) -> Float[Tensor, "c d"]:
    """One unit row for each class: its prompts' embeddings normalised, their mean, normalised again.

    That order is part of the definition (arXiv 2103.00020, section 3.1.4, released code). For a model in whose
    geometry lengths count it is the mean alone (2409.13079, released code). Each distinct prompt of all classes is
    encoded once, short ones beside short ones.

    Args:
        model: any model that ``tether.load`` gives.
        classes: c different names.
        templates: sentences with ``{}`` where the name goes; None takes those that suit the model.
        batch_size: prompts in one forward.
        on_progress: called with prompts done and prompts in all.

    Returns:
        (c, d) float32 on the CPU.
    """
    classes = classes_of(list(classes))
    templates = checked_templates(own_templates(model) if templates is None else templates, where="templates")
    prompts = [template.replace(SLOT, name) for name in classes for template in templates]
    vectors = encode_texts(model, prompts, batch_size=batch_size, on_progress=on_progress)
    geometry = geometry_of(model)
    weights = weights_of_prompts(vectors.view(len(classes), len(templates), -1), geometry=geometry)
    empty = weights.norm(dim=-1) == 0 if geometry.unit else torch.zeros(len(classes), dtype=torch.bool)
    if empty.any():
        raise InputError(f"class {classes[int(empty.nonzero()[0])]!r}: the mean of its prompts' vectors is zero")
    return weights


def read_alike(weights: Float[Tensor, "c d"]) -> list[list[int]]:
    """Groups of classes whose rows are equal but for rounding, so that nothing tells them apart.

    Args:
        weights: a row for each class.

    Example:
        >>> import torch
        >>> from tether.tasks.classify.zero_shot import read_alike
        >>> read_alike(torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
        [[0, 2]]
    """
    rows = weights.double() / weights.norm(dim=1).max()
    line = rows @ torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0)).double()
    order = line.argsort(stable=True)  # equal rows are neighbours on any line
    near = (rows[order[1:]] - rows[order[:-1]]).abs().amax(dim=1) < _ROUNDING
    groups = [[int(order[0])]]
    for place, same in zip(order[1:].tolist(), near.tolist(), strict=True):
        if same:
            groups[-1].append(place)
        else:
            groups.append([place])
    return sorted(sorted(group) for group in groups if len(group) > 1)


def weights_of_prompts(prompts: Float[Tensor, "c p d"], *, geometry: Geometry = COSINE) -> Float[Tensor, "c d"]:
    """One row for each class from the raw embeddings of its p prompts: normalise, mean, normalise.

    Where lengths count it is the mean.
    """
    if prompts.ndim != 3 or not all(prompts.shape):
        raise InputError(f"prompts: expected (classes, prompts, d), none of them 0, got {tuple(prompts.shape)}")
    bad = int((~prompts.isfinite().all(dim=-1)).sum())
    if bad:
        raise InputError(f"prompts: {bad} of {prompts.shape[0] * prompts.shape[1]} hold NaN or infinity")
    return geometry.points(geometry.points(prompts).mean(dim=1))


class ZeroShotClassifier:
    """Names images without training; a ``core.protocols.TaskHead``.

    Attributes:
        classes: names, once prepared.
        weights: (c, d) points of the model's geometry, once prepared: unit rows for the cosine.
        geometry: what they are compared with.
        scale: multiplier of the cosine, or of the geometry's similarity.
        calibration: how the scale was fitted, or None where it is the model's own.
    """

    @checked
    def __init__(
        self,
        *,
        templates: Sequence[str] | None = None,
        batch_size: Count = 256,
        descriptions: Descriptions | None = None,
        mean: Mean = "unit",
    ) -> None:
        """Choose the templates, or sentences for each class with their mean, and how many go into one forward."""
        if descriptions is not None and templates is not None:
            raise InputError("templates: the classes have descriptions, which are whole sentences; give one of the two")
        self.templates = None if templates is None else checked_templates(templates, where="templates")
        self.descriptions = None if descriptions is None else descriptions_of(descriptions)
        self.batch_size, self.mean = batch_size, mean
        self.classes: tuple[str, ...] = ()
        self.weights: Float[Tensor, "c d"] = torch.empty(0, 0)
        self.geometry = COSINE
        self.scale = 1.0
        self.calibration: Calibration | None = None
        self._model: DualEncoder | None = None

    def prepare(
        self, model: DualEncoder, prompts: Sequence[str], *, support: Iterable[Batch] | None = None
    ) -> ZeroShotClassifier:
        """Encode the classes once.

        Args:
            model: any model that ``tether.load`` gives.
            prompts: class names.
            support: labelled images on which the confidence is calibrated; ``extra["labels"]`` holds (b,) class
                numbers. Without them the model's own scale is used.

        Returns:
            This head.
        """
        self.classes = classes_of(list(prompts))
        check_finite(model)
        if self.descriptions is None:
            self.weights = class_weights(model, self.classes, templates=self.templates, batch_size=self.batch_size)
        else:
            texts = sentences_of(self.classes, descriptions=self.descriptions, templates=None, model=model)
            self.weights = described_weights(model, texts, batch_size=self.batch_size, mean=self.mean)
        self.geometry = geometry_of(model).detached()
        self.scale, self.calibration, self._model = float(model.logit_scale.detach()), None, model
        if support is not None:
            scored, labels = labelled_scores(support, lambda image: self._cosine(encode_images(model, [image])))
            self.calibration = fit_scale(scored, labels=labels, own=self.scale)
            self.scale = self.calibration.scale
        return self

    def predict(self, image: Tensor) -> Scores:
        """Scores of (b, 3, h, w) images, uint8 or normalised floats."""
        if self._model is None:
            raise InputError("ZeroShotClassifier: prepare(model, classes) comes before predict")
        return self.scores(encode_images(self._model, [image]))

    def scores(self, vectors: Float[Tensor, "b d"]) -> Scores:
        """Scores of images that are already embedded."""
        cosine = self._cosine(vectors)
        return Scores(
            classes=self.classes,
            cosine=cosine,
            probability=F.softmax(self.scale * cosine, dim=1),
            scale=self.scale,
            calibrated=self.calibration is not None,
        )

    def _cosine(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        points = self.geometry.points(vectors.float())
        if self.descriptions is not None and self.mean == "raw" and self.geometry.unit:
            return points @ self.weights.T  # whose length says how much the sentences of a class agree
        return self.geometry.similarity(points, self.weights)
