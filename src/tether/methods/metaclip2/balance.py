"""MetaCLIP 2's balancing: every language gets the threshold that leaves it the same share of tail matches."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.curate.metaclip.balance import (
    Balancer,
    FittedOnCounts,
    RandomState,
    Threshold,
    tail_share,
    threshold_for_share,
)
from tether.methods.metaclip2.multilingual import WorldMatches

T_400M = 20_000  # t of English for a pool of 400 M pairs, arXiv 2507.22062 section 3
T_2500M = 170_000  # t of English for 2.5 B pairs, same place

Choice = TypeVar("Choice")


class WorldBalancer(FittedOnCounts):
    """Balances every language to the same degree.

    The reference language keeps its threshold t; p is the share of its matches that belong to entries with fewer
    than t. Every other language gets the count at which the matches of all entries up to it come nearest to p, the
    first of ties. Entry j of a language then wins with ``t_language / max(n_j, t_language)``, as in ``Balancer``.

    Source: arXiv 2507.22062 section 3, released code (``curate.py``). Differs in that a threshold is at least 1: where
    the nearest share is that of entries without a match, the released code divides 0 by 0.

    Attributes:
        share_: p.
        thresholds_: t of each language.
        entry_prob_: (n,) float32 of each language, in (0, 1].
        counts_: what it was fitted on.
    """

    share_: float
    thresholds_: dict[str, float]
    entry_prob_: dict[str, np.ndarray]
    counts_: dict[str, np.ndarray]

    @checked
    def __init__(self, *, t: Threshold, reference: str = "en") -> None:
        """Take the threshold of the reference language.

        Args:
            t: at least 1; ``T_400M`` and ``T_2500M`` are the paper's for English.
            reference: the language whose tail share the others take over.
        """
        self.t, self.reference = t, reference

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords."""
        return {"t": self.t, "reference": self.reference}

    def fit(self, counts: Mapping[str, np.ndarray]) -> WorldBalancer:
        """Set thresholds and probabilities from the matches of each entry of each language.

        A language with few entries gets a coarse threshold: there are only so many counts to choose from.

        Raises:
            InputError: the reference language is missing, a language has no match at all (leave it out), or counts
                that ``Balancer`` refuses; it names the language.
        """
        if self.reference not in counts:
            known = ", ".join(counts) or "none"
            raise InputError(f"counts: expected the reference language {self.reference!r} among them, got {known}")
        fitted = {}
        for language, given in counts.items():
            try:
                fitted[language] = Balancer(t=1).fit(given).counts_
                if not fitted[language].any():
                    raise InputError("no entry has a match, so there is no tail share")
            except InputError as error:
                raise InputError(f"counts of {language!r}: {error}") from None
        self.counts_ = fitted
        self.share_ = tail_share(fitted[self.reference], t=self.t)
        self.thresholds_ = {
            language: self.t if language == self.reference else max(threshold_for_share(each, share=self.share_), 1)
            for language, each in fitted.items()
        }
        self._balancers = {language: Balancer(t=t).fit(fitted[language]) for language, t in self.thresholds_.items()}
        for balancer in self._balancers.values():
            balancer.entry_prob_ = balancer.entry_prob_.astype(np.float32)  # as released
        self.entry_prob_ = {language: balancer.entry_prob_ for language, balancer in self._balancers.items()}
        return self

    def pair_prob(self, matches: WorldMatches) -> Float[np.ndarray, " n"]:
        """Probability to keep each caption, float64; 0 without a match, 1 in a language that had none when fitted."""
        self._check_fitted()
        kept = np.zeros(len(matches.code))
        for code in matches.codes:
            places, indptr, ids = matches.of(code)
            if code in self._balancers:
                kept[places] = self._balancers[code].pair_prob(indptr, ids)
            else:
                kept[places] = np.diff(indptr) > 0
        return kept


def choose_text(texts: Sequence[Choice], *, random_state: RandomState) -> Choice:
    """One of the texts of an image, each with the same chance: MetaCLIP 2 balances the one that was drawn.

    Give it the texts that matched an entry, with their languages or matches beside them as you like.

    Args:
        texts: at least one.
        random_state: a ``random.Random`` draws as the released code does; an int is the seed of one.
    """
    if not len(texts):
        raise InputError("texts: expected at least one to choose from")
    if isinstance(random_state, int):
        random_state = random.Random(random_state)
    if isinstance(random_state, random.Random):
        return random_state.choice(texts)
    if isinstance(random_state, np.random.Generator):
        return texts[int(random_state.integers(len(texts)))]
    return texts[int(random_state.randint(len(texts)))]
