"""The contrastive loss of two linear towers without a softmax, for study: its minimum is known (arXiv 2310.04971)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Positive, checked


@checked
def linear_mmcl_loss(
    image: Float[Tensor, "n i"],
    *,
    text: Float[Tensor, "n t"],
    image_weights: Float[Tensor, "p i"],
    text_weights: Float[Tensor, "p t"],
    rho: Positive = 1.0,
) -> Float[Tensor, ""]:
    """How much more similar two linear towers find strangers than pairs, plus what keeps their product small.

    With ``s_ij = (W_I x_i) . (W_T t_j)`` it is ``sum over i != j of [(s_ij - s_ii) + (s_ji - s_ii)] / (2 n (n - 1))
    + rho / 2 * |W_I^T W_T|^2``. That equals ``-<S, W_I^T W_T> + rho / 2 * |W_I^T W_T|^2`` with S the cross-covariance
    of ``LinearMMCL``, so it is least where ``W_I^T W_T = S / rho``, or its best approximation of rank p. Without
    the last term it has no minimum. No n x n matrix is made.

    Source: arXiv 2310.04971, section 3 (the multi-modal form of a linear contrastive loss).

    Args:
        image: n >= 2 images as vectors; row i and ``text[i]`` are one pair.
        text: their captions as vectors.
        image_weights: of the image's tower, to p dimensions.
        text_weights: of the caption's tower, to the same.
        rho: weight of the last term.
    """
    n = len(image)
    shapes = " ".join(str(tuple(value.shape)) for value in (image, text, image_weights, text_weights))
    if not (image.ndim == text.ndim == image_weights.ndim == text_weights.ndim == 2) or len(text) != n:
        raise InputError(f"expected image (n, i), text (n, t) and weights (p, i), (p, t), got {shapes}")
    widths = image.shape[1] == image_weights.shape[1] and text.shape[1] == text_weights.shape[1]
    if not widths or len(image_weights) != len(text_weights):
        raise InputError(f"expected image (n, i), text (n, t) and weights (p, i), (p, t), got {shapes}")
    if n < 2:
        raise InputError(f"expected at least two pairs, for one has no stranger, got {n}")
    left, right = image @ image_weights.T, text @ text_weights.T
    own = (left * right).sum() / n
    every = left.mean(dim=0) @ right.mean(dim=0)
    gram = (image_weights @ image_weights.T) * (text_weights @ text_weights.T)
    return n / (n - 1) * (every - own) + rho / 2 * gram.sum()
