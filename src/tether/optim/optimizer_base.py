"""What our own optimisers share: checks, the closure, whole state, and the figures of all tensors as one vector."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.norms import local_part, send
from tether.optim.param_groups import FUSED_DEVICES, CheckedGroups, Params, as_groups, defaults

PIECE = 1 << 17
"""Elements worked on at once on a CPU: what one piece needs stays in the cache between one operation and the next."""

HOST = frozenset({"cpu"})
"""Devices whose numbers the host reads without waiting for anything."""

Scalar = float | Tensor
"""A number on the CPU; a 0-d tensor on an accelerator, where reading it would be a wait."""


class SparseGradientError(InputError, RuntimeError):
    """A sparse gradient, which none of our own optimisers takes; also a RuntimeError, as torch's optimisers raise."""


@dataclass(frozen=True, slots=True)
class Moving:
    """One parameter that has a gradient in this step.

    Attributes:
        name: its name, or its place in the groups.
        group: the settings it moves by.
        parameter: whole or sharded.
        state: what the optimiser remembers of it.
        weight: this process's part of it.
        gradient: this process's part of its gradient.
        shards: the process groups that hold the other parts.
    """

    name: str
    group: dict[str, Any]
    parameter: nn.Parameter
    state: dict[str, Any]
    weight: Tensor
    gradient: Tensor
    shards: tuple[dist.ProcessGroup, ...]

    def local(self, key: str) -> Tensor:
        """This process's part of a tensor of the state, flat; it shares the state's memory."""
        part = local_part(self.name, self.state[key])[0]
        if not part.is_contiguous():  # loaded in the layout of a parameter that is not
            self.state[key] = self.state[key].contiguous()
            part = local_part(self.name, self.state[key])[0]
        return part.view(-1)

    def gradient_pieces(self) -> Iterator[Tensor]:
        """The gradient, flat, in float32 at least, cut as ``pieces`` cuts."""
        wide = torch.float64 if self.gradient.dtype == torch.float64 else torch.float32
        for (piece,) in pieces(self.gradient.reshape(-1)):
            yield piece.to(wide)


