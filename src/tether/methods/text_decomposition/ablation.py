"""What an embedding is worth without some of its parts: each replaced by its mean over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.decomposition import Decomposition
from tether.core.errors import InputError
from tether.core.ranges import Whole, checked
from tether.space.text_span import COUNT, RANK, TextSpan, varies

LAST_LAYERS = 4
"""Layers that the paper's evaluation of its texts keeps (arXiv 2310.05916, section 4.2)."""


@checked
def mean_ablate(
    parts: Decomposition,
    *,
    attention: Iterable[int | tuple[int, int]] | Literal["all"] = (),
    mlp: Iterable[int] | Literal["all"] = (),
    source: Literal["all", "class"] = "all",
    means: Decomposition | None = None,
) -> Float[Tensor, "b d"]:
    """The embeddings with the named parts replaced by their mean; nothing named gives ``parts.total()``.

    What a part adds on average tells images apart no more, so the drop of a score says what the part did for it. The
    result is not normalised again. Source: arXiv 2310.05916, section 3.3, and its released compute_ablations.py.

    Args:
        parts: of the images.
        attention: layers, or (layer, head), or ``all``.
        mlp: indices in ``parts.mlp``, where 0 is the embedding that enters block 0, or ``all``, which includes it.
        source: ``class`` replaces only what the attention takes of the class token (and other leading tokens).
        means: of a data set, as ``Decomposition.mean`` or ``mean_parts`` gives them; those of these images if None.
    """
    if source == "class" and parts.reduce == "tokens":
        raise InputError("source: 'class' needs the tokens; decompose with reduce='none' or 'heads'")
    means = parts.mean() if means is None else _fitting(means, parts)
    lost = torch.zeros_like(parts.mlp[:, 0])
    for layer, head in _named(attention, parts):
        there, usual = (_piece(x, layer, head, source=source) for x in (parts, means))
        lost = lost + there - usual
    count = parts.mlp.shape[1]
    for index in range(count) if mlp == "all" else mlp:
        if not 0 <= index < count:
            raise InputError(f"mlp: expected 0 to {count - 1}, got {index}")
        lost = lost + parts.mlp[:, index] - means.mlp[:, index].to(parts.mlp)
    return parts.total() - lost


def replace_heads(
    parts: Decomposition, *, heads: Mapping[tuple[int, int], Float[Tensor, "b d"]]
) -> Float[Tensor, "b d"]:
    """The embeddings with other contributions of some heads, such as their reconstruction from texts.

    Args:
        parts: of the images.
        heads: what stands in for (layer, head).
    """
    own, total = parts.heads, parts.total()
    for (layer, head), other in heads.items():
        _check(layer, head, parts)
        if other.shape != total.shape:
            raise InputError(f"heads: expected {tuple(total.shape)} for {layer, head}, got {tuple(other.shape)}")
        total = total - own[:, layer, head] + other.to(total)
    return total


@checked
def embeddings_from_texts(
    parts: Decomposition,
    *,
    texts: Float[np.ndarray, "t d"],
    count: int = COUNT,
    layers: Whole = LAST_LAYERS,
    rank: int = RANK,
) -> Float[Tensor, "b d"]:
    """The embeddings as texts tell them: how well the words found for the last layers' heads do their work.

    Heads of the last ``layers`` layers are replaced by what ``TextSpan`` makes of them, earlier heads, and those that
    say the same of every image, by their mean; the feed-forward nets stay. Source: arXiv 2310.05916, section 4.2.

    Args:
        parts: of the images, on which the texts are chosen too.
        texts: unit embeddings of t plain descriptions.
        count: texts for each head.
        layers: how many layers are told in words; no more than there are.
        rank: as for ``TextSpan``.
    """
    own = parts.heads
    depth, heads = own.shape[1:3]
    kept = max(0, depth - layers)
    told: dict[tuple[int, int], Tensor] = {}
    for layer in range(depth):
        for head in range(heads):
            rows = own[:, layer, head]
            plain = (rows if rows.dtype == torch.float64 else rows.float()).cpu().numpy()
            if layer < kept or not varies(plain):
                told[layer, head] = rows.mean(0, keepdim=True).expand_as(rows)
                continue
            span = TextSpan(texts=texts, count=count, rank=rank).fit(plain)
            told[layer, head] = torch.from_numpy(span.inverse_transform(span.transform(plain)))
    return replace_heads(parts, heads=told)


def _named(
    attention: Iterable[int | tuple[int, int]] | Literal["all"], parts: Decomposition
) -> list[tuple[int, int | None]]:
    if isinstance(attention, str):
        attention = range(parts.attention.shape[1])
    found: list[tuple[int, int | None]] = []
    for one in attention:
        layer, head = (one, None) if isinstance(one, int) else one
        _check(layer, head, parts)
        found.append((layer, head))
    if len(set(found)) < len(found) or any((layer, None) in found for layer, head in found if head is not None):
        raise InputError(f"attention: expected each part once, got {list(attention)}")
    return found


def _check(layer: int, head: int | None, parts: Decomposition) -> None:
    depth = parts.attention.shape[1]
    if not 0 <= layer < depth:
        raise InputError(f"attention: expected layers 0 to {depth - 1}, got {layer}")
    if head is None:
        return
    if parts.reduce == "heads":
        raise InputError("attention: the heads were summed away; decompose with reduce='none' or 'tokens'")
    heads = parts.attention.shape[-2]
    if not 0 <= head < heads:
        raise InputError(f"attention: expected heads 0 to {heads - 1}, got {head}")


def _piece(parts: Decomposition, layer: int, head: int | None, *, source: str) -> Float[Tensor, "b d"]:
    piece = parts.attention[:, layer]
    if head is not None:
        piece = piece[..., head, :]
    if source == "class":
        piece = piece[:, : parts.class_tokens]
    return piece.flatten(1, -2).sum(1) if piece.ndim > 2 else piece


def _fitting(means: Decomposition, parts: Decomposition) -> Decomposition:
    shapes = [(x.reduce, tuple(x.attention.shape[1:]), tuple(x.mlp.shape[1:])) for x in (means, parts)]
    if shapes[0] != shapes[1] or len(means.mlp) != 1:
        raise InputError(f"means: expected one row of {shapes[1]}, got {len(means.mlp)} of {shapes[0]}")
    moved = (x.to(parts.mlp) for x in (means.attention, means.mlp, means.representation))
    return Decomposition(*moved, reduce=means.reduce, class_tokens=means.class_tokens)
