"""Train under simulated 4-bit arithmetic: the linear layers of every numbered block are exchanged in place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import final

import torch
from torch import nn

from tether.compress.quantise.grids import GROUP, KEEP_TOP
from tether.compress.quantise.layers import FakeQuantAttention, FakeQuantLinear, Inputs, RoundingGrid, Scheme, take_over
from tether.core.errors import InputError
from tether.core.types import Batch

IN_A_BLOCK = r"(^|\.)\d+\."
"""A number among the parts of a module's name: it lies in a repeated layer. Embeddings and heads do not."""


@final
class FakeQuant:
    """Rounds weights and inputs of attention and feed-forward projections to 4 bits while the model computes.

    Weights are kept and learned in full precision under their old names, so checkpoints, optimisers and ``save`` see
    no difference. ``merge_`` leaves plain layers whose weights lie on the grid: what the model computes is then the
    same, but for the rounding of inputs, which no weight can hold.

    Source: arXiv 2502.17055, section 5; see ``grids`` for what the released code really does.
    """

    def __init__(
        self,
        *,
        scheme: Scheme = "int4",
        group: int = GROUP,
        keep_top: int = KEEP_TOP,
        inputs: Inputs = "quantised",
        modules: str = IN_A_BLOCK,
    ) -> None:
        """Take the settings.

        Args:
            scheme: ``int4`` or ``fp4``.
            group: consecutive elements that share a scale (>= 1). Where it divides a layer's width, rows of the input
                are rounded one by one; else a group spans rows, as in the released code.
            keep_top: largest values of each group kept as they are: of inputs, and with ``fp4`` of weights.
            inputs: ``quantised``, or ``plain`` for weights alone.
            modules: regular expression; a linear or attention layer whose dotted name it is found in is exchanged.

        Raises:
            InputError: a value outside its range, or no regular expression.
        """
        self.grid = RoundingGrid(scheme=scheme, group=group, keep_top=keep_top, inputs=inputs)
        try:
            self.modules = re.compile(modules)
        except re.error as error:
            raise InputError(f"modules: not a regular expression: {modules!r} ({error})") from None

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Exchange the layers; nothing is calibrated.

        Raises:
            InputError: no layer matches, the group does not divide a weight, layers are exchanged already, or a layer's
                weight is used past its forward (timm's EVA and BEiT with a bias of the queries alone).
        """
        del calibration
        plain = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, nn.MultiheadAttention))
        }
        if any(isinstance(module, (FakeQuantLinear, FakeQuantAttention)) for module in model.modules()):
            raise InputError("the model computes with 4 bits already; merge_ it first")
        chosen = {name: module for name, module in plain.items() if self.modules.search(name)}
        # The output projection inside torch's attention is exchanged with it.
        inner = {f"{name}.out_proj" for name, module in plain.items() if isinstance(module, nn.MultiheadAttention)}
        chosen = {name: module for name, module in chosen.items() if name not in inner}
        if not chosen:
            known = ", ".join(list(plain)[:5]) or "none"
            raise InputError(f"modules: no layer's name holds {self.modules.pattern!r}; there are {known}")
        exchanged: dict[str, nn.Module] = {}
        for name, module in chosen.items():
            parent = model.get_submodule(name.rpartition(".")[0])
            if name.endswith("qkv") and "q_bias" in dict(parent.named_parameters(recurse=False)):
                raise InputError(
                    f"{name}: {type(parent).__name__} reads this layer's weight and never calls it, so its input "
                    "cannot be rounded; leave it out by another 'modules'"
                )
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
            InputError: no layer was exchanged.
        """
        edited = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, (FakeQuantLinear, FakeQuantAttention))
        ]
        if not edited:
            raise InputError(f"{type(model).__name__} has no layer that computes with 4 bits")
        for name, module in edited:
            for weight in module.parameters():
                if weight.ndim == 2:
                    weight.copy_(module.grid.rounded_weight(weight))
            (plain,) = module.exchanged
            take_over(plain, module)
            model.set_submodule(name, plain)
        return model
