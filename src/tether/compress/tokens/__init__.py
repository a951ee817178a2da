"""Fewer tokens for what reads an encoder's patches."""

from __future__ import annotations

from tether.compress.tokens.trim import Trimmed, trim_tokens

__all__ = ["Trimmed", "trim_tokens"]
