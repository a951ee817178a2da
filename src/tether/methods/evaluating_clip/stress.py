"""Whether an image's true caption still wins when a close distractor stands beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.evaluate.checks import checked_pair, checked_rows
from tether.evaluate.groups import Share, wilson


@dataclass(frozen=True, slots=True)
class StressTest:
    """Two lists of captions for the same images: without the close distractor, and with it.

    Attributes:
        plain: share right among the correct caption and the distant ones.
        stressed: share right once the close distractor is offered too; never above ``plain``.
        distracted: share for which the close distractor won.
    """

    plain: Share
    stressed: Share
    distracted: Share


def stress_test(
    image: Float[Tensor, "n d"],
    *,
    correct: Float[Tensor, "n d"],
    close: Float[Tensor, "n d"],
    others: Float[Tensor, "m d"],
) -> StressTest:
    """Top-1 accuracy with distant captions only, and with one near miss among them.

    A tie counts against the correct caption.

    Source: arXiv 2108.02818.

    Args:
        image: (n, d) unit images.
        correct: (n, d) unit caption that is true of each.
        close: (n, d) unit near miss of each.
        others: (m, d) unit captions that are true of none, offered to all.
    """
    image, correct = checked_pair(image, correct, paired="stress test")
    image, close = checked_pair(image, close, paired="stress test")
    others = checked_rows(others, name="others").to(image.dtype)
    if others.shape[1] != image.shape[1]:
        raise InputError(f"image and others differ in width: {tuple(image.shape)} and {tuple(others.shape)}")
    own, near = (image * correct).sum(dim=1), (image * close).sum(dim=1)
    far = (image @ others.T).amax(dim=1)
    n = len(image)
    return StressTest(
        plain=wilson(int((own > far).sum()), n=n),
        stressed=wilson(int((own > torch.maximum(far, near)).sum()), n=n),
        distracted=wilson(int(((near >= own) & (near >= far)).sum()), n=n),
    )
