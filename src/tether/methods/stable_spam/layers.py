"""Linear and attention layers that compute as if their weights and inputs had 4 bits, and learn as if they had all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked
from tether.methods.stable_spam.grids import GROUP, KEEP_TOP, quantise_fp4, quantise_int4, quantise_int4_input

Scheme = Literal["int4", "fp4"]
Inputs = Literal["quantised", "plain"]


class _StraightThrough(torch.autograd.Function):
    """The function forward, the identity backward."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # pyrefly: ignore[bad-override] - torch's is variadic
        return grad, None


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundingGrid:
    """How values are rounded.

    Attributes:
        scheme: ``int4`` (weights on 16 levels between a group's least and largest; inputs on 16 levels about zero) or
            ``fp4`` (both on 9 levels about zero).
        group: consecutive elements that share a scale.
        keep_top: largest inputs (and, with fp4, weights) of each group that are kept as they are.
        inputs: whether a layer's inputs are rounded too, or stay ``plain``.
    """

    scheme: Scheme = "int4"
    group: Count = GROUP
    keep_top: Whole = KEEP_TOP
    inputs: Inputs = "quantised"

    def __post_init__(self) -> None:
        """Refuse what no layer could use."""
        if self.keep_top >= self.group:
            raise InputError(f"keep_top: expected a whole number in [0, group={self.group}), got {self.keep_top!r}")

    def weight(self, weight: Tensor) -> Tensor:
        """The rounded weight; the gradient passes as if it were not rounded.

        The sum is the released code's, and with it the last bit of the value.
        """
        return self.rounded_weight(weight.detach()) + weight - weight.detach()

    def rounded_weight(self, weight: Tensor) -> Tensor:
        """The rounded weight alone."""
        if self.scheme == "int4":
            return quantise_int4(weight, group=self.group)
        return quantise_fp4(weight, group=self.group, keep_top=self.keep_top)

    def input(self, x: Tensor) -> Tensor:
        """The rounded input; the gradient passes as if it were not rounded."""
        if self.inputs == "plain":
            return x
        quantise = quantise_int4_input if self.scheme == "int4" else quantise_fp4
        return _StraightThrough.apply(  # pyrefly: ignore
            x, lambda value: quantise(value, group=self.group, keep_top=self.keep_top)
        )


def _no_shortcut(module: nn.Module, inputs: tuple[object, ...]) -> None:
    """Do nothing: torch's encoder layer, in evaluation, goes past its own layers' forward unless one has a hook."""


