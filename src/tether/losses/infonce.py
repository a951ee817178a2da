"""InfoNCE without the B x B matrix: the one core under every contrastive loss of this package.

The logits are made a tile of rows at a time. The forward keeps the log-sum-exp of each row and, online, of each column;
the backward makes each tile once more and adds both gradients. One ``exp`` serves both directions where the numbers
allow it. Peak memory grows with B x tile, and it is faster than the plain form because no large block is ever touched
twice, so it is used at every size. The idea is that of Inf-CL (arXiv 2410.17243), here with plain matrix products.

Gradients are first-order only: differentiating them again is an error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Decay, checked

TILE_BYTES = {"cpu": 16 << 20}
"""Size of one tile of logits by device: on the CPU about the last-level cache."""
ACCELERATOR_TILE_BYTES = 256 << 20
LEAST_TILE_ROWS = 64
"""Fewer rows would make the matrix products inefficient."""


class PairLosses(NamedTuple):
    """Losses of each pair in both directions.

    Attributes:
        left: (b,) each left row among all right rows.
        right: (b,) each right row among all left rows.
    """

    left: Float[Tensor, " b"]
    right: Float[Tensor, " b"]


class Searched(NamedTuple):
    """What rows found among all candidates of the other side.

    Attributes:
        losses: (b,) cross-entropy, with gradient.
        hits: (b,) whether the positive is the most similar; of equal ones the first is.
    """

    losses: Float[Tensor, " b"]
    hits: Bool[Tensor, " b"]


@checked
def info_nce(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float,
    offset: int = 0,
    query_labels: Int[Tensor, " b"] | None = None,
    key_labels: Int[Tensor, " n"] | None = None,
    label_smoothing: Decay = 0.0,
) -> Float[Tensor, " b"]:
    """Cross-entropy of each query among all keys; the positive of query i is key ``offset + i``.

    With labels, every key of a query's label is its positive and the target is shared equally among them. Keys
    beyond the positives are further negatives. Half-precision rows are widened to float32; float64 stays.

    Args:
        queries: rows, of any length.
        keys: at least ``offset + b`` rows.
        scale: multiplier of the dot products.
        offset: row of the first query's positive.
        query_labels: equal for queries that mean the same; needs ``key_labels``.
        key_labels: of the keys; the positive must have its query's label.
        label_smoothing: share of the target spread over all keys, in [0, 1).
    """
    queries, keys = widen(queries, keys)
    if keys.shape[0] < offset + queries.shape[0]:
        raise InputError(f"expected at least {offset} + {queries.shape[0]} keys, got {keys.shape[0]}")
    if (query_labels is None) != (key_labels is None):
        raise InputError("query_labels and key_labels come together or not at all")
    multiplier = scale_like(scale, rows=queries)
    count = queries.shape[0]
    losses, *_ = _TiledPairs.apply(queries, keys, multiplier, offset, count, False, False)
    wanted = _target(keys[offset : offset + count], keys, query_labels, key_labels, label_smoothing)
    return losses if wanted is None else losses + multiplier * (queries * wanted).sum(dim=1)


@checked
def info_nce_pairs(
    left: Float[Tensor, "b d"],
    right: Float[Tensor, "b d"],
    *,
    scale: Float[Tensor, ""] | float,
    extra_left: Float[Tensor, "k d"] | None = None,
    extra_right: Float[Tensor, "k2 d"] | None = None,
    labels: Int[Tensor, " b"] | None = None,
    label_smoothing: Decay = 0.0,
) -> PairLosses:
    """Cross-entropy of each pair in both directions, from one pass over the logits.

    Args:
        left: rows, of any length; row i and ``right[i]`` are one pair.
        right: as many rows.
        scale: multiplier of the dot products.
        extra_left: further negatives for the right rows.
        extra_right: further negatives for the left rows.
        labels: equal for pairs that mean the same: each is a positive of the others, with an equal share.
        label_smoothing: share of the target spread over all candidates, in [0, 1).
    """
    left, right = widen(left, right)
    count = left.shape[0]
    if right.shape[0] != count:
        raise InputError(f"expected as many left as right rows, got {tuple(left.shape)} and {tuple(right.shape)}")
    multiplier = scale_like(scale, rows=left)
    lefts = left if extra_left is None else torch.cat([left, extra_left.to(left.dtype)])
    rights = right if extra_right is None else torch.cat([right, extra_right.to(left.dtype)])
    left_loss, right_loss, *_ = _TiledPairs.apply(lefts, rights, multiplier, 0, count, True, False)
    wanted = _target(right, rights, labels, labels, label_smoothing)
    if wanted is not None:
        left_loss = left_loss + multiplier * (left * wanted).sum(dim=1)
    wanted = _target(left, lefts, labels, labels, label_smoothing)
    if wanted is not None:
        right_loss = right_loss + multiplier * (right * wanted).sum(dim=1)
    return PairLosses(left_loss, right_loss)


def search(
    queries: Float[Tensor, "b d"], keys: Float[Tensor, "n d"], *, scale: Float[Tensor, ""] | float, offset: int = 0
) -> Searched:
    """``info_nce`` without labels, and its hits, from one pass over the logits; ``scale`` is above 0."""
    queries, keys = widen(queries, keys)
    count = queries.shape[0]
    if keys.shape[0] < offset + count:
        raise InputError(f"expected at least {offset} + {count} keys, got {keys.shape[0]}")
    losses, _, hits, _ = _TiledPairs.apply(queries, keys, scale_like(scale, rows=queries), offset, count, False, True)
    return Searched(losses, hits)


def search_pairs(
    left: Float[Tensor, "b d"],
    right: Float[Tensor, "b d"],
    *,
    scale: Float[Tensor, ""] | float,
    extra_right: Float[Tensor, "k d"],
) -> tuple[Searched, Searched]:
    """``info_nce_pairs`` without labels, and the hits of both directions, from one pass; ``scale`` is above 0."""
    left, right = widen(left, right)
    count = left.shape[0]
    if right.shape[0] != count:
        raise InputError(f"expected as many left as right rows, got {tuple(left.shape)} and {tuple(right.shape)}")
    rights = torch.cat([right, extra_right.to(left.dtype)])
    found = _TiledPairs.apply(left, rights, scale_like(scale, rows=left), 0, count, True, True)
    return Searched(found[0], found[2]), Searched(found[1], found[3])


def label_classes(labels: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The place of each label among the distinct ones in order; unlike ``unique``, without waiting for their number."""
    ordered, order = labels.sort(stable=True)
    fresh = torch.zeros_like(order)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(order).scatter_(0, order, fresh.cumsum(0))


