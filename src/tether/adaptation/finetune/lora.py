"""Low-rank adapters on any encoder: PEFT's layers in the place of linear and attention layers, merged afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import nn

from tether.core.errors import InputError, MissingExtraError
from tether.core.ranges import Count, Share, checked
from tether.core.types import Batch
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import TowerSide
from tether.models.convert.saved_files import write_weights
from tether.models.convert.seeded import seeded
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.editable import IN_A_BLOCK, editable_layers, name_pattern

ADAPTER = "default"
WEIGHTS_FILE = "adapter_model.safetensors"
_MAPS = ("model.image_map.", "model.text_map.")


@final
class Lora:
    """Trains W + alpha / rank * B A in the place of each weight W, and W rests; B starts at zero.

    All else rests as well, but for the scale and bias of the logits and the maps of a composed encoder; a tower that
    was locked takes part by its adapters. Our fused ``qkv`` is one linear layer, and torch's attention, as open_clip's
    blocks have it, is PEFT's own case: input and output projections together.

    Source: arXiv 2106.09685; the layers, the merge and the files are PEFT's.
    """

    @checked
    def __init__(
        self,
        *,
        rank: Count = 8,
        alpha: Count | None = None,
        dropout: Share = 0.0,
        targets: str = IN_A_BLOCK,
        adapter: str | None = None,
    ) -> None:
        """Take the settings.

        Args:
            rank: of the change of each weight.
            alpha: what the change is multiplied with, over ``rank``; twice the rank if None.
            dropout: of an adapter's input; torch's attention has none.
            targets: regular expression; a linear or attention layer whose dotted name it is found in gets an adapter.
            adapter: folder into which ``merge_`` first writes PEFT's files of the adapter.

        Raises:
            InputError: no regular expression.
        """
        self.rank, self.alpha, self.dropout = rank, 2 * rank if alpha is None else alpha, dropout
        self.targets = name_pattern(targets, where="targets")
        self.adapter = None if adapter is None else Path(adapter)
        self._rested: list[str] = []

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Put adapters in, and let all else rest; outputs are unchanged.

        Raises:
            InputError: no layer matches, a rank that no layer has room for, there are adapters already, or PEFT cannot
                adapt a layer.
            MissingExtraError: peft is not installed.
        """
        del calibration
        try:
            from peft import inject_adapter_in_model
        except ImportError:
            raise MissingExtraError("peft", extra="lora") from None
        if _adapted(model):
            raise InputError("the model has adapters already; merge_ them first")
        maps = _MAPS if isinstance(model, ComposedEncoder) else ()
        found = editable_layers(model, self.targets, where="targets")
        layers = {name: layer for name, layer in found.items() if not name.startswith(maps)}
        check_rank(self.rank, layers)
        learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        with seeded():
            inject_adapter_in_model(self._config([*layers]), model, ADAPTER)
        for layer in _adapted(model).values():
            layer.train(layer.get_base_layer().training)  # a new module would drop out in eval mode
        self._rested = []
        for name, parameter in learning.items():
            if parameter.numel() == 1 or name.startswith(maps):
                parameter.requires_grad_(True)
            else:
                self._rested.append(name)
        for tower in model.modules():
            if isinstance(tower, TowerSide) and tower.locked and _adapted(tower):
                tower.locked = False
        return model

    @torch.no_grad()
    def merge_(self, model: nn.Module) -> nn.Module:
        """Add the changes to the weights and put the plain layers back.

        Raises:
            InputError: the model has no adapter.
        """
        layers = _adapted(model)
        if not layers:
            raise InputError(f"{type(model).__name__} has no adapter")
        if self.adapter is not None:
            self.save(model, self.adapter)
        for name, layer in layers.items():
            if hasattr(layer, "unload_and_optionally_merge_module"):  # torch's attention, which holds two
                plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            else:
                layer.merge()
                plain = layer.get_base_layer()
            model.set_submodule(name, plain)
        for name in self._rested:
            model.get_parameter(name).requires_grad_(True)
        if hasattr(model, "peft_config"):
            del model.peft_config
        return model

    def save(self, model: nn.Module, folder: str | Path) -> Path:
        """Write a model's adapters as PEFT does: ``PeftModel.from_pretrained(base, folder)`` opens them.

        ``base`` is the model without adapters; of one of open_clip or transformers, that library's own module.
        """
        folder, layers = Path(folder), _adapted(model)
        if not layers:
            raise InputError(f"{type(model).__name__} has no adapter")
        wrapped = isinstance(model, WrappedEncoder) and not isinstance(model, ComposedEncoder)
        prefix = "model." if wrapped else ""
        state = {
            f"base_model.model.{name.removeprefix(prefix).replace(f'.{ADAPTER}.', '.')}": value
            for name, value in model.state_dict().items()
            if ".lora_" in name
        }
        write_weights(folder / WEIGHTS_FILE, state, metadata={"format": "pt"})
        self._config([name.removeprefix(prefix) for name in layers]).save_pretrained(str(folder))
        return folder

    def _config(self, names: list[str]) -> Any:
        """PEFT's settings for layers by their whole names."""
        from peft import LoraConfig

        exactly = "|".join(map(re.escape, names))
        return LoraConfig(r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=exactly)


def check_rank(rank: int, layers: Mapping[str, nn.Module]) -> None:
    """See that at least one of the layers is large enough for changes of this rank.

    Args:
        rank: of the change of each weight.
        layers: linear and attention layers by name.

    Raises:
        InputError: the rank is above the smaller side of every weight; it says how large that is.
    """
    sides = {name: min(one.shape) for name, layer in layers.items() for one in layer.parameters() if one.dim() > 1}
    most = max(sides, key=lambda name: sides[name], default="")
    if most and rank > sides[most]:
        raise InputError(
            f"rank: expected at most {sides[most]}, the smaller side of the largest weight that is changed ({most}), "
            f"got {rank}"
        )


def _adapted(model: nn.Module) -> dict[str, Any]:
    """PEFT's layers by name, without those inside another."""
    try:
        from peft.tuners.lora import LoraLayer
    except ImportError:
        return {}
    found = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: module for name, module in found.items() if not name.endswith(".base_layer.out_proj")}
