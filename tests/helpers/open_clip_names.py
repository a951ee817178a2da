"""Our image tower with weights of open_clip's names, as files of published figures have them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tether.core.types import ImageSpec
from tether.models.blocks.block import BlockConfig
from tether.models.config import ModelConfig, TextConfig, VisionConfig
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import take
from tether.models.dual import Clip


def clip_of(weights: Mapping[str, Tensor], *, heads: int, activation: str = "gelu") -> Clip:
    """A float64 CLIP in eval mode whose image tower is this one, at the size that its positions say."""
    width, dim = weights["proj"].shape
    patch = int(weights["conv1.weight"].shape[-1])
    side = patch * round((len(weights["positional_embedding"]) - 1) ** 0.5)
    layers = len([name for name in weights if name.endswith("ln_1.weight")])
    hidden = len(weights["transformer.resblocks.0.mlp.c_fc.bias"])
    block = BlockConfig(activation=activation)
    sizes = {"width": int(width), "layers": layers, "heads": heads, "hidden": hidden, "block": block}
    vision = VisionConfig(image=ImageSpec((side, side)), patch=patch, **sizes)
    text = TextConfig(context=8, width=16, layers=1, heads=1, hidden=16, block=block)
    model = Clip(ModelConfig(dim=int(dim), vision=vision, text=text))
    model.initialise_(torch.Generator().manual_seed(0))
    model.double()
    wanted = [rule for rule in rules(model.config) if rule.ours.startswith("visual.")]
    given = {f"visual.{name}": value.double() for name, value in weights.items()}
    model.load_state_dict(take(given, wanted, where="figures"), strict=False)
    return model.eval()