def class_means(rows: Float[Tensor, "n d"], classes: Int[Tensor, " n"], count: int) -> Float[Tensor, "c d"]:
    """Mean of the rows of each class; zero for a class without rows."""
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, classes, rows)
    sizes = torch.zeros(count, dtype=rows.dtype, device=rows.device).index_add(0, classes, torch.ones_like(rows[:, 0]))
    return sums / sizes.clamp(min=1).unsqueeze(1)


def _target(
    positives: Tensor, candidates: Tensor, own: Tensor | None, theirs: Tensor | None, smoothing: float
) -> Tensor | None:
    """The one positive minus the mean row under the wanted target; None when they are the same.

    The tiles give the loss against a single positive. The target enters that loss only through a dot product with
    its mean row, so any other target is this much away, at the price of a few passes over (b, d).
    """
    if own is None and smoothing == 0:
        return None
    mean = positives
    if own is not None and theirs is not None:
        if own.shape != positives.shape[:1]:
            raise InputError(f"labels: expected shape ({len(positives)},), got {tuple(own.shape)}")
        labelled = candidates[: len(theirs)]
        classes = label_classes(torch.cat([own, theirs]))
        mean = class_means(labelled, classes[len(own) :], len(classes))[classes[: len(own)]]
    if smoothing > 0:
        mean = mean + smoothing * (candidates.mean(dim=0) - mean)
    return positives - mean


