"""The hook between a contrastive objective and a wrapper that changes its rows of logits."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

RowEdit = Callable[[Tensor, Tensor], Tensor]
"""Queries (b, d) and all keys (n, d) to queries; the logits are ``queries @ keys.T``, scale and bias included."""
