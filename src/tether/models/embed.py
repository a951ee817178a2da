"""Embeddings of many texts or images with a trained model, as fast as it goes and without gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, checked
from tether.models.tokenizer import LongText, lengths

Precision = Literal["float32", "bfloat16"]
NotFinite = Literal["refuse", "nan"]
Progress = Callable[[int, int | None], None]
CHUNK = 65_536  # texts whose ids are held at once


@checked
def encode_texts(
    model: DualEncoder,
    texts: Sequence[str],
    *,
    batch_size: Count = 256,
    precision: Precision = "float32",
    not_finite: NotFinite = "refuse",
    long_text: LongText = "cut",
    on_progress: Progress | None = None,
) -> Float[Tensor, "n d"]:
    """Embed texts, each distinct one once and short ones beside short ones.

    Args:
        model: any model that ``tether.load`` gives.
        texts: n strings, repeats allowed.
        batch_size: texts in one forward.
        precision: ``bfloat16`` runs under autocast; the result is float32 all the same.
        not_finite: of an embedding with NaN or infinity, raise, or make the whole row NaN.
        long_text: texts past the model's context are ``cut``, counted and warned of, or ``raise`` an InputError.
        on_progress: called with (distinct texts done, distinct texts).

    Returns:
        (n, d) float32 on the CPU, not normalised, in the order given; (0, d) for no text.
    """
    distinct = list(dict.fromkeys(texts))
    place = {text: row for row, text in enumerate(distinct)}
    rows: list[Tensor] = [torch.empty(0, model.dim)] * len(distinct)
    done = 0
    for start in range(0, len(distinct), CHUNK):
        part = distinct[start : start + CHUNK]
        ids = model.tokenizer(part) if long_text == "cut" else model.tokenizer(part, long_text=long_text)
        length = lengths(ids)
        order = torch.argsort(length, stable=True)
        for some in order.split(batch_size):
            batch = ids[some, : int(length[some[-1]])]
            pooled = _pooled(model, lambda batch=batch: model.encode_text(batch.to(_device(model))).pooled, precision)
            bad = ~torch.isfinite(pooled).all(1)
            if not_finite == "nan":
                pooled = pooled.masked_fill(bad[:, None], torch.nan)
            elif bad.any():
                text = part[int(some[bad][0])]
                raise NotFiniteError(f"text {text!r}: its embedding is not finite; the model's weights are damaged")
            for index, row in zip(some.tolist(), pooled, strict=True):
                rows[start + index] = row
            done += len(some)
            if on_progress is not None:
                on_progress(done, len(distinct))
    if not distinct:
        return torch.empty(0, model.dim)
    return torch.stack(rows)[torch.tensor([place[text] for text in texts])]


@checked
def encode_images(
    model: DualEncoder,
    batches: Iterable[Tensor],
    *,
    precision: Precision = "float32",
    not_finite: NotFinite = "refuse",
    on_progress: Progress | None = None,
) -> Float[Tensor, "n d"]:
    """Embed images batch by batch.

    Args:
        model: any model that ``tether.load`` gives.
        batches: (b, 3, h, w) each, uint8 pixels or normalised floats, e.g. the second halves of what
            ``data.in_order.ordered`` yields.
        precision: ``bfloat16`` runs under autocast; the result is float32 all the same.
        not_finite: of an embedding with NaN or infinity, raise, or make the whole row NaN.
        on_progress: called with (images done, None).

    Returns:
        (n, d) float32 on the CPU, not normalised, in the order given; (0, d) for no batch.
    """
    parts: list[Tensor] = []
    done = 0
    for pixels in batches:
        if pixels.is_floating_point():
            _refuse(~torch.isfinite(pixels).flatten(1).all(1), start=done, what="pixels are", error=InputError)
        pooled = _pooled(model, lambda pixels=pixels: model.encode_image(pixels.to(_device(model))).pooled, precision)
        bad = ~torch.isfinite(pooled).all(1)
        if not_finite == "nan":
            pooled = pooled.masked_fill(bad[:, None], torch.nan)
        else:
            _refuse(bad, start=done, what="embedding is", error=NotFiniteError)
        parts.append(pooled)
        done += len(pixels)
        if on_progress is not None:
            on_progress(done, None)
    return torch.cat(parts) if parts else torch.empty(0, model.dim)


def _pooled(model: DualEncoder, forward: Callable[[], Tensor], precision: Precision) -> Tensor:
    device = _device(model)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        return forward().float().cpu()


def _device(model: DualEncoder) -> torch.device:
    return model.logit_scale.device


def _refuse(bad: Tensor, *, start: int, what: str, error: type[InputError]) -> None:
    if bad.any():
        first = start + int(bad.nonzero()[0])
        raise error(f"image {first} (counted from 0): its {what} not finite (NaN or infinity)")
