"""Parameter groups: what gets weight decay and how fast it learns."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Rate, check_values, checked

Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
"""What an optimiser's constructor takes: parameters, or groups as ``parameter_groups`` makes them."""

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
"""Devices for which torch has fused optimiser kernels."""


@checked
def parameter_groups(model: nn.Module, *, weight_decay: Rate) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay; vectors and scalars (gains, biases, the logit scale) without.

    Frozen parameters are left out, tied ones stand once, an empty group is dropped. This is open_clip's rule. A module
    may name parameters of its own that are to have none, too, in ``undecayed`` (routers, stacks of biases), and say in
    ``rate_scale`` how many times faster than the rest it learns, with all inside it; then it has groups of its own.

    Args:
        model: whose trainable parameters are grouped.
        weight_decay: of the parameters with at least two dimensions.

    Returns:
        Groups for any ``torch.optim.Optimizer``, with ``name`` (``decay`` or ``no_decay``), ``params`` as pairs
        (name, parameter) so that checkpoints carry the names, and ``lr_scale`` 1.0, which the training loop
        multiplies into the group's learning rate.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not named:
        raise InputError(f"{type(model).__name__} has no trainable parameter")
    spared = {id(getattr(module, name, None)) for module in model.modules() for name in _undecayed(module)}
    scales, groups = rate_scales(model), []
    for scale in (1.0, *sorted({*scales.values()} - {1.0})):
        own = [pair for pair in named if scales.get(id(pair[1]), 1.0) == scale]
        decayed = [pair for pair in own if pair[1].ndim >= 2 and id(pair[1]) not in spared]
        plain = [pair for pair in own if pair[1].ndim < 2 or id(pair[1]) in spared]
        name = "" if scale == 1 else f" x{scale:g}"
        groups += [
            {"name": f"decay{name}", "params": decayed, "weight_decay": float(weight_decay), "lr_scale": scale},
            {"name": f"no_decay{name}", "params": plain, "weight_decay": 0.0, "lr_scale": scale},
        ]
    return [group for group in groups if group["params"]]


def rate_scales(model: nn.Module) -> dict[int, float]:
    """By the id of a parameter, the ``rate_scale`` of the module around it; of several that of the innermost."""
    found: dict[int, float] = {}
    for module in model.modules():  # what lies around comes first
        scale: Any = getattr(module, "rate_scale", None)
        if scale is not None:
            found |= {id(parameter): float(scale) for parameter in module.parameters()}
    return found


def as_groups(params: Params) -> tuple[list[Any], bool]:
    """The same parameters or groups as a list, and whether torch's fused kernels can move all of them."""
    given = list(params)
    tensors: list[Tensor] = []
    for item in given:
        members = list(item["params"]) if isinstance(item, dict) else [item]
        if isinstance(item, dict):
            item["params"] = members
        tensors.extend(member[1] if isinstance(member, tuple) else member for member in members)
    return given, all(t.device.type in FUSED_DEVICES and t.is_floating_point() for t in tensors)


def defaults(optimizer: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a group: the constructor's keyword-only parameters, with their values among ``values``."""
    parameters = inspect.signature(optimizer.__init__).parameters.values()
    settings = {each.name: values[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}


class CheckedGroups(torch.optim.Optimizer):
    """An optimiser whose groups' own settings have the ranges of its constructor's."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; a setting out of range is an InputError."""
        check_values(type(self).__init__, param_group, where=type(self).__name__)
        super().add_param_group(param_group)


def _undecayed(module: nn.Module) -> tuple[str, ...]:
    """Names of its own parameters that a module keeps from weight decay, as its attribute ``undecayed`` says."""
    names: Any = getattr(module, "undecayed", ())
    return tuple(names)
