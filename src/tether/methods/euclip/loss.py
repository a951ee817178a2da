"""The contrastive loss in any geometry, and with it the entailment of images by texts (EuCLIP, arXiv 2409.13079)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import LOCAL, Gather
from tether.core.geometry import (
    Geometry,
    GeometryName,
    check_curvature,
    factors,
    pairwise_similarity,
)
from tether.core.ranges import NonNegative, checked
from tether.core.types import Batch, Encoded, Loss
from tether.losses.checks import check_unit_pairs
from tether.losses.clip import batch_labels
from tether.losses.infonce import PairLosses, info_nce, info_nce_pairs
from tether.losses.reference import cross_entropy_rows
from tether.methods.euclip.entailment import check_origin, entailment


@dataclass(frozen=True, slots=True)
class GeometryTerms:
    """The parts of the loss, all 0-d.

    Attributes:
        total: contrastive and entailment.
        contrastive: mean of both directions.
        entailment: weighted; 0 where the weight is 0.
    """

    total: Float[Tensor, ""]
    contrastive: Float[Tensor, ""]
    entailment: Float[Tensor, ""]


@checked
def geometry_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    geometry: GeometryName = "euclidean-squared",
    curvature: Float[Tensor, ""] | float | None = None,
    entailment_weight: NonNegative = 0.0,
    min_radius: NonNegative = 0.1,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather = LOCAL,
) -> GeometryTerms:
    """Cross-entropy of ``logit_scale`` times the similarity, both ways, and the entailment of images by texts.

    Inner products and the squared Euclidean distance go through the tiled InfoNCE, so their B x B logits are never
    stored; the others store them. With ``gather`` the mean over processes is the loss of the whole batch.

    Source: arXiv 2409.13079, section 3.

    Args:
        img: points of the geometry, as ``core.geometry.place`` or a model gives them; row i and ``txt[i]`` are a pair.
        txt: points.
        logit_scale: multiplier of the similarity, already exponentiated.
        geometry: one of ``core.geometry.GEOMETRIES``.
        curvature: of a hyperbolic geometry.
        entailment_weight: 0 leaves the entailment out.
        min_radius: see ``entailment``.
        labels: equal for pairs that mean the same: each counts as a positive of the others.
        gather: rows of all processes.

    Raises:
        InputError: a missing curvature, entailment where the geometry has none, shapes that do not fit, or, for
            ``clip`` and ``elliptic`` on the CPU, rows whose length is not 1.

    Example:
        >>> import torch
        >>> from tether.core.geometry import place
        >>> from tether.methods.euclip import geometry_loss
        >>> image, text = (place(rows, geometry="euclidean-squared") for rows in torch.randn(2, 8, 64))
        >>> found = geometry_loss(image, text, 1.0, entailment_weight=0.2)
        >>> bool(torch.isclose(found.total, found.contrastive + found.entailment))
        True
    """
    losses = _both(img, txt, logit_scale, geometry=Geometry(geometry, curvature), labels=labels, gather=gather)
    contrastive = (losses.left + losses.right).mean() / 2
    away = torch.zeros_like(contrastive)
    if entailment_weight:
        each = entailment(txt, specific=img, geometry=geometry, min_radius=min_radius, curvature=curvature)
        away = entailment_weight * each.mean()
    return GeometryTerms(contrastive + away, contrastive, away)


def _both(
    img: Tensor, txt: Tensor, scale: Tensor | float, *, geometry: Geometry, labels: Tensor | None, gather: Gather
) -> PairLosses:
    """Losses of this process's pairs in both directions."""
    _check_pairs(img, txt, geometry=geometry)
    name, curvature = geometry.name, geometry.curvature
    both = factors(img, txt, geometry=name, curvature=curvature)
    if gather.world == 1:
        if both is not None:
            return info_nce_pairs(*both, scale=scale, labels=labels)
        logits = scale * pairwise_similarity(img, txt, geometry=name, curvature=curvature)
        left, right = (cross_entropy_rows(z, query_labels=labels, key_labels=labels) for z in (logits, logits.T))
        return PairLosses(left, right)
    offset, all_labels = gather.rank * len(img), None if labels is None else gather(labels)

    def one_way(queries: Tensor, keys: Tensor) -> Tensor:
        rows = factors(queries, keys, geometry=name, curvature=curvature)
        where = {"offset": offset, "query_labels": labels, "key_labels": all_labels}
        if rows is not None:
            return info_nce(*rows, scale=scale, **where)
        return cross_entropy_rows(
            scale * pairwise_similarity(queries, keys, geometry=name, curvature=curvature), **where
        )

    return PairLosses(one_way(img, gather(txt)), one_way(txt, gather(img)))


