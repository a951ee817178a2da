"""Generation that steers clear of a pole: tokens after which the text would score low are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.methods.moral_direction.moral_direction import MoralDirection

TOP_K = 50
"""How many of the likeliest tokens are looked at; each costs one embedding of the text so far."""
Score = Callable[[Sequence[str]], np.ndarray]


class Decoder(Protocol):
    """The one thing asked of a tokenizer; those of transformers have it."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Ids to text."""
        ...


@final
class DirectionLogitsProcessor:
    """A logits processor, for ``transformers``' ``generate(logits_processor=[...])`` or a loop of your own.

    For each of the likeliest tokens it forms the text so far with that token, scores it as it stands, and keeps the
    token when the score exceeds the threshold. Where hardly any does, the best scored ones stay. A token is often a
    part of a word, so a bad word may be seen too late and a good one too early: raise ``threshold`` or ``min_keep``
    with that in mind.

    Source: arXiv 2103.11790, and its released mcm_models.py; equal scores go to the likelier token.
    """

    @checked
    def __init__(
        self,
        direction: MoralDirection | Score,
        *,
        tokenizer: Decoder,
        threshold: float = 0.0,
        min_keep: Count = 1,
        top_k: int = TOP_K,
    ) -> None:
        """Take the direction and the settings.

        Args:
            direction: a fitted ``MoralDirection``, or a function from n texts to (n,) scores.
            tokenizer: of the generating model.
            threshold: a token stays when the text's score is above it.
            min_keep: where no more than this many tokens stay, this many of the best scored do.
            top_k: how many of the likeliest tokens are looked at; all others are left out (>= ``min_keep``).
        """
        if top_k < min_keep:
            raise InputError(f"top_k: expected at least min_keep ({min_keep}), got {top_k}")
        self._direction = direction
        self._tokenizer = tokenizer
        self.threshold = threshold
        self.min_keep = min_keep
        self.top_k = top_k

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Scores with minus infinity for every token that is left out; the given ones are not changed.

        Args:
            input_ids: the texts so far.
            scores: of the next token, minus infinity where one is out already.
        """
        if input_ids.ndim != 2 or scores.ndim != 2 or len(input_ids) != len(scores):
            raise InputError(
                f"expected ids (b, l) and scores (b, v), got {tuple(input_ids.shape)} and {tuple(scores.shape)}"
            )
        likely = scores.sort(dim=1, descending=True, stable=True)
        pairs = zip(likely.indices[:, : self.top_k], likely.values[:, : self.top_k], strict=True)
        open_to = [ids[values > -torch.inf].tolist() for ids, values in pairs]
        for row, tokens in enumerate(open_to):
            if not tokens:
                raise InputError(f"row {row}: every token is ruled out already")
        texts = [
            self._tokenizer.decode([*so_far, token], skip_special_tokens=True)
            for so_far, tokens in zip(input_ids.tolist(), open_to, strict=True)
            for token in tokens
        ]
        judged = self._score(texts)
        kept = torch.full_like(scores, -torch.inf)
        start = 0
        for row, tokens in enumerate(open_to):
            stay = self._stay(judged[start : start + len(tokens)])
            start += len(tokens)
            places = torch.tensor([tokens[place] for place in stay], device=scores.device)
            kept[row, places] = scores[row, places]
        return kept

    def _stay(self, judged: np.ndarray) -> list[int]:
        above = np.flatnonzero(judged > self.threshold)
        if len(above) > self.min_keep:
            return above.tolist()
        return np.argsort(-judged, kind="stable")[: self.min_keep].tolist()

    def _score(self, texts: Sequence[str]) -> np.ndarray:
        if isinstance(self._direction, MoralDirection):
            return self._direction.transform(texts, form="bare")
        found = np.asarray(self._direction(texts), dtype=np.float64)
        if found.shape != (len(texts),) or not np.isfinite(found).all():
            raise InputError(f"direction: expected {len(texts)} finite scores, got shape {found.shape}")
        return found
