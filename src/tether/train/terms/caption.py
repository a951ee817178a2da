"""A caption told from an image's embedding, as a term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from tether.core.gather import Gather
from tether.core.types import Loss
from tether.models.decoder import CausalDecoder
from tether.train.terms.term import Term, TermInputs


class CaptionTerm(Term):
    """Cross-entropy of each caption's tokens, which a decoder tells one after another from the image's embedding."""

    def __init__(self, *, head: str = "decoder", image: str = "image", text: str = "text") -> None:
        """Args: head: a ``causal_decoder``. image: view whose embedding is told. text: view of the captions."""
        self._head, self._image, self._text = head, image, text

    @property
    def views(self) -> Mapping[str, str]:
        """See Term."""
        return {"image": self._image, "text": self._text}

    @property
    def heads(self) -> Mapping[str, str]:
        """See Term."""
        return {"head": self._head}

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term."""
        text = seen.views[self._text].rows
        decoder = cast(CausalDecoder, seen.heads[self._head])
        total = decoder(seen.views[self._image].features.pooled, text)
        tokens = gather((text[:, 1:] != 0).sum()[None]).sum() / gather.world
        return (Loss(total / tokens),)