def _check_pairs(img: Tensor, txt: Tensor, *, geometry: Geometry) -> None:
    if geometry.unit:
        check_unit_pairs(img, txt)
        return
    shapes = f"image {tuple(img.shape)} and text {tuple(txt.shape)}"
    if img.ndim != 2 or img.shape != txt.shape:
        raise InputError(f"expected as many images as texts (b, d), of one width, got {shapes}")
    if len(img) == 0:
        raise InputError(f"expected at least one pair, got an empty batch: {shapes}")


@final
class GeometryLoss:
    """CLIP's objective in the geometry that the model has, exact across processes.

    The model says what its embeddings are compared with (``model: {geometry: euclidean-squared}``), so that training,
    retrieval and zero-shot cannot disagree.

    Source: arXiv 2409.13079, section 3.
    """

    @checked
    def __init__(
        self,
        *,
        geometry: GeometryName | None = None,
        entailment_weight: NonNegative = 0.0,
        min_radius: NonNegative = 0.1,
        final_min_radius: NonNegative | None = None,
        duplicates: Literal["negatives", "positives"] = "negatives",
    ) -> None:
        """Take the settings; the defaults are EuCLIP's for a model with that geometry.

        Args:
            geometry: what the model is expected to have, or None to take any.
            entailment_weight: 0 leaves the entailment out (the paper also tries 0.2).
            min_radius: K of the cones; 0 is no cone.
            final_min_radius: K at the end of the run, reached on a straight line; None keeps it, and so does the step
                ``skip_middle``, which knows no schedules.
            duplicates: pairs with equal captions are each other's ``negatives`` or ``positives``; what counts as equal
                is ``batch.extra["labels"]`` (b,), or the tokens where there is none.

        Raises:
            InputError: entailment in a geometry that has none.
        """
        if geometry is not None and entailment_weight:
            check_origin(geometry)
        self.geometry: GeometryName | None = geometry
        self.entailment_weight = entailment_weight
        self.min_radius, self.final_min_radius = min_radius, final_min_radius
        self.duplicates: Literal["negatives", "positives"] = duplicates

    def at(self, share: float) -> GeometryLoss:
        """The objective when ``share`` of the run is over, from 0 to 1: the cones may widen or narrow meanwhile."""
        if self.final_min_radius is None:
            return self
        return GeometryLoss(
            geometry=self.geometry,
            entailment_weight=self.entailment_weight,
            min_radius=self.min_radius + share * (self.final_min_radius - self.min_radius),
            duplicates=self.duplicates,
        )

    def __call__(self, out: Encoded, batch: Batch, *, gather: Gather) -> Loss:
        """The loss of this process's pairs; terms are both parts, the scale, and a curvature.

        Raises:
            InputError: the model has another geometry than this objective expects.
        """
        name, curvature = out.geometry.name, out.geometry.curvature
        if self.geometry not in (None, name):
            raise InputError(
                f"objective geometry: expected a model of geometry {self.geometry!r}, got {name!r}; "
                f"set model: {{geometry: {self.geometry}}}, or metrics would compare another way than training"
            )
        check_curvature(name, curvature)
        wide = torch.promote_types(out.image.pooled.dtype, torch.float32)
        image, text = (out.geometry.points(side.pooled.to(wide)) for side in (out.image, out.text))
        found = geometry_loss(
            image,
            text,
            out.logit_scale,
            geometry=name,
            curvature=curvature,
            entailment_weight=self.entailment_weight,
            min_radius=self.min_radius,
            labels=batch_labels(batch) if self.duplicates == "positives" else None,
            gather=gather,
        )
        terms = {
            "logit_scale": out.logit_scale.detach(),
            "contrastive": found.contrastive.detach(),
            "entailment": found.entailment.detach(),
        }
        if isinstance(curvature, Tensor):
            terms["curvature"] = curvature.detach()
        return Loss(found.total.to(wide), terms)
