"""Which parameters the image tower of an encoder has, whoever built it."""

from __future__ import annotations

import torch
from torch import nn

from tether.core.errors import InputError
from tether.models.dual import Clip
from tether.models.wrapped_encoders import WrappedEncoder


def image_parameters(model: Clip | WrappedEncoder) -> dict[str, nn.Parameter]:
    """Trainable parameters that a picture's embedding depends on, by name, in the model's order.

    Libraries name their towers as they like, so one blank picture is embedded and differentiated, in eval mode.

    Raises:
        InputError: none of them is trainable.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            blank = torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8, device=model.logit_scale.device)
            pooled = model.encode_image(blank).pooled.sum()
            if not pooled.requires_grad:
                raise InputError("the image tower has no trainable parameter")
            found = torch.autograd.grad(pooled, list(named.values()), allow_unused=True)
    finally:
        for part, mode in modes:
            part.training = mode
    return {name: parameter for (name, parameter), grad in zip(named.items(), found, strict=True) if grad is not None}
