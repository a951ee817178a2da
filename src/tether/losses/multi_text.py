"""LaCLIP-MT: CLIP's loss averaged over several texts of each picture."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.losses.clip import clip_loss


def multi_text_loss(
    img: Float[Tensor, "b d"],
    txt: Float[Tensor, "m b d"],
    logit_scale: Float[Tensor, ""] | float,
    *,
    labels: Int[Tensor, " b"] | None = None,
    gather: Gather | None = None,
) -> Float[Tensor, ""]:
    """The mean over m texts of CLIP's symmetric loss of the pictures and those texts; one text gives CLIP's loss.

    Texts of one picture are never candidates of each other. The text tower sees m times as many texts.

    Source: arXiv 2305.20088, section 4 ("multi-text"); how its parts are averaged is not published, so this is the
    plain mean.

    Args:
        img: rows of length 1.
        txt: for each of m texts its rows of length 1; ``txt[k, i]`` and ``img[i]`` are one pair.
        logit_scale: multiplier of the cosines, already exponentiated.
        labels: as in ``clip_loss``.
        gather: rows of all processes; None for this process alone.

    Raises:
        InputError: not (m, b, d) with m >= 1, or what ``clip_loss`` refuses.
    """
    if txt.ndim != 3 or len(txt) == 0:
        raise InputError(f"txt: expected (m, b, d) with m >= 1, got {tuple(txt.shape)}")
    return torch.stack([clip_loss(img, one, logit_scale, labels=labels, gather=gather) for one in txt]).mean()
