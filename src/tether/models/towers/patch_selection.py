"""Which patches of an image a tower sees: at random, a few of each window, one rectangle, or those that matter."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Count, Part, Whole, checked
from tether.core.registry import Registry
from tether.core.types import Features
from tether.models.towers.positions import Pair

CountRule = Literal["round", "truncate", "truncate_plus_one"]
Order = Literal["place", "score"]
End = Literal["smallest", "largest"]


@checked
def kept_count(tokens: Whole, *, keep: Part, rule: CountRule = "round", least: Whole = 1) -> int:
    """How many of ``tokens`` a share is, never more than all.

    Published codes differ: PatchDropout of open_clip, CLIPA and EVA truncates and leaves at least one; CLIPA's JAX code
    truncates (``least=0``); A-CLIP truncates and adds one. A mask of ``ratio`` is ``keep = 1 - ratio``.

    Args:
        tokens: there are.
        keep: share of them, in (0, 1].
        rule: ``round`` to the nearest number, ``truncate``, or ``truncate_plus_one``.
        least: of the result.

    Example:
        >>> from tether.models.towers.patch_selection import kept_count
        >>> kept_count(256, keep=1 - 0.3), kept_count(256, keep=1 - 0.3, rule="truncate")
        (179, 179)
        >>> kept_count(49, keep=0.5, rule="truncate_plus_one")
        25
    """
    exact = tokens * keep
    count = round(exact) if rule == "round" else int(exact) + (rule == "truncate_plus_one")
    return min(tokens, max(least, count))


def best_tokens(
    scores: Float[Tensor, "b n"], *, count: int, end: End = "largest", order: Order = "place"
) -> Int[Tensor, "b k"]:
    """The places of the ``count`` best scores of each row; of equal ones the first.

    Args:
        scores: noise, or how much each token matters; finite.
        count: of places, at most n.
        end: which scores are best.
        order: of the places: ``place``, rising; or ``score``, the best first, as PatchDropout (``largest``) and CLIPA's
            JAX code (``smallest``) leave their tokens.

    Raises:
        InputError: more places than there are.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import best_tokens
        >>> scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
        >>> best_tokens(scores, count=2).tolist(), best_tokens(scores, count=3, order="score").tolist()
        ([[1, 3]], [[1, 3, 2]])
    """
    if not 0 <= count <= scores.shape[1]:
        raise InputError(f"count: expected 0 to {scores.shape[1]}, the tokens of a row, got {count}")
    best = scores.argsort(dim=1, descending=end == "largest", stable=True)[:, :count]
    return best if order == "score" else best.sort(dim=1).values


def take_tokens(x: Shaped[Tensor, "b n w"], keep: Int[Tensor, "b k"], *, prefix: Whole = 1) -> Shaped[Tensor, "b m w"]:
    """Of a stream of tokens its first ``prefix`` (class token, registers), then those that ``keep`` names.

    ``keep`` counts after the prefix. Positions must have been added before, or be turned by the same places.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import take_tokens
        >>> take_tokens(torch.arange(5)[None, :, None], torch.tensor([[3, 0]])).flatten().tolist()
        [0, 4, 1]
    """
    chosen = x[:, prefix:].gather(1, keep[..., None].expand(-1, -1, x.shape[2]))
    return torch.cat([x[:, :prefix], chosen], dim=1)


def removed_tokens(keep: Int[Tensor, "b k"], *, tokens: Count) -> Bool[Tensor, "b n"]:
    """True at each of ``tokens`` places that ``keep`` does not name.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import removed_tokens
        >>> removed_tokens(torch.tensor([[2, 0]]), tokens=4).tolist()
        [[False, True, False, True]]
    """
    return torch.ones(len(keep), tokens, dtype=torch.bool, device=keep.device).scatter(1, keep, False)


class TokenChoice(abc.ABC):
    """Chooses equally many patches of each image of a batch, by one score for each patch.

    Attributes:
        scored: ``noise`` where the scores are drawn evenly from [0, 1), or ``attention``: how much an encoder's pooling
            token attends to each patch, see ``patch_attention``; or ``views``: see ``scores``.
        views: names of the step's views whose features the scores are made of; those are encoded first.
    """

    scored: Literal["noise", "attention", "views"] = "noise"
    views: Sequence[str] = ()

    def check_views(self, view: str, views: Mapping[str, Any]) -> None:
        """Refuse a step whose ``views``, by name, cannot give the scores for the patches of one of them.

        Raises:
            InputError: such a step; it names the view and what was expected.
        """
        for name in self.views:
            if name not in views:
                raise InputError(f"step: views: {view}: patches: unknown view {name!r}; {closest(name, views)}")

    def scored_at(self, step: int, *, steps: int) -> bool:
        """Whether ``views`` give the scores at this step of a run, and noise does not."""
        return self.scored == "views"

    def scores(self, features: Mapping[str, Features]) -> Float[Tensor, "b n"]:
        """The scores of each patch, from the features of ``views``; asked only where ``scored`` is ``views``."""
        raise NotImplementedError(f"{type(self).__name__} is scored by {self.scored}")

    @abc.abstractmethod
    def count(self, grid: Pair) -> int:
        """How many patches of a grid (rows, columns) it keeps."""

    @abc.abstractmethod
    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """The patches that are kept, counted row by row from the top left.

        Args:
            scores: one for each patch; on any device.
            grid: rows and columns, of product n.

        Raises:
            InputError: a grid that the choice cannot cut, or scores of another number of patches.
        """


class RandomTokens(TokenChoice):
    """Any patches (FLIP, arXiv 2212.00794; CLIPA, arXiv 2305.07017).

    CLIPA's two codes are ``rule: truncate, order: score``: with ``end: largest`` PyTorch's (PatchDropout, which draws
    normal noise; the patches are as likely), with ``end: smallest`` JAX's.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import RandomTokens
        >>> choice = RandomTokens(keep=0.25)
        >>> choice(torch.rand(8, 16), grid=(4, 4)).shape, choice.count((7, 7))
        (torch.Size([8, 4]), 12)
    """

    @checked
    def __init__(
        self, *, keep: Part = 0.5, rule: CountRule = "round", end: End = "smallest", order: Order = "place"
    ) -> None:
        """Take the settings.

        Args:
            keep: share of the patches.
            rule: how the share becomes a number, see ``kept_count``.
            end: which noise stays.
            order: of the patches, see ``best_tokens``; it changes no embedding.
        """
        self.keep, self.rule, self.end, self.order = keep, rule, end, order

    def count(self, grid: Pair) -> int:
        """See TokenChoice."""
        return kept_count(grid[0] * grid[1], keep=self.keep, rule=self.rule)

    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """See TokenChoice."""
        return best_tokens(check_scores(scores, grid), count=self.count(grid), end=self.end, order=self.order)


class GridTokens(TokenChoice):
    """Equally many patches of each window, so that no part of the image goes unseen (arXiv 2305.07017, section 3.1).

    No released code has it; the details are ours. Which patches of a window stay is drawn apart in each.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import GridTokens
        >>> GridTokens(each=1)(torch.rand(8, 16), grid=(4, 4)).div(8, rounding_mode="floor").tolist()[0]
        [0, 0, 1, 1]
    """

    @checked
    def __init__(self, *, window: Count = 2, each: Count = 1) -> None:
        """Take the settings.

        Args:
            window: patches of a window's side; both sides of the grid are multiples of it.
            each: patches of a window that stay: 1 of 2 x 2 drops three quarters.

        Raises:
            InputError: more patches than a window has.
        """
        if each > window**2:
            raise InputError(f"each: expected at most {window**2}, the patches of a window, got {each}")
        self.window, self.each = window, each

    def count(self, grid: Pair) -> int:
        """See TokenChoice."""
        _cut(grid, self.window, name="window")
        return grid[0] * grid[1] // self.window**2 * self.each

    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """See TokenChoice; the largest scores of a window stay."""
        count = self.count(grid)
        windows = _windows(check_scores(scores, grid), grid, self.window)
        best = best_tokens(windows.flatten(0, 1), count=self.each).unflatten(0, windows.shape[:2])
        places = torch.arange(scores.shape[1], device=scores.device).expand(len(scores), -1)
        found = _windows(places, grid, self.window).gather(2, best)
        return found.reshape(len(scores), count).sort(dim=1).values


class BlockTokens(TokenChoice):
    """One rectangle of patches, the same size in every image (arXiv 2305.07017, section 3.1).

    No released code has it; the details are ours. The rectangle has the proportions of the image unless ``size`` says
    otherwise, and each place where it fits is as likely.

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import BlockTokens
        >>> peak = torch.zeros(1, 16)
        >>> peak[0, 5] = 1
        >>> BlockTokens(keep=0.25)(peak, grid=(4, 4)).tolist()
        [[5, 6, 9, 10]]
    """

    @checked
    def __init__(
        self, *, keep: Part = 0.25, rule: CountRule = "round", size: tuple[Count, Count] | None = None
    ) -> None:
        """Take the settings.

        Args:
            keep: share of the patches; of each side its square root.
            rule: how that becomes a number of patches of a side, see ``kept_count``.
            size: patches down and across; instead of ``keep``.
        """
        self.keep, self.rule, self.size = keep, rule, size

    def count(self, grid: Pair) -> int:
        """See TokenChoice."""
        down, across = self._size(grid)
        return down * across

    def _size(self, grid: Pair) -> Pair:
        if self.size is None:
            down, across = (kept_count(side, keep=self.keep**0.5, rule=self.rule) for side in grid)
            return down, across
        if self.size[0] > grid[0] or self.size[1] > grid[1]:
            raise InputError(f"size: expected at most {grid[0]} x {grid[1]} patches, got {self.size}")
        return self.size

    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """See TokenChoice; the rectangle begins at the largest score of all patches where one may begin."""
        down, across = self._size(grid)
        starts = check_scores(scores, grid).unflatten(1, grid)[:, : grid[0] - down + 1, : grid[1] - across + 1]
        first = best_tokens(starts.flatten(1), count=1)
        top, left = first.div(starts.shape[2], rounding_mode="floor"), first % starts.shape[2]
        rows = top + torch.arange(down, device=scores.device)
        columns = left + torch.arange(across, device=scores.device)
        return (rows[:, :, None] * grid[1] + columns[:, None]).flatten(1)


class AttentiveTokens(TokenChoice):
    """The patches that an encoder attends to, in cells of neighbours (A-CLIP, arXiv 2212.08653, and its code).

    Example:
        >>> import torch
        >>> from tether.models.towers.patch_selection import AttentiveTokens
        >>> AttentiveTokens(keep=0.5).count((14, 14))  # 25 of 49 cells of 2 x 2
        100
    """

    scored = "attention"

    @checked
    def __init__(self, *, keep: Part = 0.5, pool: Count = 2, rule: CountRule = "truncate_plus_one") -> None:
        """Take the settings.

        Args:
            keep: share of the cells.
            pool: patches of a cell's side, whose scores are averaged; both sides of the grid are multiples of it.
            rule: how the share becomes a number of cells, see ``kept_count``.
        """
        self.keep, self.pool, self.rule = keep, pool, rule

    def count(self, grid: Pair) -> int:
        """See TokenChoice."""
        _cut(grid, self.pool, name="pool")
        return kept_count(grid[0] * grid[1] // self.pool**2, keep=self.keep, rule=self.rule) * self.pool**2

    def __call__(self, scores: Float[Tensor, "b n"], *, grid: Pair) -> Int[Tensor, "b k"]:
        """See TokenChoice; the cells of the largest mean score stay."""
        cells = self.count(grid) // self.pool**2
        means = _windows(check_scores(scores, grid), grid, self.pool).mean(dim=2)
        places = torch.arange(scores.shape[1], device=scores.device)[None]
        inside = _windows(places, grid, self.pool)[0]
        return inside[best_tokens(means, count=cells)].flatten(1).sort(dim=1).values


TOKEN_CHOICES: Registry[TokenChoice] = Registry(
    "token_choices",
    {
        "random": "tether.models.towers.patch_selection:RandomTokens",
        "grid": "tether.models.towers.patch_selection:GridTokens",
        "block": "tether.models.towers.patch_selection:BlockTokens",
        "attentive": "tether.models.towers.patch_selection:AttentiveTokens",
    },
)
"""Ways to choose the patches that a tower sees, by name."""


def _cut(grid: Pair, side: int, *, name: str) -> None:
    """Refuse a grid that windows of this side do not fill."""
    if grid[0] % side or grid[1] % side:
        raise InputError(
            f"{name}: expected a grid whose sides are multiples of {side}, got {grid[0]} x {grid[1]} patches"
        )


def check_scores(scores: Tensor, grid: Pair) -> Tensor:
    """The scores as they are; refused if they are not one for each patch of the grid."""
    if scores.shape[1] != grid[0] * grid[1]:
        raise InputError(f"scores: expected {grid[0]} x {grid[1]} for each image, got {scores.shape[1]}")
    return scores


def _windows(values: Shaped[Tensor, "b n"], grid: Pair, side: int) -> Shaped[Tensor, "b w s"]:
    """What stands in each window, windows and their places row by row."""
    cut = values.reshape(-1, grid[0] // side, side, grid[1] // side, side)
    return cut.transpose(2, 3).reshape(len(values), -1, side**2)
