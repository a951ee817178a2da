"""Whole CLIPs of EVA into ours: the image tower by EVA's names, the text tower by open_clip's, with one report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tether.core.atomic_io import local
from tether.core.errors import InputError
from tether.methods.eva_clip_18b.eva import EVA_RESIZING, LoadReport, load_tower_, unwrapped
from tether.models.config_check import other_architecture
from tether.models.convert.open_clip import plain_names, rules
from tether.models.convert.rules import take
from tether.models.convert.weights import read_weights
from tether.models.towers.clip import Clip
from tether.models.towers.positions import GridMethod
from tether.models.towers.vision.eva import EvaTower

_IMAGES = "visual."


@torch.no_grad()
def load_clip_(
    model: Clip, weights: str | Path | Mapping[str, Any], *, resize: GridMethod | None = EVA_RESIZING
) -> LoadReport:
    """Fill both towers and the scale with an EVA-CLIP of the released code or of open_clip.

    Args:
        model: one of EVA's sizes, such as ``create("eva02-b-16")``.
        weights: a safetensors file (a pickle is refused), or tensors by name, which may be those of a checkpoint's
            ``model``, ``module`` or ``state_dict``; the whole text tower must be there.
        resize: how the image tower's positions and patches of another size are resized; None refuses them.

    Returns:
        What became of all weights; names of the image tower begin with ``visual.``.

    Raises:
        InputError: an image tower alone, or weights of another architecture; nothing is changed then.

    Example:
        >>> from tether.models import create
        >>> from tether.methods.eva_clip_18b.eva_clip import load_clip_
        >>> from tether.models.convert.open_clip import rules
        >>> from tether.models.convert.rules import give
        >>> model = create("eva02-tiny")
        >>> texts = [rule for rule in rules(model.config) if not rule.ours.startswith("visual.")]
        >>> given = {**give(model.state_dict(), texts), "visual.cls_token": model.visual.class_token[None, None]}
        >>> report = load_clip_(model, given)
        >>> len(report.loaded), report.unexpected, report.missing[0]
        (31, (), 'visual.blocks.0.attn_pre.bias')
    """
    where = "weights" if isinstance(weights, Mapping) else str(weights)
    tower = model.visual
    if not isinstance(tower, EvaTower):
        raise InputError(f"{where}: expected a model with vision: {{tower: eva}}, got {type(tower).__name__}")
    given = plain_names(unwrapped(weights) if isinstance(weights, Mapping) else read_weights(local(weights)))
    images = {name: value for name, value in given.items() if name.startswith(_IMAGES)}
    if not images:
        raise InputError(
            f"{where}: expected a whole CLIP, names that begin with {_IMAGES}; got {next(iter(given), '')!r}"
        )
    wanted = [rule for rule in rules(model.config) if not rule.ours.startswith(_IMAGES)]
    known = {name for rule in wanted for name in rule.theirs}
    texts = take({name: given[name] for name in known & given.keys()}, wanted, where=where)
    own = model.state_dict()
    problems = [
        f"{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
        for name, value in texts.items()
        if value.shape != own[name].shape
    ]
    if problems:
        raise other_architecture(problems, where=where)
    found = load_tower_(tower, images, resize=resize)
    model.load_state_dict(texts, strict=False)
    return LoadReport(
        loaded=(*_visual(found.loaded), *texts),
        missing=_visual(found.missing),
        unexpected=(*_visual(found.unexpected), *sorted(given.keys() - images.keys() - known)),
        skipped=(),
        resized=_visual(found.resized),
    )


def _visual(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_IMAGES + name for name in names)
