"""Linear, embedding and norm layers that start uninitialised, so that loading weights never pays for random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted

Choice = TypeVar("Choice")
LEAST_ONEDNN = 2**27
"""Multiplications of a product from which ``linear`` gives it to oneDNN."""
_ONEDNN = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class Linear(nn.Linear):
    """``torch.nn.Linear`` whose weights stay unset until ``Clip.initialise_`` or ``load_state_dict`` fills them."""

    def reset_parameters(self) -> None:
        """Do nothing."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; in inference mode, large products in float32 on x86 are oneDNN's instead of MKL's.

    That is 5 to 25 % faster on AMD, and the bias needs no pass of its own. Small ones stay: a new shape costs oneDNN a
    millisecond.
    """
    if (
        _ONEDNN
        and torch.is_inference_mode_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= LEAST_ONEDNN
        and not torch.is_autocast_enabled("cpu")
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class RmsNorm(nn.Module):
    """Divides by the root mean square over the last axis, in float32, then scales; no bias (arXiv 1910.07467)."""

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        """Start with a scale of one for each of ``width`` channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same shape and dtype."""
        wide = x if x.dtype == torch.float64 else x.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)  # a fifth faster than the mean of squares
        wide = wide * torch.rsqrt(length.square() / x.shape[-1] + self.eps)
        return wide.to(x.dtype) * self.weight.to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """``torch.nn.LayerNorm`` that answers in its input's dtype under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., width) to the same shape and dtype."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps).to(input.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """X * sigmoid(1.702 x), the approximation that OpenAI's CLIP weights were trained with."""
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    """relu(x) squared."""
    return F.relu(x).square()


def swiglu(x: Tensor) -> Tensor:
    """First half times silu of the second half of the last axis."""
    value, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * value


NORMS: Mapping[str, Callable[..., nn.Module]] = {"layer": LayerNorm, "rms": RmsNorm}
"""Norm names to constructors ``(width, *, eps)``."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "relu2": squared_relu,
    "silu": F.silu,
    "swiglu": swiglu,
}
"""Activation names to functions; ``swiglu`` halves its input's width, so the layer before it is twice as wide."""


def pick(name: str, known: Mapping[str, Choice], *, option: str) -> Choice:
    """The entry of a mapping, or an InputError that names the option and lists what is known."""
    if name not in known:
        raise InputError(f"{option}: unknown choice {quoted(name)}; {closest(name[:80], known)}")
    return known[name]
