"""Which parameters each tower of an encoder has, whoever built it, and an image tower that nothing can move."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import checked
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode

Side = Literal["image", "text", "scale"]


@checked
def tower_parameters(model: Clip | WrappedEncoder, *, side: Side) -> dict[str, nn.Parameter]:
    """All floating-point parameters that one side's embedding depends on, frozen or not, by name, in order.

    Libraries name their towers as they like, so one blank image (or one short text) is embedded and differentiated,
    in eval mode.

    Args:
        model: any encoder of ``tether.load``; it is left as it was.
        side: ``image``, ``text``, or ``scale``, what the logit scale is made of.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.is_floating_point()}
    asked = [parameter.requires_grad for parameter in named.values()]
    try:
        for parameter in named.values():
            parameter.requires_grad_(True)
        with eval_mode(model), torch.enable_grad():
            reached = _answer(model, side)
            found = torch.autograd.grad(reached, list(named.values()), allow_unused=True)
    finally:
        for parameter, wanted in zip(named.values(), asked, strict=True):
            parameter.requires_grad_(wanted)
    return {name: parameter for (name, parameter), grad in zip(named.items(), found, strict=True) if grad is not None}


def _answer(model: Clip | WrappedEncoder, side: Side) -> Tensor:
    device = model.logit_scale.device
    if side == "image":
        blank = torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8, device=device)
        return model.encode_image(blank).pooled.sum()
    if side == "text":
        return model.encode_text(model.tokenizer(["a"]).to(device)).pooled.sum()
    return model.logit_scale.sum()


@contextlib.contextmanager
def freeze_image_tower(model: Clip | WrappedEncoder) -> Iterator[None]:
    """While inside, nothing moves what an image's embedding depends on: no gradient, no dropout, no batch statistics.

    Modules that hold parameters of the image tower alone are in eval mode; calling ``model.train()`` inside would undo
    that. Afterwards everything is as it was.

    Raises:
        UnsupportedModelError: both towers share parameters, so that no text could be learnt without moving images.
    """
    image, text = (tower_parameters(model, side=side) for side in ("image", "text"))
    shared = [name for name in image if name in text]
    if shared:
        raise UnsupportedModelError(
            f"expected an image tower of its own, but the towers share {len(shared)} parameters, among them {shared[0]}"
        )
    own = {id(parameter) for parameter in image.values()}
    modes: list[tuple[nn.Module, bool]] = []
    for part in model.modules():
        held = [parameter for parameter in part.parameters() if parameter.is_floating_point()]
        if held and all(id(parameter) in own for parameter in held):
            modes += [(module, module.training) for module in part.modules()]
    asked = [(parameter, parameter.requires_grad) for parameter in image.values()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in asked:
            parameter.requires_grad_(wanted)
        for module, mode in modes:
            module.training = mode


def image_parameters(model: Clip | WrappedEncoder) -> dict[str, nn.Parameter]:
    """Trainable parameters that an image's embedding depends on, by name, in the model's order.

    Raises:
        InputError: none of them is trainable.
    """
    found = {name: one for name, one in tower_parameters(model, side="image").items() if one.requires_grad}
    if not found:
        raise InputError("the image tower has no trainable parameter")
    return found
