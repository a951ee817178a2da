"""A second copy of a module that does not learn: teachers, and averages of weights."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(model: Module) -> Module:
    """The same model again, in eval mode, without gradient and with weights of at least float32.

    Half-precision weights are widened: small changes of an average, and small differences to a teacher, need it.
    """
    other = copy.deepcopy(model).eval().requires_grad_(False)
    for tensor in (*other.parameters(), *other.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.promote_types(tensor.dtype, torch.float32))
    return other


def buffer_copy(module: Module) -> Module:
    """A ``frozen_copy`` whose parameters are buffers: saved with the module that holds it, never sharded or trained."""
    other = frozen_copy(module)
    for part in other.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
    return other
