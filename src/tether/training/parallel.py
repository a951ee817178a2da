"""One process or many: wrapping a module, naming its parameters, and taking whole state out of shards."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrize import ParametrizationList

from tether.core.errors import InputError, TetherError
from tether.optim.timm_adapter import TensorState

_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset)|Broken pipe", re.IGNORECASE)


def choose_sharding(sharding: Literal["auto", "ddp", "fsdp2"]) -> Literal["none", "ddp", "fsdp2"]:
    """How to run under the process group at hand; DeepSpeed is refused.

    DeepSpeed clips and steps inside its backward, so a clipper would be passed over without a word.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise InputError(
            "DeepSpeed clips and steps inside backward and would bypass the clipper; launch with FSDP2 or DDP"
        )
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return "none"
    if sharding != "auto":
        return sharding
    return "fsdp2" if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else "ddp"


def choose_checkpoints(
    kind: Literal["auto", "whole", "sharded"], *, sharding: Literal["none", "ddp", "fsdp2"]
) -> Literal["whole", "sharded"]:
    """How checkpoints are written: where the state is sharded, each process its own part, if nothing is said."""
    if kind != "auto":
        return kind
    return "sharded" if sharding == "fsdp2" else "whole"


def agree(refused: TetherError | None) -> None:
    """Raise the error of the first process that has one in every process; all must call it."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        said: list[Any] = [""] * dist.get_world_size()
        dist.all_gather_object(said, str(refused or ""))
        first = next((one for one in said if one), "")
        if first and first != str(refused):
            raise InputError(first)
    if refused is not None:
        raise refused


@contextlib.contextmanager
def together(*, again: str) -> Iterator[None]:
    """Of a process that lost another one in the block, one message is left.

    Args:
        again: how to go on.
    """
    try:
        yield
    except RuntimeError as error:
        several = dist.is_initialized() and dist.get_world_size() > 1
        if several and (isinstance(error, dist.DistError) or _LOST.search(str(error))):
            raise TetherError(f"another process of the run ended; {again}") from error
        raise


def parallelise(module: nn.Module, *, sharding: Literal["none", "ddp", "fsdp2"], device: torch.device) -> nn.Module:
    """Wrap ``module`` for training; FSDP2 shards each entry of every ``ModuleList`` and the rest as one unit."""
    if sharding == "none":
        return module
    if sharding == "ddp":
        return DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for scalar in scalars:  # FSDP2 cannot shard them, and leaves the gradients of what it ignores unreduced
        if scalar.requires_grad:
            scalar.register_post_accumulate_grad_hook(_average_gradient)
    lists = [layers for layers in module.modules() if isinstance(layers, nn.ModuleList)]
    for layers in lists:
        if not isinstance(layers, ParametrizationList):  # which belongs to a layer that is sharded with its block
            for layer in layers:
                fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh, ignored_params=scalars)
    return module


def _average_gradient(parameter: Tensor) -> None:
    """Safe after every backward: what was averaged before is the same everywhere and stays so."""
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


@contextlib.contextmanager
def local_gradients(module: nn.Module) -> Iterator[None]:
    """Backward passes inside add to the gradients without talking to other processes."""
    if isinstance(module, DistributedDataParallel):
        with module.no_sync():
            yield
    elif dist.is_initialized() and dist.get_world_size() > 1:
        module.set_requires_gradient_sync(False)  # pyrefly: ignore
        try:
            yield
        finally:
            module.set_requires_gradient_sync(True)  # pyrefly: ignore
    else:
        yield


def whole(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU of a tensor that may be sharded; every process must call it."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().to("cpu", copy=True).contiguous()


def as_it_is(tensor: Tensor) -> Tensor:
    """This process's own part, in its own memory; whoever wants it later takes a ``part_copy``."""
    return tensor.detach()


def part_copy(tensor: Tensor) -> Tensor:
    """A detached copy on the CPU of this process's own part, sharded as it is."""
    return tensor.detach().to("cpu", copy=True)


def placed_like(target: Tensor, value: Tensor) -> Tensor:
    """A copy on the device of ``target``, sharded as it is, and in its layout: fused kernels read memory.

    Args:
        target: says where to.
        value: a whole tensor, or one that is sharded as ``target`` is.
    """
    if isinstance(target, DTensor) and isinstance(value, DTensor):
        found = torch.empty_like(target, dtype=value.dtype, requires_grad=False)
        cast(DTensor, found).to_local().copy_(value.to_local())
        return found
    value = value.to(target.device)
    if isinstance(target, DTensor):
        return distribute_tensor(value, target.device_mesh, target.placements)
    return torch.empty_like(target, dtype=value.dtype, requires_grad=False).copy_(value)


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], *, take: Callable[[Tensor], Tensor] = whole
) -> dict[str, Tensor]:
    """The optimiser's state as ``parameter.key``, whole or as ``take`` gives it."""
    return {
        f"{names[parameter]}.{key}": take(value)
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: dict[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` gave, whole or sharded as the parameters are.

    Raises:
        InputError: state that no step of this optimiser on these parameters leaves.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    foreign = isinstance(optimizer, TensorState)  # its entries may be of any shape, and other ones by parameter
    state: dict[Tensor, dict[str, Any]] = {}
    kinds: dict[str, torch.dtype] = {}
    for full_name, value in tensors.items():
        name, _, key = full_name.rpartition(".")
        if name not in parameters:
            raise InputError(f"optimiser state for {name!r}, which the model does not have")
        parameter = parameters[name]
        like = value.shape == parameter.shape  # moments follow their parameter; a step count is a scalar
        sound = value.dtype == parameter.dtype if like and value.ndim else value.ndim == 0
        if not foreign and (not sound or value.dtype != kinds.setdefault(key, value.dtype)):
            raise InputError(f"optimiser state {full_name}: {value.dtype} of shape {tuple(value.shape)} does not fit")
        placed = placed_like(parameter, value) if like else value.to(parameter.device) if value.ndim else value
        state.setdefault(parameter, {})[key] = placed
    if not foreign and len({frozenset(entries) for entries in state.values()}) > 1:
        raise InputError("optimiser state: some parameters have other entries than the rest")
    optimizer.state.clear()
    optimizer.state.update(state)
