"""Several findings in one image, from words alone: each is present or not by a pair of opposite prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import COSINE, Geometry, check_finite, geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, checked
from tether.core.types import Batch
from tether.models.embed import encode_images, encode_texts
from tether.tasks.classify.prompts import SLOT, checked_templates, classes_of
from tether.tasks.classify.zero_shot import weights_of_prompts

POSITIVE, NEGATIVE = ("{}", "findings consistent with {}"), ("no {}", "no evidence of {}")
"""Default prompts. Contrastive models understand negation poorly, so compare them with prompts that describe a normal
image."""

Pair = tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class PairScores:
    """Findings against images; each is asked for by itself, so rows do not sum to 1.

    Attributes:
        findings: the k names.
        probability: (b, k) of each finding, ``sigmoid(scale (positive - negative))``; an order of images and not a
            calibrated probability.
        positive: (b, k) similarity with the prompts that say so.
        negative: (b, k) similarity with the prompts that deny it.
        scale: multiplier of the difference.
    """

    findings: tuple[str, ...]
    probability: Float[Tensor, "b k"]
    positive: Float[Tensor, "b k"]
    negative: Float[Tensor, "b k"]
    scale: float

    def present(self, *, thresholds: float | Sequence[float]) -> Bool[Tensor, "b k"]:
        """Where the probability is at least the threshold, one for all or one for each finding."""
        limits = torch.as_tensor(thresholds, dtype=self.probability.dtype)
        if limits.ndim > 1 or (limits.ndim == 1 and len(limits) != len(self.findings)):
            raise InputError(f"thresholds: expected one, or {len(self.findings)}, got {tuple(limits.shape)}")
        return self.probability >= limits


@checked
def pair_scores(
    image: Float[Tensor, "b d"],
    *,
    positive: Float[Tensor, "k d"],
    negative: Float[Tensor, "k d"],
    scale: Positive,
    findings: Sequence[str] = (),
    geometry: Geometry = COSINE,
) -> PairScores:
    """``sigmoid(scale (cos_positive - cos_negative))``, the softmax over the two; findings are independent.

    Source: arXiv 2312.07353, on zero-shot classification.

    Args:
        image: embeddings of images, of any length.
        positive: one row for each finding, as ``weights_of_prompts`` makes it of several prompts.
        negative: as many.
        scale: multiplier of the difference, such as the model's logit scale.
        findings: names; empty numbers them.
        geometry: what embeddings are compared with.
    """
    if image.ndim != 2 or positive.ndim != 2 or positive.shape != negative.shape or positive.shape[1] != image.shape[1]:
        raise InputError(
            f"expected images (b, d) and as many positive as negative rows (k, d), got {tuple(image.shape)}, "
            f"{tuple(positive.shape)} and {tuple(negative.shape)}"
        )
    names = tuple(findings) or tuple(str(number) for number in range(len(positive)))
    if len(names) != len(positive):
        raise InputError(f"findings: expected {len(positive)} names, got {len(names)}")
    for name, rows in (("image", image), ("positive", positive), ("negative", negative)):
        if not rows.isfinite().all():
            raise InputError(f"{name}: holds NaN or infinity")
    points = geometry.points(image)
    said = geometry.similarity(points, geometry.points(positive.to(image)))
    denied = geometry.similarity(points, geometry.points(negative.to(image)))
    return PairScores(names, torch.sigmoid(scale * (said - denied)), said, denied, scale)


class PromptPairZeroShot:
    """Says of each finding whether an image shows it, without training; a ``core.protocols.TaskHead``.

    Attributes:
        findings: names, once prepared.
        positive: (k, d) points of the model's geometry that say so, once prepared.
        negative: (k, d) points that deny it.
        scale: multiplier of the difference of similarities: the model's own.
    """

    @checked
    def __init__(
        self,
        *,
        positive: Sequence[str] = POSITIVE,
        negative: Sequence[str] = NEGATIVE,
        own: Mapping[str, Pair] | None = None,
        batch_size: Count = 256,
    ) -> None:
        """Choose the prompts.

        Args:
            positive: sentences that say so, with ``{}`` where a finding's name goes.
            negative: sentences that deny it.
            own: whole sentences for and against some findings by name, instead of the templates.
            batch_size: prompts in one forward.
        """
        self._positive = checked_templates(positive, where="positive")
        self._negative = checked_templates(negative, where="negative")
        self._own = {} if own is None else {name: (tuple(yes), tuple(no)) for name, (yes, no) in own.items()}
        for name, (yes, no) in self._own.items():
            if not yes or not no:
                raise InputError(f"own: {name!r}: expected at least one sentence for and one against it")
        self.batch_size = batch_size
        self.findings: tuple[str, ...] = ()
        self.positive: Float[Tensor, "k d"] = torch.empty(0, 0)
        self.negative: Float[Tensor, "k d"] = torch.empty(0, 0)
        self.scale, self.geometry = 1.0, COSINE
        self._model: DualEncoder | None = None

    def prepare(
        self, model: DualEncoder, prompts: Sequence[str], *, support: Iterable[Batch] | None = None
    ) -> PromptPairZeroShot:
        """Encode the prompts of all findings once.

        Args:
            model: any model that ``tether.load`` gives.
            prompts: names of findings.
            support: must be None, as nothing is learnt.

        Returns:
            This head.
        """
        if support is not None:
            raise InputError("support: this head learns nothing from images; expected None")
        self.findings = classes_of(list(prompts))
        check_finite(model)
        if strange := [name for name in self._own if name not in self.findings]:
            raise InputError(f"own: sentences for {strange[0]!r}, which is not among {', '.join(self.findings)}")
        self.geometry = geometry_of(model).detached()
        self.positive, self.negative = (self._side(model, side) for side in (0, 1))
        self.scale, self._model = float(model.logit_scale.detach()), model
        return self

    def predict(self, image: Tensor) -> PairScores:
        """Scores of (b, 3, h, w) images, uint8 or normalised floats."""
        if self._model is None:
            raise InputError("PromptPairZeroShot: prepare(model, findings) comes before predict")
        return self.scores(encode_images(self._model, [image]))

    def scores(self, vectors: Float[Tensor, "b d"]) -> PairScores:
        """Scores of images that are already embedded."""
        return pair_scores(
            vectors.float(),
            positive=self.positive,
            negative=self.negative,
            scale=self.scale,
            findings=self.findings,
            geometry=self.geometry,
        )

    def _side(self, model: DualEncoder, side: int) -> Float[Tensor, "k d"]:
        templates = (self._positive, self._negative)[side]
        sentences = [
            self._own[name][side] if name in self._own else tuple(text.replace(SLOT, name) for text in templates)
            for name in self.findings
        ]
        rows = encode_texts(model, [text for some in sentences for text in some], batch_size=self.batch_size)
        parts = rows.split([len(some) for some in sentences])
        return torch.cat([weights_of_prompts(part[None], geometry=self.geometry) for part in parts])
