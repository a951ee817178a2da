"""Hard negatives: for each pair a caption, and perhaps an image, that differs from its own in one detail only.

What NegCLIP, TripletCLIP and CLIP-IN share: softmax over the batch with further candidates, either for every row or for
its own row alone, and what becomes of candidates that are not wrong at all.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.core.types import Batch, Encoded
from tether.losses.checks import caption_labels, check_cosine, check_unit_lengths, check_unit_pairs, unit_rows
from tether.losses.clip import batch_labels
from tether.losses.infonce import Searched, info_nce, scale_like, search, tile_rows, widen

Duplicates = Literal["negatives", "positives", "left_out"]
"""What a candidate of the same caption as a row's own pair counts as; ``left_out`` takes it out of the softmax."""

NEGATIVE_IMAGE, NEGATIVE_TEXT = "negative_image", "negative_text"
NEGATIVE_LABELS = "negative_labels"
SAME = 1e-6
"""Two unit rows that differ by no more than this in any entry count as one."""


class EqualNegativesWarning(UserWarning):
    """Hard negatives are the same as what they are negatives of, so that nothing can tell them apart."""


@checked
def hard_info_nce(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float,
    offset: int = 0,
    twins: Float[Tensor, "b d"] | None = None,
    query_labels: Int[Tensor, " b"] | None = None,
    key_labels: Int[Tensor, " n"] | None = None,
    twin_labels: Int[Tensor, " b"] | None = None,
    duplicates: Duplicates = "negatives",
) -> Float[Tensor, " b"]:
    """Cross-entropy of each query among all keys and its own twin; the positive of query i is key ``offset + i``.

    With ``duplicates="negatives"`` labels are not looked at and the logits are tiled as in ``info_nce``; a twin then
    costs one dot product a row. Otherwise a tile of rows is made at a time, and made again in the backward.

    Args:
        queries: rows, of any length.
        keys: at least ``offset + b`` rows; those beyond the positives are negatives of every query.
        scale: multiplier of the dot products.
        offset: row of the first query's positive.
        twins: row i is one more negative of query i alone.
        query_labels: equal for pairs that mean the same.
        key_labels: of the keys.
        twin_labels: of the twins, where there are any.
        duplicates: what keys and twins of a query's label are, other than its positive: ``negatives`` like all others,
            ``positives`` that share the target equally, or ``left_out``.
    """
    queries, keys = widen(queries, keys)
    if keys.shape[0] < offset + queries.shape[0]:
        raise InputError(f"expected at least {offset} + {queries.shape[0]} keys, got {keys.shape[0]}")
    if twins is not None and twins.shape != queries.shape:
        raise InputError(f"twins: expected {tuple(queries.shape)}, got {tuple(twins.shape)}")
    scale = scale_like(scale, rows=queries)
    if duplicates == "negatives":
        losses = info_nce(queries, keys, scale=scale, offset=offset)
        if twins is None:
            return losses
        # One more term in a log-sum-exp, both counted from the positive's logit.
        lead = (queries * (twins.to(queries.dtype) - keys[offset : offset + len(queries)])).sum(dim=1)
        return torch.logaddexp(losses, scale * lead)
    labels = _labels(query_labels, key_labels, twin_labels, twins=twins, rows=(len(queries), len(keys)))
    return _tiled(queries, keys, twins, scale=scale, labels=labels, offset=offset, duplicates=duplicates).losses


@checked
def hard_search(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "n d"],
    *,
    scale: Float[Tensor, ""] | float,
    offset: int = 0,
    query_labels: Int[Tensor, " b"] | None = None,
    key_labels: Int[Tensor, " n"] | None = None,
    duplicates: Duplicates = "negatives",
) -> Searched:
    """``hard_info_nce`` without twins, and whether the positive is the most similar of all keys, in one pass.

    Keys of a query's label are no hits, whatever ``duplicates`` says. ``scale`` is above 0.
    """
    if duplicates == "negatives":
        return search(queries, keys, scale=scale, offset=offset)
    queries, keys = widen(queries, keys)
    scale = scale_like(scale, rows=queries)
    labels = _labels(query_labels, key_labels, None, twins=None, rows=(len(queries), len(keys)))
    return _tiled(queries, keys, None, scale=scale, labels=labels, offset=offset, duplicates=duplicates)


