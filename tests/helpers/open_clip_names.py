"""Our towers with weights of open_clip's names, as files of published figures have them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tether.core.types import ImageSpec
from tether.models.convert.open_clip import rules
from tether.models.convert.rules import take
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig, TextConfig, VisionConfig


def clip_of(
    weights: Mapping[str, Tensor],
    *,
    heads: int,
    activation: str = "gelu",
    text: Mapping[str, Tensor] | None = None,
    text_heads: int = 1,
) -> Clip:
    """A float64 CLIP in eval mode whose image tower is this one, at the size that its positions say; likewise texts."""
    width, dim = weights["proj"].shape
    patch = int(weights["conv1.weight"].shape[-1])
    side = patch * round((len(weights["positional_embedding"]) - 1) ** 0.5)
    layers = _layers(weights)
    hidden = len(weights["transformer.resblocks.0.mlp.c_fc.bias"])
    block = BlockConfig(activation=activation)
    sizes = {"width": int(width), "layers": layers, "heads": heads, "hidden": hidden, "block": block}
    vision = VisionConfig(image=ImageSpec((side, side)), patch=patch, **sizes)
    words = {"context": 8, "width": 16, "layers": 1, "heads": 1, "hidden": 16}
    if text is not None:
        context, words_width = text["positional_embedding"].shape
        words = {"context": int(context), "width": int(words_width), "layers": _layers(text), "heads": text_heads}
        words["hidden"] = len(text["transformer.resblocks.0.mlp.c_fc.bias"])
    model = Clip(ModelConfig(dim=int(dim), vision=vision, text=TextConfig(block=block, **words)))
    model.initialise_(torch.Generator().manual_seed(0))
    model.double()
    given = {f"visual.{name}": value.double() for name, value in weights.items()}
    given |= {name: value.double() for name, value in (text or {}).items()}
    sides = ("visual.",) if text is None else ("visual.", "text.")
    wanted = [rule for rule in rules(model.config) if rule.ours.startswith(sides)]
    model.load_state_dict(take(given, wanted, where="figures"), strict=False)
    return model.eval()


def _layers(weights: Mapping[str, Tensor]) -> int:
    return len([name for name in weights if name.endswith("ln_1.weight")])
