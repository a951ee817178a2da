"""The blocks of models that are no encoders: language models of transformers, and stacks of Tether's own block."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tether.core.errors import UnsupportedModelError
from tether.models.features.own import OwnBlock
from tether.models.features.parametrization import LinearPlace, NormPlace
from tether.models.features.weights import Weights, fused_linear, linear_layers, norms_within
from tether.models.towers.attention_free import NoAttention
from tether.models.towers.blocks.block import TransformerBlock

_ATTENTION = "self_attn"
_NORMS: Mapping[str, str] = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}


@dataclass(frozen=True, slots=True, eq=False)
class StackBlock:
    """One block.

    Attributes:
        name: of its module in the model, such as ``model.model.layers.0``.
        module: it.
        heads: query heads; 0 where attention was left out.
        kv_heads: heads of keys and values, fewer where queries share them.
        linears: where the weights of its linear maps lie, by names of ``models.features.weights.PARTS``.
        norms: where those of its norms lie.
        attention: name of the attention in the block, or None where it lies in the block itself.
    """

    name: str
    module: nn.Module
    heads: int
    kv_heads: int
    linears: Mapping[str, Weights]
    norms: Mapping[str, Weights]
    attention: str | None


def stack_of(model: nn.Module) -> tuple[StackBlock, ...]:
    """The blocks of a model, first to last.

    Args:
        model: with blocks of Tether's own (``TransformerBlock``), or a decoder of transformers with ``self_attn`` and
            ``mlp`` (Llama, Qwen, Mistral, Gemma, Phi-3 with one matrix for q, k and v).

    Raises:
        UnsupportedModelError: it has no such blocks.

    Example:
        >>> from tether.models.encoders.causal_lm import small_causal_lm
        >>> from tether.models.features.lm_blocks import stack_of
        >>> [block.name for block in stack_of(small_causal_lm(["a red ball"], width=32, layers=2))]
        ['model.model.layers.0', 'model.model.layers.1']
    """
    found = list[StackBlock]()
    for name, module in model.named_modules():
        if isinstance(module, TransformerBlock):
            seen = OwnBlock(module, text=True)
            heads = module.heads, module.kv_heads
            found.append(StackBlock(name, module, *heads, seen.linears(), seen.norms(), None))
        elif hasattr(module, _ATTENTION) and hasattr(module, "mlp"):
            found.append(_decoder_layer(name, module))
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__}: has no blocks that are known; expected an encoder of tether.load, Tether's own "
            f"blocks, or a decoder of transformers with {_ATTENTION} and mlp"
        )
    return tuple(found)


def _decoder_layer(name: str, layer: Any) -> StackBlock:
    attention, mlp = layer.self_attn, layer.mlp
    config = getattr(attention, "config", None)
    found = dict[str, Weights]()
    removed = isinstance(attention, NoAttention)
    heads = getattr(config, "num_attention_heads", 0)
    keys = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(attention, "head_dim", 0)
    fused = getattr(attention, "qkv_proj", None)
    if removed:
        pass
    elif not heads or not width or (fused is None and not all(hasattr(attention, f"{part}_proj") for part in "qkvo")):
        raise UnsupportedModelError(f"{name}: queries and keys of {type(attention).__name__} are not known")
    elif fused is not None:  # Phi-3
        found |= fused_linear(fused, {"q": heads * width, "k": keys * width, "v": keys * width})
    else:
        found |= linear_layers({part: getattr(attention, f"{part}_proj") for part in "qkv"})
    if not removed:
        found |= linear_layers({"o": attention.o_proj})
    both = getattr(mlp, "gate_up_proj", None)
    if both is not None:
        found |= fused_linear(both, {"gate": both.out_features // 2, "up": both.out_features // 2})
    named = {part: getattr(mlp, f"{part}_proj", None) for part in ("gate", "up", "down")}
    found |= linear_layers({part: one for part, one in named.items() if one is not None})
    return StackBlock(name, layer, heads, keys, found, norms_within(layer, names=_NORMS), _ATTENTION)


def repeated_blocks(parts: Iterable[nn.Module]) -> tuple[nn.Module, ...]:
    """The blocks of a tower that is not known from inside, such as BERT's: alike, with norms, in one list.

    Args:
        parts: modules that the tower is made of.

    Raises:
        UnsupportedModelError: no such list, or several, as of convolutional stages.
    """
    found: list[tuple[nn.Module, ...]] = []
    queue = list(parts)
    while queue:
        module = queue.pop(0)
        inner = tuple(module.children())
        alike = isinstance(module, nn.ModuleList) and len({type(one) for one in inner}) == 1
        if alike and all(norms_within(one, names={}) for one in inner):
            found.append(inner)
        else:
            queue += inner
    if len(found) != 1:
        raise UnsupportedModelError(f"expected one list of blocks with norms, got {len(found)}")
    return found[0]


def stack_linears(model: nn.Module, *, parts: Sequence[str], blocks: Sequence[int]) -> tuple[LinearPlace, ...]:
    """The linear maps of chosen blocks, as ``models.features.parametrization.linears`` of a tower."""
    found, names = list[LinearPlace](), {id(module): name for name, module in model.named_modules()}
    for index, block in enumerate(stack_of(model)):
        heads = {"q": block.heads, "o": block.heads, "k": block.kv_heads, "v": block.kv_heads}
        for part in parts if index in blocks else ():
            if part in block.linears:
                one = block.linears[part]
                tensor = f"{names[id(one.weight.module)]}.{one.weight.name}"
                found.append(LinearPlace(f"blocks.{index}.{part}", index, part, tensor, one, heads.get(part, 0)))
    return tuple(found)


def stack_norms(model: nn.Module) -> tuple[NormPlace, ...]:
    """The norms inside the blocks, as ``models.features.parametrization.norms`` of a tower."""
    names = {id(module): name for name, module in model.named_modules()}
    return tuple(
        NormPlace(f"blocks.{index}.{part}", index, part, f"{names[id(one.weight.module)]}.{one.weight.name}", one)
        for index, block in enumerate(stack_of(model))
        for part, one in block.norms.items()
    )


@torch.no_grad()
def entering(
    model: Callable[..., object], blocks: Sequence[nn.Module], *inputs: Any
) -> tuple[Tensor, list[Mapping[str, Any]]]:
    """What enters the blocks of a model in one forward pass.

    Args:
        model: it, or its call for one side.
        blocks: all of its blocks.
        inputs: that the model is called with.

    Returns:
        The states that enter the first block, and what else each is called with, by name.

    Raises:
        UnsupportedModelError: a block is called otherwise, or not once.
    """
    states, keywords = list[Tensor](), list[Mapping[str, Any]]()

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not args or not isinstance(args[0], Tensor):
            raise UnsupportedModelError(f"{type(module).__name__}: expected to be called with states first")
        names = list(inspect.signature(module.forward).parameters)[: len(args)]
        states.append(args[0].detach())
        keywords.append({**dict(zip(names[1:], args[1:], strict=True)), **kwargs})

    hooks = [block.register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != len(blocks):
        raise UnsupportedModelError(f"expected each of {len(blocks)} blocks to be called once, got {len(states)} calls")
    return states[0], keywords