class FakeQuantLinear(nn.Linear):
    """A linear layer with 4-bit weights and inputs, simulated: stored and learned in full precision.

    The weight learns from the rounded input, the input from the rounded weight (straight-through). A group may run over
    from one row of the input to the next if the group does not divide the width; choose one that does where a row's
    result must not depend on its neighbours.

    Attributes:
        grid: how it rounds.
        exchanged: the plain layer that it stands in for, if any; in a tuple, so that it is no submodule.
    """

    exchanged: tuple[nn.Module, ...] = ()

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        scheme: Scheme = "int4",
        group: int = GROUP,
        keep_top: int = KEEP_TOP,
        inputs: Inputs = "quantised",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Start with torch's random weights; see ``RoundingGrid`` for the rest.

        Raises:
            InputError: an unknown word, or a group that does not divide the weight.
        """
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self.grid = RoundingGrid(scheme=scheme, group=group, keep_top=keep_top, inputs=inputs)
        _check_weight(in_features * out_features, self.grid)
        self.register_forward_pre_hook(_no_shortcut)

    def forward(self, input: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        """As ``nn.Linear``.

        Raises:
            InputError: the group does not divide the number of the input's elements.
        """
        return F.linear(self.grid.input(input), self.grid.weight(self.weight), self.bias)

    @classmethod
    def standing_in_for(cls, plain: nn.Linear, *, grid: RoundingGrid) -> FakeQuantLinear:
        """A layer with the parameters of ``plain``, the very same tensors.

        Raises:
            InputError: the group does not divide the weight.
        """
        made = cls(
            plain.in_features,
            plain.out_features,
            bias=plain.bias is not None,
            scheme=grid.scheme,
            group=grid.group,
            keep_top=grid.keep_top,
            inputs=grid.inputs,
            device="meta",
        )
        take_over(made, plain)
        made.exchanged = (plain,)
        return made

    def behaviour(self) -> dict[str, str]:
        """What decides its outputs beside its weights, for ``core.model_digest``."""
        return {"grid": str(self.grid)}

    def extra_repr(self) -> str:
        """Sizes and grid."""
        return f"{super().extra_repr()}, {self.grid}"


class FakeQuantAttention(nn.MultiheadAttention):
    """``nn.MultiheadAttention`` whose four projections are those of ``FakeQuantLinear``.

    Attributes:
        grid: how it rounds.
        exchanged: the plain layer that it stands in for, in a tuple, so that it is no submodule.
    """

    exchanged: tuple[nn.Module, ...]

    def __init__(self, plain: nn.MultiheadAttention, *, grid: RoundingGrid) -> None:
        """Take over the parameters of ``plain``.

        Raises:
            InputError: learned extra keys, or a group that does not divide a weight.
        """
        if plain.bias_k is not None or plain.add_zero_attn:
            raise InputError("attention with extra keys (add_bias_kv, add_zero_attn) cannot be quantised")
        super().__init__(
            plain.embed_dim,
            plain.num_heads,
            plain.dropout,
            bias=plain.in_proj_bias is not None,
            kdim=plain.kdim,
            vdim=plain.vdim,
            batch_first=plain.batch_first,
            device="meta",
        )
        take_over(self, plain)
        for weight in self.parameters():
            if weight.ndim == 2:
                _check_weight(weight.numel(), grid)
        self.grid = grid
        self.exchanged = (plain,)
        self.register_forward_pre_hook(_no_shortcut)

    def behaviour(self) -> dict[str, str]:
        """What decides its outputs beside its weights, for ``core.model_digest``."""
        return {"grid": str(self.grid)}

    def forward(  # pyrefly: ignore[bad-override] - torch names nothing after the star
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's, with batches; ``is_causal`` is a hint there and the mask says the same here.

        Raises:
            InputError: no batch dimension, or the group does not divide the number of an input's elements.
        """
        if query.ndim != 3:
            raise InputError(f"query: expected (b, n, w) or (n, b, w), got {tuple(query.shape)}")
        projected = [
            F.linear(self.grid.input(x), self.grid.weight(weight), bias)
            for x, weight, bias in zip((query, key, value), self._weights(), self._biases(), strict=True)
        ]
        if not self.batch_first:
            projected = [x.transpose(0, 1) for x in projected]
        q, k, v = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in projected)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if attn_mask is not None:
            scores = scores + _additive(
                attn_mask.unflatten(0, (-1, self.num_heads)) if attn_mask.ndim == 3 else attn_mask, scores
            )
        if key_padding_mask is not None:
            scores = scores + _additive(key_padding_mask[:, None, None], scores)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training)
        heads = (weights @ v).transpose(1, 2).flatten(2)
        if not self.batch_first:
            heads = heads.transpose(0, 1)
        out = F.linear(self.grid.input(heads), self.grid.weight(self.out_proj.weight), self.out_proj.bias)
        if not need_weights:
            return out, None
        return out, weights.mean(1) if average_attn_weights else weights

    def _weights(self) -> tuple[Tensor, ...]:
        if self._qkv_same_embed_dim:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        return (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)


def take_over(target: nn.Module, source: nn.Module) -> None:
    """Give one linear or attention layer the other's parameters, the very same tensors, and its mode."""
    for name, parameter in source.named_parameters(recurse=False):
        target.register_parameter(name, parameter)
    if isinstance(source, nn.MultiheadAttention):
        target.register_module("out_proj", source.out_proj)
    target.train(source.training)


def _additive(mask: Tensor, scores: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(mask, -torch.inf)
    return mask.to(scores.dtype)


def _check_weight(elements: int, grid: RoundingGrid) -> None:
    if elements % grid.group:
        raise InputError(f"group: expected a divisor of a weight's {elements} elements, got {grid.group}")
