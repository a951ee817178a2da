"""Scores of images by words alone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.models.embed import encode_texts


def scores_by_text(
    model: DualEncoder, image: Float[Tensor, "n d"], *, by: str, against: str | None = None
) -> Float[Tensor, " n"]:
    """Similarity of images to a text, less that to its opposite where there is one.

    A contrastive model knows a text by what is in the image and hardly by how much of it, so "a badly damaged car"
    against "an undamaged car" says more than "how damaged".

    Args:
        model: that embedded them, any of ``tether.load``.
        image: embeddings, of any length.
        by: what a high image shows.
        against: what a low one shows.

    Raises:
        InputError: an empty text, or the same twice.

    Example:
        >>> import tether, torch
        >>> from tether.tasks.rank import scores_by_text
        >>> model = tether.load("tiny", random_weights=True)
        >>> scores_by_text(model, torch.randn(3, model.dim), by="many dogs", against="few dogs").shape
        torch.Size([3])
    """
    texts = [by] if against is None else [by, against]
    if not all(text.strip() for text in texts) or len(set(texts)) < len(texts):
        raise InputError(f"by, against: expected words, and different ones, got {texts!r:.200}")
    geometry = geometry_of(model).detached()
    found = geometry.similarity(geometry.points(image.float()), geometry.points(encode_texts(model, texts)))
    return found[:, 0] if against is None else found[:, 0] - found[:, 1]
