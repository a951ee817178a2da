"""Orders in which a word's characters are read, and what each place may look at in them."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Whole, checked

_HALF_OF_FOUR = (0, 3, 4, 6, 9, 10, 12, 16, 17, 18, 19, 21)
"""Of all orders of four characters in lexical order, those of which none is another's reverse."""
_LISTED = 4
"""Words of so many characters or fewer draw from the list of all orders, so that none comes twice."""


class OrderMasks(NamedTuple):
    """What may be looked at, True for what is seen; columns are inputs: the begin and all characters.

    Attributes:
        content: (l, l), rows are inputs; each sees itself and what came before it.
        query: (l, l), rows are targets: all characters and the end; each sees what came before it.
    """

    content: Bool[Tensor, "l l"]
    query: Bool[Tensor, "l l"]


@checked
def permutations(
    length: Whole, n: Count = 6, *, mirrored: bool = True, generator: torch.Generator | None = None
) -> Int[Tensor, "k l"]:
    """Orders in which to read the characters of a word: forward, backward, then random ones.

    The begin (0) always comes first and the end (``length + 1``) last, but in the second order, where the end comes
    before all characters and so is learnt without any.

    Source: PARSeq (arXiv 2207.06966) and the released code of CLIP4STR (arXiv 2305.14014), ``gen_tgt_perms``.

    Args:
        length: characters, of the longest word of a batch.
        n: orders; a short word has fewer.
        mirrored: let each be followed by its reverse; n is even then.
        generator: of the random orders; None is the global one.

    Returns:
        A row of ``length + 2`` places for each order.

    Raises:
        InputError: an odd number of mirrored orders.

    Example:
        >>> from tether.tasks.read import permutations
        >>> permutations(2, 6)
        tensor([[0, 1, 2, 3],
                [0, 3, 2, 1]])
    """
    if mirrored and n % 2:
        raise InputError(f"n: expected an even number of mirrored orders, got {n}")
    if length <= 1:
        return torch.arange(length + 2)[None]
    pairs = 2 if mirrored else 1
    further = min(n // pairs, math.factorial(length) // pairs) - 1
    orders = torch.cat([torch.arange(length)[None], _random(length, further, mirrored=mirrored, generator=generator)])
    if mirrored:
        orders = torch.stack([orders, orders.flip(1)], dim=1).flatten(0, 1)
    begin, end = orders.new_zeros(len(orders), 1), orders.new_full((len(orders), 1), length + 1)
    orders = torch.cat([begin, orders + 1, end], dim=1)
    if len(orders) > 1:
        orders[1, 1:] = torch.arange(length + 1, 0, -1)
    return orders


def _random(length: int, count: int, *, mirrored: bool, generator: torch.Generator | None) -> Int[Tensor, "k l"]:
    if length > _LISTED:
        rows = [torch.randperm(length, generator=generator) for _ in range(count)]
    else:
        listed = list(itertools.permutations(range(length)))
        half = _HALF_OF_FOUR if length == _LISTED else range(len(listed) // 2)
        kept = [listed[index] for index in half] if mirrored else listed
        drawn = torch.randperm(len(kept) - 1, generator=generator)[:count] + 1  # the first is forward
        rows = [torch.tensor(kept[index]) for index in drawn.tolist()]
    return torch.stack(rows) if rows else torch.empty(0, length, dtype=torch.int64)


def permutation_masks(order: Int[Tensor, " l2"]) -> OrderMasks:
    """What each place sees when characters are read in an order, of one row of ``permutations``.

    Raises:
        InputError: not an order of all places that begins with 0.
    """
    if order.ndim != 1 or order.sort().values.tolist() != list(range(len(order))) or int(order[0]) or len(order) < 2:
        raise InputError(f"order: expected 0 and then all other places once, got {order.tolist()}")
    turn = order.argsort()
    earlier = turn[None] < turn[:, None]
    itself = torch.eye(len(order), dtype=torch.bool, device=order.device)
    return OrderMasks((earlier | itself)[:-1, :-1], earlier[1:, :-1])


def cloze_mask(targets: int, inputs: int, *, device: torch.device | None = None) -> Bool[Tensor, "q l"]:
    """Each character sees the begin and the whole word but itself, True for what is seen."""
    places = torch.arange(max(targets, inputs), device=device)
    return places[None, :inputs] != places[:targets, None] + 1
