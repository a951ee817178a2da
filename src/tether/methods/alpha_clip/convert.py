"""Weights of Alpha-CLIP's released code into ours, and those of plain CLIPs of OpenAI's names, whose alpha is 0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.models.config_check import other_architecture
from tether.models.convert.open_clip import plain_names, rules
from tether.models.convert.rules import take
from tether.models.convert.weights import read_weights
from tether.models.towers.clip import Clip
from tether.models.towers.vision.alpha_stem import add_alpha_

_KERNEL = "visual.conv1_alpha.weight"
_PATCH = "visual.patch."


@torch.no_grad()
def load_alpha_clip_(model: Clip, weights: str | Path | Mapping[str, Tensor]) -> Clip:
    """Fill a model with the weights of an Alpha-CLIP; it takes alpha afterwards.

    Args:
        model: of the same sizes, for instance ``tether.load("open_clip:ViT-B-16/openai")``.
        weights: a safetensors file (a pickle is refused), or tensors by name: of a whole CLIP, or of the image tower
            alone, with or without ``visual.``; then texts stay as they are. Without ``conv1_alpha`` alpha is 0.

    Returns:
        The model.

    Raises:
        InputError: weights of another architecture; nothing is changed then.

    Example:
        >>> from tether.models import create
        >>> from tether.methods.alpha_clip.convert import load_alpha_clip_
        >>> from tether.models.convert.open_clip import rules
        >>> from tether.models.convert.rules import give
        >>> model, plain = create("tiny"), create("tiny")
        >>> load_alpha_clip_(model, give(plain.state_dict(), rules(plain.config))).visual.patch.alpha.abs().max().item()
        0.0
    """
    where = "weights" if isinstance(weights, Mapping) else str(weights)
    given = plain_names(weights if isinstance(weights, Mapping) else read_weights(local(weights)))
    if not any(name.startswith("visual.") for name in given):
        given = {f"visual.{name}": value for name, value in given.items()}
    given = {name.replace(".attn.in_proj.", ".attn.in_proj_"): value for name, value in given.items()}
    kernel = given.pop(_KERNEL, None)
    images = all(name.startswith("visual.") for name in given)
    wanted = [rule for rule in rules(model.config) if not images or rule.ours.startswith("visual.")]
    found = take(given, wanted, where=where)
    patch = found.pop(f"{_PATCH}weight")
    shape = (len(patch), patch.shape[1] // 3)
    found[f"{_PATCH}layer.weight"] = patch
    if kernel is None:
        kernel = patch.new_zeros(len(patch), 1, 1, shape[1])
    if kernel.ndim != 4 or kernel.shape[1] != 1:
        raise InputError(f"{where}: {_KERNEL}: expected (width, 1, patch, patch), got {tuple(kernel.shape)}")
    found[f"{_PATCH}alpha"] = kernel.flatten(1)
    own = dict(model.state_dict())
    if f"{_PATCH}weight" in own:
        own[f"{_PATCH}layer.weight"] = own.pop(f"{_PATCH}weight")
    own[f"{_PATCH}alpha"] = own[f"{_PATCH}layer.weight"].new_empty(shape)
    if problems := [
        f"{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in found.items()
        if value.shape != own[name].shape
    ]:
        raise other_architecture(problems, where=where)
    add_alpha_(model)
    model.load_state_dict(found, strict=False)
    return model
