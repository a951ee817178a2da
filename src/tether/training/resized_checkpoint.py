"""A checkpoint at the sizes of the next stretch of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tether.models.load import fill
from tether.training.checkpoints import Checkpoint
from tether.training.config import RunConfig
from tether.training.parts import new_encoder
from tether.training.stages import Stretch


@torch.no_grad()
def resized_checkpoint(checkpoint: Checkpoint, before: RunConfig, stretch: Stretch) -> Checkpoint:
    """The checkpoint of a stretch for one with images or texts of other sizes.

    The weights, their average and a teacher that trails them get positions of the new sizes, as ``resized`` gives them.
    The optimiser forgets what it knew of those that changed their shape.

    Args:
        checkpoint: of the last step of the stretch before.
        before: settings of that stretch.
        stretch: the one to come.
    """
    old = new_encoder(before)
    target: Any = new_encoder(stretch.config)
    sizes: dict[str, Any] = {"image_size": target.image_spec.size, "context": target.tokenizer.context_length}
    sizes["how"] = stretch.how
    weights = checkpoint.group("model")

    def at_new_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = {name: one for name, one in tensors.items() if name in weights and one.shape == weights[name].shape}
        fill(old, {**weights, **own}, where=checkpoint.where)
        made: dict[str, Tensor] = old.resized(**sizes).state_dict()
        changed = {name for name in own if made[name].shape != tensors[name].shape}
        return {name: made[name] if name in changed else tensor for name, tensor in tensors.items()}

    found = dict(checkpoint.tensors)
    for group in ("model", "ema", "teacher"):
        if group in found:
            found[group] = at_new_sizes(checkpoint.group(group))
    kept = {name for name, tensor in found["model"].items() if tensor.shape == weights[name].shape}
    resized = weights.keys() - kept
    moments = {key: tensor for key, tensor in found["optimizer"].items() if key.rpartition(".")[0] not in resized}
    return replace(checkpoint, tensors={**found, "optimizer": moments})
