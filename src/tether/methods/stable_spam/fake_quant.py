"""Train under simulated 4-bit arithmetic: the linear layers of every numbered block are exchanged in place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from torch import nn
from torch.nn.utils import parametrize

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked
from tether.core.types import Batch
from tether.methods.stable_spam.grids import GROUP, KEEP_TOP
from tether.methods.stable_spam.layers import (
    FakeQuantAttention,
    FakeQuantLinear,
    Inputs,
    RoundingGrid,
    Scheme,
    take_over,
)
from tether.models.features.editable import IN_A_BLOCK, editable_layers, name_pattern


@final
class FourBits:
    """Rounds weights and inputs of attention and feed-forward projections to 4 bits while the model computes.

    Weights are kept and learned in full precision under their old names, so checkpoints, optimisers and ``save`` see
    no difference. ``merge_`` leaves plain layers whose weights lie on the grid: what the model computes is then the
    same, but for the rounding of inputs, which no weight can hold.

    Source: arXiv 2502.17055, section 5; see ``grids`` for what the released code really does.
    """

    @checked
    def __init__(
        self,
        *,
        scheme: Scheme = "int4",
        group: Count = GROUP,
        keep_top: Whole = KEEP_TOP,
        inputs: Inputs = "quantised",
        modules: str = IN_A_BLOCK,
    ) -> None:
        """Take the settings.

        Args:
            scheme: ``int4`` or ``fp4``.
            group: consecutive elements that share a scale. Where it divides a layer's width, rows of the input
                are rounded one by one; else a group spans rows, as in the released code.
            keep_top: largest values of each group kept as they are: of inputs, and with ``fp4`` of weights.
            inputs: ``quantised``, or ``plain`` for weights alone.
            modules: regular expression; a linear or attention layer whose dotted name it is found in is exchanged.

        Raises:
            InputError: ``keep_top`` not below ``group``, or no regular expression.
        """
        self.grid = RoundingGrid(scheme=scheme, group=group, keep_top=keep_top, inputs=inputs)
        self.modules = name_pattern(modules, where="modules")

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Exchange the layers; nothing is calibrated.

        Raises:
            InputError: no layer matches, the group does not divide a weight, layers are exchanged already, or a layer's
                weight is used past its forward (timm's EVA and BEiT with a bias of the queries alone).
        """
        del calibration
        if any(isinstance(module, (FakeQuantLinear, FakeQuantAttention)) for module in model.modules()):
            raise InputError("the model computes with 4 bits already; merge_ it first")
        chosen = editable_layers(model, self.modules, where="modules")
        exchanged: dict[str, nn.Module] = {}
        for name, module in chosen.items():
            try:
                if isinstance(module, nn.MultiheadAttention):
                    exchanged[name] = FakeQuantAttention(module, grid=self.grid)
                else:
                    exchanged[name] = FakeQuantLinear.standing_in_for(module, grid=self.grid)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        for name, module in exchanged.items():
            model.set_submodule(name, module)
        return model

    @torch.no_grad()
    def merge_(self, model: nn.Module) -> nn.Module:
        """Put plain layers back, their weights rounded to the grid.

        Raises:
            InputError: no layer was exchanged, or ``models.features.parametrization`` has put something on top of one.
        """
        edited = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, (FakeQuantLinear, FakeQuantAttention))
        ]
        if not edited:
            raise InputError(f"{type(model).__name__} has no layer that computes with 4 bits")
        for name, module in edited:
            if parametrize.is_parametrized(module):
                raise InputError(f"{name}: its weights are exchanged on top; merge_ or take_back_ that first")
        for name, module in edited:
            for weight in module.parameters():
                if weight.ndim == 2:
                    weight.copy_(module.grid.rounded_weight(weight))
            (plain,) = module.exchanged
            take_over(plain, module)
            model.set_submodule(name, plain)
        return model