class Stepper(CheckedGroups, abc.ABC):
    """An optimiser whose whole state lies in ``state``, entry by entry with each parameter.

    What belongs to the optimiser and not to one tensor (the number of calls, a common accumulator) stands with every
    parameter, as one tensor that all of them share: so ``state_dict``, a training run's checkpoint and sharded
    checkpoints carry it. Tensors of a parameter's shape are float32 for half-precision weights (float64 for float64);
    figures are float64 where the device has it, whatever the weights are, and loading leaves them so.

    Attributes:
        figures: keys of the state's 0-d entries.
        common: those of them that all parameters share.
    """

    figures: ClassVar[frozenset[str]] = frozenset()
    common: ClassVar[frozenset[str]] = frozenset({"calls"})

    def __init__(self, params: Params, values: Mapping[str, Any]) -> None:
        """Take parameters or groups, and the values of the constructor's parameters.

        Its keyword-only parameters are the settings of those groups that have none of their own.

        Raises:
            InputError: no parameter, one that is complex, of whole numbers or on a device without fused kernels, or a
                setting out of range.
        """
        groups, _ = as_groups(params)
        if not groups:
            raise InputError(f"{type(self).__name__}: expected at least one parameter, got none")
        super().__init__(groups, defaults(type(self), values))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, also in the middle of training: their statistics begin with their first gradient."""
        super().add_param_group(param_group)
        try:
            self._admit(self.param_groups[-1])
        except InputError:
            self.param_groups.pop()
            raise

    def _admit(self, group: dict[str, Any]) -> None:
        for name, parameter in _named(group, len(self.param_groups) - 1):
            if not parameter.is_floating_point():
                kind = "complex numbers" if parameter.is_complex() else "whole numbers"
                raise InputError(
                    f"{type(self).__name__}: {name}: expected real numbers, got {kind} ({parameter.dtype})"
                )
            if parameter.device.type not in FUSED_DEVICES:
                raise InputError(
                    f"{type(self).__name__}: {name}: expected a device among {', '.join(sorted(FUSED_DEVICES))}, "
                    f"got {parameter.device}"
                )
        self._complete(group)

    def _complete(self, group: dict[str, Any]) -> None:
        """Refuse settings in range that do not go together, and fill in those that follow from others."""

    @abc.abstractmethod
    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Tensors of a parameter's shape that the state of a group's parameters holds, and what fills them at first."""

    def _keys(self, group: Mapping[str, Any]) -> set[str]:
        """All that the state of a group's parameter holds once it has begun."""
        return {*self.figures, *self._tensors(group)}

    @abc.abstractmethod
    def _advance(self, moving: Sequence[Moving]) -> None:
        """Move at least one parameter."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyrefly: ignore[bad-override] - torch overloads
        """Move every parameter that has a gradient; without any gradient nothing happens at all.

        Args:
            closure: computes the loss and its gradients anew.

        Returns:
            What the closure gave.

        Raises:
            SparseGradientError: a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = list(self._moving())
        if moving:
            self._advance(moving)
        return loss

    def _moving(self) -> Iterator[Moving]:
        for place, group in enumerate(self.param_groups):
            for name, parameter in _named(group, place):
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.layout != torch.strided:
                    raise SparseGradientError(
                        f"{type(self).__name__}: gradient of {name}: expected a dense tensor, got {gradient.layout}; "
                        "build the module with sparse=False"
                    )
                weight, shards = local_part(name, parameter.data)
                yield Moving(
                    name, group, parameter, self.state[parameter], weight, local_part(name, gradient)[0], shards
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave, bit for bit.

        Raises:
            InputError: the state is of other parameters, or of an optimiser of other settings or entries.
        """
        saved = [list(group["params"]) for group in state_dict["param_groups"]]
        if [len(group) for group in saved] != [len(group["params"]) for group in self.param_groups]:
            theirs, ours = [len(group) for group in saved], [len(group["params"]) for group in self.param_groups]
            raise InputError(f"{type(self).__name__} state: groups of {theirs} parameters there and {ours} here")
        entries: list[tuple[str, nn.Parameter, Mapping[str, Any]]] = []
        for place, (group, keys) in enumerate(zip(self.param_groups, saved, strict=True)):
            settings = state_dict["param_groups"][place]
            missing = sorted(self.defaults.keys() - settings.keys())
            if missing:
                raise InputError(f"{type(self).__name__} state: of another optimiser, without {', '.join(missing)}")
            strange = sorted(settings.keys() - group.keys() - {"initial_lr"})  # which torch's schedulers add
            if strange:
                raise InputError(f"{type(self).__name__} state: of another optimiser, with {', '.join(strange)}")
            names = settings.get("param_names")
            if names is not None and list(names) != list(group.get("param_names", names)):
                other = next(pair for pair in zip(names, group["param_names"], strict=True) if pair[0] != pair[1])
                raise InputError(f"{type(self).__name__} state: parameter {other[0]!r} there, {other[1]!r} here")
            for key, (name, parameter) in zip(keys, _named(group, place), strict=True):
                entry = state_dict["state"].get(key, {})
                self._check_entry(name, parameter, entry, self._keys(settings))
                entries.append((name, parameter, entry))
        super().load_state_dict(state_dict)
        for _, parameter, entry in entries:  # torch casts what it loads to the parameter's dtype: put it back whole
            for key, value in entry.items():
                device = value.device if key in self.figures else parameter.device
                self.state[parameter][key] = value.detach().to(device, copy=True)

    def _check_entry(self, name: str, parameter: nn.Parameter, entry: Mapping[str, Any], keys: set[str]) -> None:
        if entry and entry.keys() != keys:
            expected, got = ", ".join(sorted(keys)), ", ".join(sorted(entry))
            raise InputError(f"{type(self).__name__} state: {name}: expected {expected}, got {got}")
        for key, value in entry.items():
            shape = () if key in self.figures else tuple(parameter.shape)
            if not isinstance(value, Tensor) or tuple(value.shape) != shape:
                got = tuple(value.shape) if isinstance(value, Tensor) else repr(value)
                raise InputError(f"{type(self).__name__} state: {name}: {key}: expected shape {shape}, got {got}")

    def _begin(self, each: Moving) -> None:
        """The tensors of a parameter that has its first gradient, and those figures that are its own."""
        tensors = self._tensors(each.group)
        each.state.update({key: wide_zeros(each.parameter, value=value) for key, value in tensors.items()})
        own = self._keys(each.group) - tensors.keys() - self.common
        each.state.update({key: new_figure(each.gradient.device) for key in sorted(own)})

    def _common(self, key: str, start: Tensor, *, moving: Sequence[Moving]) -> Tensor:
        """The optimiser's own figure ``key``: one tensor that every parameter's state shares, changed in place."""
        holders = [state for state in self.state.values() if key in state]
        figure = holders[0][key] if holders else start
        if figure.device != start.device:
            figure = figure.to(start.device)
        for state in (*holders, *(each.state for each in moving)):
            state[key] = figure
        return figure

    def _tick(self, moving: Sequence[Moving]) -> int:
        """Count this call; the count lies on the CPU, so reading it waits for nothing."""
        calls = self._common("calls", torch.zeros((), dtype=torch.int64), moving=moving)
        calls.add_(1)
        return int(calls)


def _named(group: Mapping[str, Any], place: int) -> Iterator[tuple[str, nn.Parameter]]:
    names = group.get("param_names") or [f"parameter {row} of group {place}" for row in range(len(group["params"]))]
    return zip(names, group["params"], strict=True)


def by_group(moving: Sequence[Moving]) -> Iterator[list[Moving]]:
    """The parameters of one group of settings and of one device at a time."""
    kinds: dict[tuple[int, torch.device], list[Moving]] = {}
    for each in moving:
        kinds.setdefault((id(each.group), each.gradient.device), []).append(each)
    yield from kinds.values()


def wide_zeros(parameter: nn.Parameter, *, value: float = 0.0) -> Tensor:
    """A tensor of the parameter's shape and sharding, contiguous, in float32 at least."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    zeros = torch.zeros_like(parameter.data, dtype=dtype, memory_format=torch.contiguous_format)
    return zeros.fill_(value) if value else zeros


def new_figure(device: torch.device, *, value: float = 0.0) -> Tensor:
    """A 0-d float64 (float32 where the device has no other)."""
    return torch.full((), value, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


def gather(moving: Sequence[Moving], key: str) -> Float[Tensor, " n"]:
    """One figure of every parameter, as a vector on their device."""
    device = moving[0].gradient.device
    return torch.stack([send(each.state[key], device) for each in moving])


def scatter(moving: Sequence[Moving], **figures: Float[Tensor, " n"]) -> None:
    """Put vectors of figures back, entry by entry."""
    for key, values in figures.items():
        for each, value in zip(moving, values.unbind(), strict=True):
            each.state[key] = value


def readable(values: Tensor) -> bool:
    """Whether the host may look at a tensor's values without waiting for a device."""
    return values.device.type in HOST


def scalars(values: Float[Tensor, " n"]) -> Sequence[Scalar]:
    """The entries of a vector: numbers on the CPU, 0-d tensors elsewhere."""
    return values.tolist() if readable(values) else values.unbind()


def flags(values: Bool[Tensor, " n"]) -> Sequence[bool | Tensor]:
    """The entries of a vector of truths: as ``scalars``."""
    return values.tolist() if readable(values) else values.unbind()


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Flat tensors of one length, cut alike: short pieces on a CPU, whole elsewhere."""
    length = tensors[0].numel()
    if not readable(tensors[0]) or length <= PIECE:
        if length:
            yield tensors
        return
    yield from zip(*(tensor.split(PIECE) for tensor in tensors), strict=True)
