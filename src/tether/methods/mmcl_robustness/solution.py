"""Contrastive learning of pairs with linear towers, solved instead of trained (arXiv 2310.04971)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, check_values
from tether.space.serialisation import FittedState
from tether.space.validation import checked_rows


class LinearMMCL(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FittedState):
    """The two linear towers that the linear contrastive loss is least for, from one singular value decomposition.

    ``linear_mmcl_loss`` of pairs depends on the towers only through the product ``G = W_I^T W_T``, and is
    least at ``G = S / rho`` with S the cross-covariance of images and captions, or at its best approximation of the
    rank allowed. So an image feature counts as much as it varies together with a caption feature, also within a
    class, while a classifier takes whatever separates best. What captions leave out cannot count.

    Source: arXiv 2310.04971, section 3. Scores are of centred rows, which classes that are not each other's mirror
    need.

    Args:
        rank: of G; None allows any.
        rho: weight of the loss's last term; it scales G and changes no ranking.

    Attributes:
        cross_cov_: (d_image, d_text) S, with n - 1.
        G_: (d_image, d_text) the minimiser.
        image_encoder_: (d_image, r) such that ``G_ = image_encoder_ @ text_encoder_.T``; the sign of a column is
            arbitrary.
        text_encoder_: (d_text, r).
        mean_image_: (d_image,) mean of the images.
        mean_text_: (d_text,) mean of the captions.
        loss_: the loss at the minimum.
        n_features_in_: d_image.
    """

    n_features_in_: int
    _format = "tether-linear-mmcl-1"
    _state = ("mean_image_", "mean_text_", "cross_cov_", "image_encoder_", "text_encoder_", "loss_")

    def __init__(self, *, rank: Count | None = None, rho: Positive = 1.0) -> None:
        """See the class for what each argument means; values are checked by ``fit``."""
        self.rank = rank
        self.rho = rho

    def fit(self, X: Float[np.ndarray, "n i"], y: Float[np.ndarray, "n t"]) -> LinearMMCL:
        """Solve for (n, d_image) images ``X`` and their captions ``y``, (n, d_text) or (n,).

        Raises:
            ValueError: NaN or infinity, fewer than two pairs, or unequal numbers.
            InputError: a setting out of range, or images and captions that do not vary together at all.
        """
        check_values(type(self).__init__, vars(self))
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: the captions of the images")
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=2)
        text = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        self.mean_image_, self.mean_text_ = X.mean(axis=0), text.mean(axis=0)
        self.cross_cov_ = (X - self.mean_image_).T @ (text - self.mean_text_) / (len(X) - 1)
        if not self.cross_cov_.any():
            raise InputError("images and captions do not vary together: every one is alike on one side")
        left, values, right = np.linalg.svd(self.cross_cov_, full_matrices=False)
        kept = values[: self.rank]
        root = np.sqrt(kept / self.rho)
        self.image_encoder_, self.text_encoder_ = left[:, : len(kept)] * root, right[: len(kept)].T * root
        self.loss_ = -float(np.sum(kept**2)) / (2 * self.rho)
        return self

    @property
    def G_(self) -> Float[np.ndarray, "i t"]:  # noqa: N802 - the paper's letter
        """The minimiser ``W_I^T W_T``."""
        check_is_fitted(self, "image_encoder_")
        return self.image_encoder_ @ self.text_encoder_.T

    def transform(self, X: Float[np.ndarray, "n i"]) -> Float[np.ndarray, "n r"]:
        """Embeddings of (n, d_image) images; inner products with ``embed_text`` are the similarities."""
        check_is_fitted(self, "image_encoder_")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return (X - self.mean_image_) @ self.image_encoder_

    def embed_text(self, texts: Float[np.ndarray, "m t"]) -> Float[np.ndarray, "m r"]:
        """Embeddings of (m, d_text) captions."""
        check_is_fitted(self, "image_encoder_")
        rows = checked_rows(texts, name="texts", least=0, width=len(self.mean_text_), zeros=True)
        return (rows - self.mean_text_) @ self.text_encoder_

    def similarity(self, X: Float[np.ndarray, "n i"], *, texts: Float[np.ndarray, "m t"]) -> Float[np.ndarray, "n m"]:
        """``(x - mean)^T G (t - mean)`` of every image with every caption."""
        return self.transform(X) @ self.embed_text(texts).T

    def predict_zero_shot(
        self, X: Float[np.ndarray, "n i"], *, class_text: Float[np.ndarray, "c t"]
    ) -> Int[np.ndarray, " n"]:
        """Place of the most similar of at least two class prompts for each image; ties go to the first."""
        if len(class_text) < 2:
            raise InputError(f"class_text: expected at least two classes to tell apart, got {len(class_text)}")
        return self.similarity(X, texts=class_text).argmax(axis=1)

    @property
    def _n_features_out(self) -> int:
        return self.image_encoder_.shape[1]

    def __sklearn_tags__(self) -> Tags:
        """It cannot be fitted without captions, which may have several coordinates."""
        tags = super().__sklearn_tags__()  # pyrefly: ignore - BaseEstimator, further on, has it
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags
