"""Norms of the rows of ``queries @ keys.T`` without that matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.losses.infonce import refuse_second_order, tile_rows, widen
from tether.methods.logitclip.loss import norms_of


def row_norms(queries: Float[Tensor, "b d"], *, keys: Float[Tensor, "n d"], p: float = 2.0) -> Float[Tensor, "b 1"]:
    """p-norm of each query's dot products with all keys, with exact gradients; half precision is widened.

    For p = 2 and more keys than dimensions it is the length of the query under the keys' second moments, which costs
    d/n of a product with all keys. The keys' mean is taken out first: rows that share a direction, as texts do, would
    otherwise lose digits in float32. Other orders look at a tile of rows at a time, and again in the backward. First-
    order gradients only.
    """
    queries, keys = widen(queries, keys)
    if p == 2 and len(keys) > keys.shape[1]:
        return _Lengths.apply(queries, keys)
    return _TiledNorms.apply(queries, keys, p)


class _Lengths(torch.autograd.Function):
    """``keys.T @ keys`` is ``moments + n * centre * centre.T``, exactly, as deviations from a mean add up to zero."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            centre = keys.mean(dim=0)
            moments = keys.new_zeros(keys.shape[1], keys.shape[1])
            for part in _pieces(keys):
                spread = part - centre
                moments.addmm_(spread.T, spread)
            squares = torch.cat([((part @ moments) * part).sum(dim=1) for part in _pieces(queries)]).clamp_(min=0)
            lengths = squares.add_(torch.mv(queries, centre).square_(), alpha=len(keys)).sqrt_()[:, None]
        ctx.save_for_backward(queries, keys, centre, moments, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        queries, keys, centre, moments, lengths = ctx.saved_tensors
        weight = _quotient(grad_outputs[0], lengths)
        grad_queries = grad_keys = None
        with torch.autocast(queries.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_queries = queries @ moments
                grad_queries.addr_(torch.mv(queries, centre), centre, alpha=len(keys)).mul_(weight)
            if ctx.needs_input_grad[1]:
                both = torch.zeros_like(moments)
                for part, share in zip(_pieces(queries), _pieces(weight, like=queries), strict=True):
                    both.addmm_((part * share).T, part)
                grad_keys = keys @ both
        return grad_queries, grad_keys


class _TiledNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, p: float) -> Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            height = tile_rows(len(queries), len(keys), dtype=queries.dtype, device=queries.device)
            norms = torch.cat([norms_of(part @ keys.T, p=p) for part in queries.split(height)])
        ctx.save_for_backward(queries, keys, norms)
        ctx.p = p
        return norms

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_order()
        queries, keys, norms = ctx.saved_tensors
        needs_queries, needs_keys = ctx.needs_input_grad[:2]
        grad_queries = torch.empty_like(queries) if needs_queries else None
        grad_keys = torch.zeros_like(keys) if needs_keys else None
        with torch.autocast(queries.device.type, enabled=False):
            height = tile_rows(len(queries), len(keys), dtype=queries.dtype, device=queries.device)
            for start in range(0, len(queries), height):
                span = slice(start, start + height)
                slope = _slope_(queries[span] @ keys.T, norms[span], p=ctx.p).mul_(grad_outputs[0][span])
                if grad_queries is not None:
                    torch.mm(slope, keys, out=grad_queries[span])
                if grad_keys is not None:
                    grad_keys.addmm_(slope.T, queries[span])
        return grad_queries, grad_keys, None


def _slope_(logits: Tensor, norms: Tensor, *, p: float) -> Tensor:
    """Derivative of each row's norm by its entries, in place; zero for a row of zeros, shared among equal maxima."""
    if p == 1:
        return logits.sgn_()
    if p == math.inf:
        largest = (logits.abs() == norms) & (norms > 0)
        return logits.sgn_().mul_(largest).div_(largest.sum(dim=1, keepdim=True).clamp(min=1))
    ratio = logits.div_(torch.where(norms > 0, norms, 1.0))  # at most 1, so no power of it overflows
    return ratio if p == 2 else ratio.sgn().mul_(ratio.abs_().pow_(p - 1))


def _quotient(gradient: Tensor, lengths: Tensor) -> Tensor:
    """0 where the length is 0."""
    return torch.where(lengths > 0, gradient / torch.where(lengths > 0, lengths, 1.0), 0.0)


def _pieces(rows: Tensor, *, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Runs of rows that are each about one tile of ``like``."""
    model = rows if like is None else like
    return rows.split(tile_rows(len(model), model.shape[1], dtype=model.dtype, device=model.device))