def widen(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both sides in one dtype of at least float32."""
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1]:
        raise InputError(f"expected rows (b, d) of one width, got {tuple(left.shape)} and {tuple(right.shape)}")
    if 0 in (*left.shape, *right.shape):
        raise InputError(f"expected at least one pair, got {tuple(left.shape)} and {tuple(right.shape)}")
    dtype = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return left.to(dtype), right.to(dtype)


def scale_like(scale: Tensor | float, *, rows: Tensor) -> Float[Tensor, ""]:
    """A multiplier as 0-d tensor of the rows' device and dtype; that of a number is made there, without a copy."""
    return scale.to(rows.device, rows.dtype) if isinstance(scale, Tensor) else rows.new_full((), scale)


def tile_rows(rows: int, columns: int, *, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of one tile of logits."""
    budget = TILE_BYTES.get(device.type, ACCELERATOR_TILE_BYTES)
    return min(rows, max(LEAST_TILE_ROWS, budget // (columns * dtype.itemsize)))


def refuse_second_order() -> None:
    """Called in a backward: with ``create_graph=True`` its result would silently count as constant.

    Raises:
        InputError: a graph of the gradient is wanted.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the tiled losses have first-order gradients only, create_graph=True was given; use tether.losses.reference"
        )


class _TiledPairs(torch.autograd.Function):
    """Negative log-likelihood of the pairs (i, offset + i), i < count, among rows and, if asked, among columns.

    With ``hits`` also whether each pair is the first maximum of its row, and of its column.
    """

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, scale: Tensor, offset: int, count: int, columns: bool, hits: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        with torch.autocast(left.device.type, enabled=False):
            rows, width = left.shape[0], right.shape[0]
            height = tile_rows(rows, width, dtype=left.dtype, device=left.device)
            buffer = left.new_empty(height, width)
            top, total = left.new_empty(rows), left.new_empty(rows)
            peak, mass = left.new_full((width,), -torch.inf), left.new_zeros(width)
            positive = left.new_empty(count)
            found = Hits(left, offset=offset, count=count) if hits else None
            kept = None
            for start in range(0, rows, height):
                stop = min(start + height, rows)
                logits = _logits(left, right, scale, start, stop, out=buffer)
                paired = pair_entries(logits, start=start, count=count, offset=offset)
                positive[start : start + len(paired)] = paired
                if found is not None:
                    found.look_(logits, start=start, columns=columns)
                torch.amax(logits, dim=1, out=top[start:stop])
                if columns and left.device.type != "cpu":
                    high = logits.amax(dim=0)
                    _merge_(peak, mass, high, (logits - high).exp_().sum(dim=0))
                shared = logits.sub_(top[start:stop, None]).exp_()
                torch.sum(shared, dim=1, out=total[start:stop])
                if columns and left.device.type == "cpu":
                    high = top[start:stop].max()
                    part = torch.mv(shared.T, (top[start:stop] - high).exp())
                    if bool(part.min() >= _floor(part)):
                        _merge_(peak, mass, high, part)
                        kept = shared if height == rows else None
                    else:  # too far below the tile's peak for one exp: take each column's own maximum
                        logits = _logits(left, right, scale, start, stop, out=buffer)
                        column_high = logits.amax(dim=0)
                        _merge_(peak, mass, column_high, logits.sub_(column_high).exp_().sum(dim=0))
                elif height == rows and not columns:
                    kept = shared
            losses = total[:count].log() + (top[:count] - positive)
            if columns:
                span = slice(offset, offset + count)
                column_losses = mass[span].log() + (peak[span] - positive)
            else:
                column_losses = left.new_zeros(0)
        ctx.save_for_backward(left, right, scale, top, total, peak, mass, kept)
        ctx.offset, ctx.count, ctx.columns = offset, count, columns
        if found is None:
            return losses, column_losses, None, None
        row_hits, column_hits = found.of_rows(), found.of_columns(positive)
        ctx.mark_non_differentiable(row_hits, column_hits)
        return losses, column_losses, row_hits, column_hits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        grad_rows, grad_columns = grad_outputs[:2]
        left, right, scale, top, total, peak, mass, kept = ctx.saved_tensors
        offset, count, columns = ctx.offset, ctx.count, ctx.columns
        needs_left, needs_right, needs_scale = ctx.needs_input_grad[:3]
        with torch.autocast(left.device.type, enabled=False):
            rows, width = left.shape[0], right.shape[0]
            height = tile_rows(rows, width, dtype=left.dtype, device=left.device)
            buffer = left.new_empty(height, width) if kept is None else kept
            second = left.new_empty(height, width)
            row_weight = left.new_zeros(rows)
            row_weight[:count] = grad_rows
            row_weight /= total
            column_weight = left.new_zeros(width)
            diagonal_weight = grad_rows
            if columns:
                column_weight[offset : offset + count] = grad_columns
                column_weight /= mass
                diagonal_weight = grad_rows + grad_columns
            lowest = (peak + mass.log()).min() if columns else None
            grad_left = torch.empty_like(left) if needs_left or needs_scale else None
            grad_right = torch.zeros_like(right) if needs_right else None
            grad_scale = torch.zeros_like(scale)
            for start in range(0, rows, height):
                stop = min(start + height, rows)
                tile = _tile_gradient(
                    buffer[: stop - start]
                    if kept is not None
                    else _logits(left, right, scale, start, stop, out=buffer),
                    ready=kept is not None,
                    top=top[start:stop],
                    peak=peak,
                    row_weight=row_weight[start:stop],
                    column_weight=column_weight if columns else None,
                    lowest=lowest,
                    out=second,
                )
                paired = pair_entries(tile, start=start, count=count, offset=offset)
                paired.sub_(diagonal_weight[start : start + len(paired)])
                if grad_left is not None:
                    torch.mm(tile, right, out=grad_left[start:stop])
                    grad_scale += (grad_left[start:stop] * left[start:stop]).sum()
                if grad_right is not None:
                    grad_right.addmm_(tile.T, left[start:stop])
            for grad in (grad_left, grad_right):
                if grad is not None:
                    grad.mul_(scale)
        return grad_left if needs_left else None, grad_right, grad_scale if needs_scale else None, *(None,) * 4


def _logits(left: Tensor, right: Tensor, scale: Tensor, start: int, stop: int, *, out: Tensor) -> Tensor:
    return torch.mm(left[start:stop] * scale, right.T, out=out[: stop - start])


def pair_entries(tile: Tensor, *, start: int, count: int, offset: int) -> Tensor:
    """The entries of the pairs inside a tile that begins at row ``start``."""
    paired = max(0, min(tile.shape[0], count - start))
    return tile[:paired, offset + start : offset + start + paired].diagonal()


def _merge_(peak: Tensor, mass: Tensor, other_peak: Tensor, other_mass: Tensor) -> None:
    """Add ``other_mass * exp(other_peak)`` to the running sums ``mass * exp(peak)``."""
    high = torch.maximum(peak, other_peak)
    mass.mul_((peak - high).exp_()).add_(other_mass * (other_peak - high).exp())
    peak.copy_(high)


def _floor(values: Tensor) -> float:
    """Below this a sum may have lost terms that matter to underflow."""
    limits = torch.finfo(values.dtype)
    return limits.tiny / limits.eps


def _tile_gradient(
    tile: Tensor,
    *,
    ready: bool,
    top: Tensor,
    peak: Tensor,
    row_weight: Tensor,
    column_weight: Tensor | None,
    lowest: Tensor | None,
    out: Tensor,
) -> Tensor:
    """Weighted softmax of the rows plus weighted softmax of the columns; ``ready`` tiles are exp(logits - top)."""
    out = out[: tile.shape[0]]
    if column_weight is None or lowest is None:
        shared = tile if ready else tile.sub_(top[:, None]).exp_()
        return torch.mul(shared, row_weight[:, None], out=out)
    high = top.max()
    # exp(z - peak) is exp(z - top) times an outer product, as long as neither factor leaves the range of the dtype.
    if tile.device.type == "cpu" and (ready or bool(high - lowest <= _REACH[tile.dtype])):
        shared = tile if ready else tile.sub_(top[:, None]).exp_()
        torch.outer((top - high).exp(), column_weight * (high - peak).exp(), out=out)
        return out.add_(row_weight[:, None]).mul_(shared)
    torch.sub(tile, peak, out=out).exp_().mul_(column_weight)
    return out.add_(tile.sub_(top[:, None]).exp_().mul_(row_weight[:, None]))


_REACH = {torch.float32: 60.0, torch.float64: 600.0}
"""Logarithm of the largest ratio that leaves room for seven, or sixteen, digits above the smallest number."""


class Hits:
    """Looks at the logits tile by tile; columns are compared, since ``argmax`` over them is slow."""

    def __init__(self, rows: Float[Tensor, "r d"], *, offset: int, count: int) -> None:
        """Args: rows: of the logits; offset: column of the first pair; count: of the pairs."""
        self.offset, self.count = offset, count
        self._best = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self._peak, self._before = rows.new_full((2, count), -torch.inf)

    def look_(self, logits: Float[Tensor, "h n"], *, start: int, columns: bool) -> None:
        """Take in a tile that begins at row ``start``; with ``columns`` there are no rows but those of pairs."""
        part = slice(start, start + len(logits))
        torch.argmax(logits, dim=1, out=self._best[part])
        if columns:
            paired = logits[:, self.offset : self.offset + self.count]
            square = paired[:, part]
            own_or_later = torch.ones_like(square, dtype=torch.bool).tril_()
            above = square.masked_fill(own_or_later, -torch.inf).amax(dim=0)
            self._before[part] = torch.maximum(self._peak[part], above)
            self._peak = torch.maximum(self._peak, paired.amax(dim=0))

    def of_rows(self) -> Bool[Tensor, " b"]:
        """Whether each pair is the first maximum of its row."""
        return self._best[: self.count] == self.offset + torch.arange(self.count, device=self._best.device)

    def of_columns(self, positive: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Whether each pair, whose logits these are, is the first maximum of its column."""
        return (positive >= self._peak) & (positive > self._before)