class _Labels(NamedTuple):
    """Labels of some queries, of all keys, and of the queries' twins where there are any."""

    queries: Tensor
    keys: Tensor
    twins: Tensor | None

    def of(self, part: slice) -> _Labels:
        """Those of some of the queries."""
        return _Labels(self.queries[part], self.keys, None if self.twins is None else self.twins[part])

    def same(self) -> Bool[Tensor, "r n"]:
        """Which keys and, in a last column, twins have the label of a query."""
        same = self.queries[:, None] == self.keys
        if self.twins is None:
            return same
        return torch.cat([same, (self.queries == self.twins)[:, None]], dim=1)


def _labels(
    queries: Tensor | None,
    keys: Tensor | None,
    of_twins: Tensor | None,
    *,
    twins: Tensor | None,
    rows: tuple[int, int],
) -> _Labels:
    if queries is None or keys is None or (twins is not None and of_twins is None):
        raise InputError("duplicates: expected labels of queries, keys and twins, got fewer")
    shapes = tuple(queries.shape), tuple(keys.shape)
    if shapes != ((rows[0],), (rows[1],)):
        raise InputError(f"labels: expected ({rows[0]},) and ({rows[1]},), got {shapes[0]} and {shapes[1]}")
    if twins is not None and of_twins is not None and of_twins.shape != queries.shape:
        raise InputError(f"labels of twins: expected ({rows[0]},), got {tuple(of_twins.shape)}")
    return _Labels(queries, keys, of_twins if twins is not None else None)


def _tiled(
    queries: Tensor,
    keys: Tensor,
    twins: Tensor | None,
    *,
    scale: Tensor,
    labels: _Labels,
    offset: int,
    duplicates: str,
) -> Searched:
    height = tile_rows(len(queries), len(keys) + 1, dtype=queries.dtype, device=queries.device)
    tiles: list[Searched] = []
    for start in range(0, len(queries), height):
        part = slice(start, start + height)
        # What is compared is handed on as labels: the arguments of a checkpoint live until the backward.
        given = (queries[part], keys, None if twins is None else twins[part], scale, labels.of(part), offset + start)
        if height >= len(queries):
            return _labelled(*given, duplicates)
        tiles.append(checkpoint(_labelled, *given, duplicates, use_reentrant=False))
    return Searched(*(torch.cat(rows) for rows in zip(*tiles, strict=True)))


def _labelled(
    queries: Tensor, keys: Tensor, twins: Tensor | None, scale: Tensor, labels: _Labels, offset: int, duplicates: str
) -> Searched:
    with torch.autocast(queries.device.type, enabled=False):
        logits = (queries * scale) @ keys.T
        if twins is not None:
            logits = torch.cat([logits, scale * (queries * twins.to(queries.dtype)).sum(dim=1, keepdim=True)], dim=1)
        row = torch.arange(len(queries), device=queries.device)
        same, hits = labels.same(), logits.argmax(dim=1) == offset + row
        if duplicates == "left_out":
            positive = logits[row, offset + row]
            same = same.index_put((row, offset + row), same.new_zeros(()))
            return Searched(logits.masked_fill(same, -torch.inf).logsumexp(dim=1) - positive, hits)
        share = same.to(logits.dtype)
        target = (logits * (share / share.sum(dim=1, keepdim=True))).sum(dim=1)
        return Searched(logits.logsumexp(dim=1) - target, hits)


