"""Texts to embeddings for the parts of this package that take phrases: by any encoder, or by any function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder

TextFunction = Callable[[Sequence[str]], np.ndarray | Tensor]
TextEncoder = DualEncoder | TextFunction
"""A model of ``tether.load``, or a function from n strings to (n, d), such as a sentence encoder's ``encode``."""
_BATCH = 256


def embed_texts(encoder: TextEncoder, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
    """Embed texts, each distinct one once; of a dual encoder the text side as it comes, not normalised.

    Args:
        encoder: a model or a function.
        texts: n strings (n >= 1).

    Returns:
        (n, d) float64.
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"texts: expected a list of strings, got {texts!r:.80}")
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        raise InputError("texts: expected at least one, got none")
    if isinstance(encoder, DualEncoder):
        rows = _of_model(encoder, distinct)
    else:
        found = encoder(distinct)
        rows = found.detach().cpu().double().numpy() if isinstance(found, Tensor) else np.asarray(found, np.float64)
    if rows.ndim != 2 or len(rows) != len(distinct):
        raise InputError(f"encoder: expected ({len(distinct)}, d) for as many texts, got shape {rows.shape}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise InputError(f"encoder: the embedding of {distinct[bad[0]]!r} holds NaN or infinity")
    place = {text: row for row, text in enumerate(distinct)}
    return rows[[place[text] for text in texts]]


def _of_model(model: DualEncoder, texts: list[str]) -> np.ndarray:
    device = cast(Tensor, model.logit_scale).device
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            ids = model.tokenizer(texts[start : start + _BATCH]).to(device)
            parts.append(model.encode_text(ids).pooled.double().cpu())
    return torch.cat(parts).numpy()
