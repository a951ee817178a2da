"""Arithmetic whose last bits are another processor's: what hangs on them shows on the machine at hand.

Every processor sums in an order of its own, so results of torch differ from one kind to the next by units in the last
place. A mask at a threshold, an index of the largest of two equal values, a sum compared bit for bit: such tests are
green where they were written and red elsewhere. Within this mode each float32 or float64 that a sum or one of the
functions below gives moves by -1, 0 or 1 such unit. By how much hangs on the value alone, so that the same calculation
gives the same result again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
_EXACT = {torch.float32: 8, torch.float64: 24}  # zeros at the end of a number that no rounding made
_ROUNDED = frozenset({
    "_adaptive_avg_pool2d", "_cdist_forward", "_linalg_eigh", "_linalg_solve_ex", "_linalg_svd", "_log_softmax",
    "_log_softmax_backward_data", "_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_softmax_backward_data",
    "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "acos", "acosh", "addbmm", "addcdiv", "addcmul", "addmm",
    "addmv", "asin", "atan2", "atanh", "avg_pool2d", "baddbmm", "bmm", "convolution", "convolution_backward", "cos",
    "cosh", "cumprod", "cumsum", "dot", "erf", "erfinv", "exp", "exp2", "exp_", "expm1", "gelu", "gelu_backward",
    "lerp", "linalg_inv_ex", "linalg_qr", "linalg_solve_triangular", "linalg_vector_norm", "log", "log10", "log1p",
    "log2", "logaddexp", "logsumexp", "mean", "mm", "mv", "native_batch_norm", "native_group_norm",
    "native_layer_norm", "native_layer_norm_backward", "norm", "prod", "rsqrt", "sigmoid", "silu", "sin", "sinh",
    "softplus", "std", "sum", "tan", "tanh", "upsample_bicubic2d", "upsample_bilinear2d", "var",
})  # fmt: skip
"""Sums, and functions that no standard rounds; a product, a quotient or a root is the same everywhere."""


class OtherKernels(TorchDispatchMode):
    """Moves the last bits of what torch calculates while it is entered.

    Args:
        seed: choice of the values that move, and of the way that each moves.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calculate, then move the result."""
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        largest = name in ("norm", "linalg_vector_norm") and args[1:2] == (math.inf,)  # a choice, not a sum
        if "out" in (kwargs or {}) or name not in _ROUNDED or largest:
            return found
        move: Callable[[Any], Any] = self._moved
        return tree_map(move, found)

    def _moved(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in _INTEGERS:
            return value
        bits = value.contiguous().view(_INTEGERS[value.dtype])
        factor = 0x1E3779B1 if value.dtype == torch.float32 else 0x1E3779B97F4A7C15
        drawn = ((bits ^ (bits >> 7) ^ (bits >> 3)) * factor + self.seed * 40503) >> 9 & 3
        steps = (drawn == 3).to(bits.dtype) - (drawn == 0).to(bits.dtype)
        # Results with many zeros at their end are exact everywhere: 0, 0.5, a sum of whole numbers.
        ending = (1 << _EXACT[value.dtype]) - 1
        exact = ~torch.isfinite(value) | (value.abs() < 1e-30) | (bits & ending == 0)
        return torch.where(exact, value, (bits + steps).view(value.dtype))