@torch.no_grad()
def top_hits(queries: Float[Tensor, "b d"], keys: Float[Tensor, "n d"], *, offset: int = 0) -> Float[Tensor, ""]:
    """Share of the queries whose most similar key is their positive, key ``offset + i``; float32, as it is logged."""
    queries, keys = widen(queries, keys)
    height = tile_rows(len(queries), len(keys), dtype=queries.dtype, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        best = torch.cat([(part @ keys.T).argmax(dim=1) for part in queries.split(height)])
    return (best == offset + torch.arange(len(queries), device=best.device)).float().mean()


def check_negatives(img: Tensor, txt: Tensor, **negatives: Tensor | None) -> None:
    """Pairs as ``check_unit_pairs`` wants them, and hard negatives of the same shape and length.

    Args:
        img: (b, d) rows of length 1.
        txt: (b, d) rows of length 1.
        **negatives: further rows by the name that errors call them.
    """
    check_unit_pairs(img, txt)
    for name, rows in negatives.items():
        if rows is None:
            raise InputError(f"{name}: expected the hard negatives of {len(img)} pairs, got none")
        if rows.shape != img.shape:
            raise InputError(f"{name}: expected {tuple(img.shape)} like the pairs, got {tuple(rows.shape)}")
        check_unit_lengths(rows, name=name)


class EqualNegatives:
    """Counts hard negatives that equal what they are negatives of, and warns the first time.

    Attributes:
        seen: how many so far; counted on the CPU only, for elsewhere the count would have to be waited for.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.seen = 0

    def __call__(self, rows: Float[Tensor, "b d"], negatives: Float[Tensor, "b d"], *, what: str) -> None:
        """Look at one batch; ``what`` names the rows in the warning, such as ``captions``."""
        if rows.device.type != "cpu":
            return
        equal = int(((rows - negatives).detach().abs().amax(dim=1) <= SAME).sum())
        if equal and not self.seen:
            warnings.warn(
                f"{equal} of {len(rows)} {what} have the same embedding as their hard negatives, so nothing can be "
                "learnt from these; look at the data, or for a text tower that ignores the order of words",
                EqualNegativesWarning,
                stacklevel=4,
            )
        self.seen += equal


def negative_rows(out: Encoded, name: Literal["negative_image", "negative_text"]) -> Float[Tensor, "b d"]:
    """The hard negatives of a batch, as unit rows."""
    features = out.negative_image if name == NEGATIVE_IMAGE else out.negative_text
    if features is None:
        raise InputError(
            f"{name}: expected hard negatives, got none; use the step hard_negatives and a source whose rows have "
            f"{name!r} in their meta, such as scene_twins"
        )
    return unit_rows(features)


def quadruple_rows(out: Encoded, *, equal: EqualNegatives) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit rows of images, texts and hard negatives of both, checked; negatives that equal their own are counted."""
    check_cosine(out)
    image, text = unit_rows(out.image), unit_rows(out.text)
    other_image, other_text = negative_rows(out, NEGATIVE_IMAGE), negative_rows(out, NEGATIVE_TEXT)
    check_negatives(image, text, negative_image=other_image, negative_text=other_text)
    equal(text, other_text, what="captions")
    equal(image, other_image, what="pictures")
    return image, text, other_image, other_text


def pair_labels(batch: Batch, *, duplicates: Duplicates) -> tuple[Tensor | None, Tensor | None]:
    """Labels of the pairs and of their negatives, equal where captions are; None where nobody looks at them.

    They are ``labels`` and ``negative_labels`` of ``batch.extra``, or made of the tokens of ``batch.text`` and of
    ``negative_text`` there.

    Raises:
        InputError: neither labels nor tokens of the negatives.
    """
    if duplicates == "negatives":
        return None, None
    given, tokens = batch.extra.get(NEGATIVE_LABELS), batch.extra.get(NEGATIVE_TEXT)
    if isinstance(given, Tensor) != isinstance(batch.extra.get("labels"), Tensor):
        raise InputError("batch.extra: expected labels and negative_labels together, got one of them")
    if isinstance(given, Tensor):
        return batch_labels(batch), given
    if not isinstance(tokens, Tensor):
        raise InputError(f"duplicates={duplicates}: expected {NEGATIVE_LABELS!r} or {NEGATIVE_TEXT!r} in batch.extra")
    return batch_labels(batch), caption_labels(tokens)
