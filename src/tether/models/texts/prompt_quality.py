"""How good a photo is by opposite prompts, such as "Good photo." against "Bad photo."."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Positive, checked
from tether.models.embed import encode_texts

PROMPTS: tuple[str, ...] = (
    *("Good photo.", "Bad photo.", "Sharp image.", "Blurry image.", "Sharp edges.", "Blurry edges."),
    *("High-resolution image.", "Low-resolution image.", "Noise-free image.", "Noisy image."),
    *("High-quality image.", "Low-quality image.", "Good picture.", "Bad picture."),
)
"""QualiCLIP's pairs, the good one first; its released code fuses two of them by a missing comma."""
SCALE = 100.0
"""Multiplier of cosines, as in CLIP."""


@checked
def checked_prompts(prompts: Sequence[str], *, where: str = "prompts") -> tuple[str, ...]:
    """Prompts good and bad in turn; ``where`` is what errors call them.

    Raises:
        InputError: an odd number, none, or one without words.
    """
    if len(prompts) < 2 or len(prompts) % 2:
        raise InputError(f"{where}: expected good and bad ones in turn, as many of each, got {prompts!r:.300}")
    if empty := [place for place, one in enumerate(prompts, 1) if not isinstance(one, str) or not one.strip()]:
        raise InputError(f"{where}: expected words, number {empty[0]} of {len(prompts)} has none")
    return tuple(prompts)


def prompt_rows(model: DualEncoder, prompts: Sequence[str] = PROMPTS) -> Float[Tensor, "t d"]:
    """Embeddings of the prompts, of length 1.

    Raises:
        UnsupportedModelError: a model that does not compare by cosine.
        InputError: see ``checked_prompts``.
    """
    if not geometry_of(model).unit:
        raise UnsupportedModelError(
            f"quality is asked by cosines, and this model compares by {geometry_of(model).name}"
        )
    return F.normalize(encode_texts(model, checked_prompts(prompts)), dim=1)


@checked
def prompt_quality(
    image: Float[Tensor, "n d"], text: Float[Tensor, "t d"], *, scale: Positive = SCALE, temperature: Positive = 1.0
) -> Float[Tensor, " n"]:
    """The mean over pairs of the softmax of a good and a bad prompt: 0 to 1, higher where a photo is better.

    An order of photos by one model, not a probability. Source: QualiCLIP (arXiv 2403.11176), released code; pyiqa's has
    temperature 2.

    Args:
        image: embeddings of any length.
        text: of the prompts, good and bad in turn, of any length.
        scale: multiplier of cosines.
        temperature: divisor of the logits.

    Raises:
        InputError: an odd number of prompts, widths that differ, or numbers that are not finite.

    Example:
        >>> import torch
        >>> from tether.models.texts.prompt_quality import prompt_quality
        >>> good, bad = torch.eye(2)
        >>> prompt_quality(torch.stack([good, bad, good + bad]), torch.stack([good, bad])).tolist()
        [1.0, 0.0, 0.5]
    """
    if image.ndim != 2 or text.ndim != 2 or not len(text) or len(text) % 2 or image.shape[1] != text.shape[1]:
        raise InputError(
            f"expected images (n, d) and an even number of prompts (2p, d), got {tuple(image.shape)} and "
            f"{tuple(text.shape)}"
        )
    if not (image.isfinite().all() and text.isfinite().all()):
        raise InputError("image, text: expected finite embeddings, got NaN or infinity")
    good, bad = F.normalize(text.to(image), dim=1).unflatten(0, (-1, 2)).unbind(1)
    return torch.sigmoid(scale / temperature * (F.normalize(image, dim=1) @ (good - bad).T)).mean(dim=1)
