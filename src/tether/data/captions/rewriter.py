"""Protocols of caption rewriters: other words for one caption, one sentence of two texts, or two paraphrases."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

from tether.data.captions.rng import Chance


@runtime_checkable
class Rewriter(Protocol):
    """Says a caption in other words (LaCLIP)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a rewrite, as plain values."""
        ...

    def rewrite(self, text: str, *, count: int, generator: Chance) -> list[str]:
        """Exactly ``count`` texts that say what the caption says; a blank one may be among them."""
        ...


@runtime_checkable
class Fuser(Protocol):
    """Makes one sentence of an alt-text and a description (VeCLIP)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a sentence, as plain values."""
        ...

    def fuse(self, alt: str, *, visual: str) -> str:
        """One text that says what both say."""
        ...


@runtime_checkable
class Paraphraser(Protocol):
    """Paraphrases a caption in two steps (ParaCLIP)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a paraphrase, as plain values."""
        ...

    def step1(self, caption: str, *, generator: Chance) -> str:
        """The caption, built otherwise."""
        ...

    def step2(self, paraphrase: str, *, avoid: Collection[str], generator: Chance) -> str:
        """The paraphrase in words that are not among ``avoid``, as far as possible."""
        ...
