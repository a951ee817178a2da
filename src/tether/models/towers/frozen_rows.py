"""A table of which the first rows rest: they are no parameter, so no gradient, decay or optimiser state is theirs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tether.core.errors import InputError
from tether.core.ranges import Count, checked


class KeptRows(nn.Module):
    """The first rows of a table, put before those that are learnt; a parametrization of ``torch.nn.utils``.

    Attributes:
        first: (k, w) the rows that rest, a buffer.
    """

    def __init__(self, first: Float[Tensor, "k w"]) -> None:
        """Args: first: the rows."""
        super().__init__()
        self.register_buffer("first", first.detach().clone())

    def forward(self, rest: Float[Tensor, "n w"]) -> Float[Tensor, "m w"]:
        """The whole table."""
        return torch.cat([self.get_buffer("first").to(rest.dtype), rest])

    def right_inverse(self, table: Float[Tensor, "m w"]) -> Float[Tensor, "n w"]:
        """The rows of a table that are learnt; the others stay what they are."""
        return table[len(self.get_buffer("first")) :].clone()


@checked
def keep_rows_(module: nn.Module, name: str, *, count: Count) -> None:
    """Let the first rows of a module's table rest; what it computes stays the same.

    The rows after them are then its parameter, ``parametrizations.NAME.original``, and the table is put together
    whenever it is read. A state with the plain table still loads, and gives both their rows.

    Args:
        module: that has the table.
        name: of the parameter, (n, w).
        count: of the rows that rest, at most n - 2.

    Raises:
        InputError: too many rows, or a table that is kept already.

    Example:
        >>> import torch
        >>> from tether.models.towers.frozen_rows import free_rows_, keep_rows_
        >>> table = torch.nn.Embedding(10, 4)
        >>> plain = {"weight": torch.arange(40.0).view(10, 4)}
        >>> keep_rows_(table, "weight", count=6)
        >>> [tuple(value.shape) for value in table.parameters()]
        [(4, 4)]
        >>> _ = table.load_state_dict(plain)
        >>> free_rows_(table, "weight")
        >>> torch.equal(table.weight, plain["weight"])
        True
    """
    if parametrize.is_parametrized(module, name):
        raise InputError(f"{type(module).__name__}: {name}: some of its rows rest already")
    table = module.get_parameter(name)
    if count > len(table) - 2:
        raise InputError(f"keep: expected at most {len(table) - 2} of {len(table)} rows, got {count}")
    learns = table.requires_grad
    parametrize.register_parametrization(module, name, KeptRows(table[:count]))
    module.get_parameter(f"parametrizations.{name}.original").requires_grad_(learns)
    module.register_load_state_dict_pre_hook(partial(_split, name))


def free_rows_(module: nn.Module, name: str) -> None:
    """Make the table one parameter again.

    Raises:
        InputError: none of its rows rest.
    """
    if not parametrize.is_parametrized(module, name):
        raise InputError(f"{type(module).__name__}: {name}: none of its rows rest")
    parametrize.remove_parametrizations(module, name)


def _split(name: str, module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take a plain table apart as the module has it."""
    if prefix + name in state and parametrize.is_parametrized(module, name):
        table, inside = state.pop(prefix + name), f"parametrizations.{name}"
        count = len(module.get_buffer(f"{inside}.0.first"))
        state[f"{prefix}{inside}.0.first"], state[f"{prefix}{inside}.original"] = table[:count], table[count:]
