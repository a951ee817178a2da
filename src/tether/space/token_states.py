"""Hidden states of a batch of texts or images, layer by layer, as one table of tokens without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from tether.core.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenStates:
    """The tokens of a batch, row after row.

    Attributes:
        hidden: (l, n, d) float32 states of each layer.
        rows: (n,) which text or image each token belongs to.
        positions: (n,) its place there, from 0.
        ids: (n,) its id, or zeros where none were given.
    """

    hidden: Float[np.ndarray, "l n d"]
    rows: Int[np.ndarray, " n"]
    positions: Int[np.ndarray, " n"]
    ids: Int[np.ndarray, " n"]


def token_states(states: Sequence[Tensor], *, mask: Tensor, ids: Tensor | None = None) -> TokenStates:
    """Stack what a model gave for each layer and keep the tokens where ``mask`` holds.

    Args:
        states: (b, t, d) of each layer: ``hidden_states`` of a transformers model, or the ``blocks.<i>.input`` that a
            ``Trace`` recorded in a tower of Tether's.
        mask: (b, t) True where a token counts. Leave out padding, and special tokens too: they dominate every figure.
        ids: (b, t) token ids, for ``self_similarity``.
    """
    shapes = [tuple(state.shape) for state in states]
    if not states or len(set(shapes)) != 1 or len(shapes[0]) != 3 or tuple(mask.shape) != shapes[0][:2]:
        raise InputError(f"expected states (b, t, d) of one shape and a mask (b, t), got {shapes}, {tuple(mask.shape)}")
    if ids is not None and ids.shape != mask.shape:
        raise InputError(f"ids: expected shape {tuple(mask.shape)}, got {tuple(ids.shape)}")
    real = mask.bool().cpu().numpy()
    rows, positions = np.nonzero(real)
    hidden = np.stack([state.detach().float().cpu().numpy()[real] for state in states])
    known = np.zeros(len(rows), dtype=np.int64) if ids is None else ids.cpu().numpy()[real]
    return TokenStates(hidden, rows, positions, known)
