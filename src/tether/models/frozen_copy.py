"""A second copy of a model that does not learn: teachers, and averages of weights."""

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
