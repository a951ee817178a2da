"""timm's optimisers by name, ``timm/muon``, with a state that any checkpoint of ours can carry."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Rate, check_values

PREFIX = "timm/"
MOMENTUM = 0.9
"""What timm gives optimisers that have a momentum, where nothing is said (its factory)."""

_KINDS: Mapping[str, type] = {"bool": bool, "int": int, "float": float}
_DTYPES = {"bool": torch.bool, "int": torch.int64, "float": torch.float64}
_MARK, _GROUP, _NONE = "|", "group", "none"
_DRAWING = "Kron"
"""A class with a random generator of its own, whose place in it no tensor of the state holds."""


class TensorState(Optimizer):
    """Makes what an optimiser remembers tensors, between steps, entry by entry with each parameter.

    Numbers become 0-d tensors under keys that say what they were; what a group counts stands with each of its
    parameters. Before a step all is as the optimiser left it.
    """

    def state_as_left(self) -> None:
        """Put numbers and what belongs to groups back, as the optimiser has them."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self.state:
                    continue
                found: dict[str, Any] = {}
                for key, value in self.state[parameter].items():
                    name, *kinds = key.split(_MARK)
                    if name == _GROUP and kinds:
                        group[kinds[0]] = _number(value, kinds[1:])
                    else:
                        found[name] = _number(value, kinds)
                self.state[parameter] = found

    def state_as_tensors(self) -> None:
        """The inverse."""
        for group, given in zip(self.param_groups, self._given, strict=True):
            counted = {key: value for key, value in group.items() if key not in given}
            for parameter in group["params"]:
                if parameter not in self.state:
                    continue
                found: dict[str, Tensor] = {}
                for key, value in self.state[parameter].items():
                    found |= _tensors(key, value)
                for key, value in counted.items():
                    found |= _tensors(f"{_GROUP}{_MARK}{key}", value)
                self.state[parameter] = found

    @property
    def _given(self) -> list[set[str]]:
        """Keys of each group that are settings, ours or the optimiser's."""
        own = {"params", "param_names", "name", "lr_scale", "initial_lr", *self.defaults}
        return [{key for key in group if key in own} for group in self.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, bit for bit: torch would cast it to the parameters' dtype."""
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for key, parameter in zip(saved, parameters, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                self.state[parameter][name] = value.detach().clone()


def _tensors(key: str, value: Any) -> dict[str, Tensor]:
    """One entry of a state as tensors."""
    if isinstance(value, Tensor):
        return {key: value}
    if value is None:
        return {f"{key}{_MARK}{_NONE}": torch.zeros(())}
    kind = next((name for name, type_ in _KINDS.items() if type(value) is type_), None)
    if kind is None:
        raise InputError(f"optimiser state {key}: cannot be kept in a checkpoint: {type(value).__name__}")
    return {f"{key}{_MARK}{kind}": torch.tensor(value, dtype=_DTYPES[kind])}


def _number(value: Tensor, kinds: list[str]) -> Any:
    if not kinds:
        return value
    return None if kinds[0] == _NONE else _KINDS[kinds[0]](value.item())


def with_timm(parts: Mapping[str, type[Optimizer]], spec: str | Mapping[str, Any]) -> Mapping[str, type[Optimizer]]:
    """A registry of optimisers, and with it the one of timm's that a configuration names, if it does.

    Args:
        parts: the registry.
        spec: an optimiser's name or settings, as a configuration has them.

    Raises:
        InputError: timm has no such optimiser, or it cannot be used here.

    Example:
        >>> import torch
        >>> from tether.core.component import build
        >>> from tether.optim import OPTIMIZERS, with_timm
        >>> spec = {"name": "timm/muon", "lr": 0.02, "momentum": 0.9}
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = build(spec, with_timm(OPTIMIZERS, spec), where="recipe", params=[weight])
        >>> optimizer.param_groups[0]["momentum"]
        0.9
    """
    name = spec if isinstance(spec, str) else spec.get("name") if isinstance(spec, Mapping) else None
    if not isinstance(name, str):
        return parts
    if not name.startswith(PREFIX):
        if name not in parts and name in _known():
            raise InputError(f"optimizer: unknown {name!r}; that of timm is {PREFIX + name!r}")
        return parts
    return {**parts, name: timm_optimizer(name.removeprefix(PREFIX))}


@functools.cache
def _known() -> list[str]:
    from timm.optim import list_optimizers

    return [str(one) for one in list_optimizers()]


@functools.cache
def timm_optimizer(name: str) -> type[Optimizer]:
    """Timm's optimiser of a name, with timm's settings for that name, and a state of tensors.

    Args:
        name: as ``timm.optim.list_optimizers()`` has it.

    Raises:
        InputError: there is none, it needs second derivatives or a package besides timm, or it cannot be resumed.
    """
    from timm.optim import get_optimizer_info

    known = _known()
    if name not in known:
        raise InputError(f"optimizer: timm has no {name!r}; {closest(name, known)}")
    info = get_optimizer_info(name)
    if info.second_order:
        raise InputError(f"optimizer: {PREFIX}{name} needs second derivatives, which a run does not compute")
    if isinstance(info.opt_class, str):
        raise InputError(f"optimizer: {PREFIX}{name} needs a package besides timm: {info.opt_class}")
    base = cast("type[Optimizer]", info.opt_class)
    if base.__name__ == _DRAWING:
        raise InputError(f"optimizer: {PREFIX}{name} draws from a generator of its own, which no checkpoint holds")
    fixed = dict(info.defaults or {}) | ({"momentum": MOMENTUM} if info.has_momentum else {})

    @functools.wraps(base.__init__)
    def begin(self: Optimizer, params: Any, **settings: Any) -> None:
        check_values(_rates, settings, where=f"optimizer: {PREFIX}{name}")
        try:
            cast(Any, base.__init__)(self, params, **{**fixed, **settings})
        except (TypeError, ValueError) as error:
            raise InputError(f"optimizer: {PREFIX}{name}: {error}") from error
        if any(_sharded(parameter) for group in self.param_groups for parameter in group["params"]):
            raise InputError(f"optimizer: {PREFIX}{name} would see its shard of each tensor alone; use sharding: ddp")

    @torch.no_grad()
    def step(self: TensorState, closure: Callable[[], Any] | None = None) -> Any:
        self.state_as_left()
        loss = base.step(self, closure)
        self.state_as_tensors()
        return loss

    about = {"__init__": begin, "step": step, "__doc__": info.description, "__module__": __name__}
    return type(f"Timm{base.__name__}", (TensorState, base), about)


def _rates(*, lr: Rate | None, weight_decay: Rate) -> None:
    """The ranges of what timm's own optimisers take without looking."""


def _sharded(parameter: Tensor) -> bool:
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)
