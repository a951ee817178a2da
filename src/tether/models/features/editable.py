"""Which layers of a model an edit takes: the linear and attention layers that lie in repeated blocks."""

from __future__ import annotations

import re

from torch import nn
from torch.nn.utils import parametrize

from tether.core.errors import InputError

IN_A_BLOCK = r"(^|\.)\d+\."
"""A number among the parts of a module's name: it lies in a repeated layer. Embeddings and heads do not."""


def name_pattern(text: str, *, where: str) -> re.Pattern[str]:
    """A compiled regular expression; InputError for what is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(f"{where}: not a regular expression: {text!r} ({error})") from None


def editable_layers(
    model: nn.Module, pattern: re.Pattern[str], *, where: str
) -> dict[str, nn.Linear | nn.MultiheadAttention]:
    """Linear layers and torch's attention by dotted name, those that a pattern is found in.

    Args:
        model: any module.
        pattern: of names.
        where: the setting, for errors.

    Raises:
        InputError: no layer matches, or a layer's weight is used past its forward (timm's EVA and BEiT with a bias of
            the queries alone), so that an edit of the layer would do nothing, or its weights are exchanged.
    """
    plain = {
        name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.MultiheadAttention))
    }
    # The output projection inside torch's attention is edited with it.
    inner = {f"{name}.out_proj" for name, module in plain.items() if isinstance(module, nn.MultiheadAttention)}
    chosen = {name: module for name, module in plain.items() if pattern.search(name) and name not in inner}
    if not chosen:
        known = ", ".join(list(plain)[:5]) or "none"
        raise InputError(f"{where}: no layer's name holds {pattern.pattern!r}; there are {known}")
    for name, module in chosen.items():
        if any(parametrize.is_parametrized(part) for part in module.modules()):
            raise InputError(f"{name}: its weights are exchanged already; merge_ or take_back_ that first")
        parent = model.get_submodule(name.rpartition(".")[0])
        if name.endswith("qkv") and "q_bias" in dict(parent.named_parameters(recurse=False)):
            raise InputError(
                f"{name}: {type(parent).__name__} reads this layer's weight and never calls it, so an edit would do "
                f"nothing; leave it out by another {where!r}"
            )
    return chosen
