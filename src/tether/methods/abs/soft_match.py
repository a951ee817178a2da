"""Views of an image against all descriptions of all classes, each view to those that it is like."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked


@checked
def soft_match(
    views: Float[Tensor, "*b v d"],
    *,
    descriptions: Float[Tensor, "c m d"],
    mask: Bool[Tensor, "c m"] | None = None,
    tau: Positive = 0.03,
    weights: Float[Tensor, "*b v"] | None = None,
) -> Float[Tensor, "*b c"]:
    """Scores of classes from views that are each compared with all descriptions of all classes.

    With s = product / tau and w the softmax of a view's s over *all* descriptions, a view gives a class the sum of
    w * s over the class's descriptions, and the views are added up. So descriptions that a view is unlike count for
    nothing, and more of other classes change the scores. In float32 or wider.

    Source: arXiv 2505.13233, released ``main.py``.

    Args:
        views: unit rows.
        descriptions: unit rows of each class, as many as the longest list has.
        mask: True where there is a description; None where all are.
        tau: temperature.
        weights: of the views; the release computes some and leaves them out.

    Raises:
        InputError: a class without a description, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from tether.methods.abs.soft_match import soft_match
        >>> texts = torch.tensor([[[1.0, 0.0], [0.6, 0.8]], [[0.0, 1.0], [0.0, 0.0]]])  # the second class has one
        >>> there = torch.tensor([[True, True], [True, False]])
        >>> soft_match(torch.tensor([[0.0, 1.0]]), descriptions=texts, mask=there).argmax().item()
        1
    """
    if views.ndim < 2 or descriptions.ndim != 3 or views.shape[-1] != descriptions.shape[2] or not len(descriptions):
        raise InputError(
            f"expected views (..., v, d) and descriptions (c, m, d), got {tuple(views.shape)} and "
            f"{tuple(descriptions.shape)}"
        )
    there = torch.ones(descriptions.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
    if there.shape != descriptions.shape[:2] or not there.any(1).all():
        raise InputError("mask: expected (c, m) with at least one description of each class")
    owners = there.nonzero()[:, 0].to(views.device)
    rows = descriptions.flatten(0, 1) if mask is None else descriptions[there.to(descriptions.device)]
    return matched(views, rows, owners, classes=len(descriptions), tau=tau, weights=weights)


def matched(
    views: Float[Tensor, "*b v d"],
    rows: Float[Tensor, "t d"],
    owners: Int[Tensor, " t"],
    *,
    classes: int,
    tau: float,
    weights: Tensor | None,
) -> Float[Tensor, "*b c"]:
    """``soft_match`` with all descriptions below each other, and the class number of each."""
    wide = torch.promote_types(torch.promote_types(views.dtype, rows.dtype), torch.float32)
    scores = views.to(wide) @ rows.to(views.device, wide).T / tau
    parts = scores.log_softmax(-1).exp() * scores
    of_class = parts.new_zeros(*parts.shape[:-1], classes).index_add(-1, owners, parts)
    return (of_class if weights is None else of_class * weights.to(wide)[..., None]).sum(-2)


def view_weights(views: Float[Tensor, "*b v d"], *, image: Float[Tensor, "*b d"]) -> Float[Tensor, "*b v"]:
    """Weights of an image's views: the softmax of e^4 times their cosine with the whole image."""
    return (math.exp(4) * F.cosine_similarity(views, image[..., None, :], dim=-1)).softmax(-1)
