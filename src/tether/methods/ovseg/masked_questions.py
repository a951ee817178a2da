"""Which of all phrases names what is left of an image when the rest is blank."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.methods.ovseg.mask_prompts import encode_masked
from tether.methods.ovseg.masked_regions import MaskedPhrases
from tether.models.embed import encode_texts
from tether.models.towers.vision.mask_prompt_stem import prompts_of


@torch.no_grad()
@checked
def masked_hits(model: DualEncoder, found: MaskedPhrases, *, batch_size: Count = 64) -> Bool[Tensor, " n"]:
    """Whether each masked crop is nearest to its own phrase; a model with mask prompts is told what is blank.

    Args:
        model: any.
        found: crops of its size, with their phrases.
        batch_size: crops in one forward.
    """
    geometry, device = geometry_of(model).detached(), model.logit_scale.device
    told = prompts_of(cast(nn.Module, model)) is not None
    rows = []
    for crops, masks in zip(found.crops.split(batch_size), found.masks.split(batch_size), strict=True):
        pixels = crops.to(device)
        features = encode_masked(model, pixels, mask=masks.to(device)) if told else model.encode_image(pixels)
        rows.append(geometry.points(features.pooled.float()))
    text = geometry.points(encode_texts(model, found.phrases).float().to(device))
    return geometry.similarity(torch.cat(rows), text).argmax(dim=1).cpu() == found.labels
