"""Text to text: whether a caption finds the other captions of its image among all, and what words alone find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.evaluate.retrieval import BLOCK_CELLS, Depths, Similarity, dot_products


@checked
@torch.no_grad()
def text_ranks(
    text: Float[Tensor, "m d"],
    owner: Int[Tensor, " m"],
    *,
    others: Float[Tensor, "n d"] | None = None,
    similarity: Similarity = dot_products,
    block_cells: Count = BLOCK_CELLS,
) -> Int[Tensor, " m"]:
    """Rank of each text's best partner, a text of the same owner, among all texts of other owners; 1 is best.

    A text is no answer to itself. One without a partner asks no question and has rank 0, but remains a wrong answer for
    the others. Equal similarities count against the query.

    Args:
        text: embeddings; normalise them for cosine similarity, or give a model's ``geometry.points``.
        owner: which of them belong together, such as the row of the image that each text is of.
        others: further texts that are nobody's answer, such as hard negatives.
        similarity: (r, d) and (c, d) rows to (r, c).
        block_cells: most similarities held at once.

    Example:
        >>> import torch
        >>> from tether.evaluate.text_retrieval import text_ranks
        >>> text = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.9, 0.4], [0.0, 1.0]])
        >>> text_ranks(text, torch.tensor([0, 0, 1, 2]))
        tensor([2, 2, 0, 0])
    """
    if owner.shape != (len(text),):
        raise InputError(f"owner: expected ({len(text)},), got {tuple(owner.shape)}")
    pool = text if others is None else torch.cat([text, others])
    owners = owner if others is None else torch.cat([owner, owner.new_full((len(others),), -1)])
    if others is not None and bool((owner < 0).any()):
        raise InputError("owner: expected numbers of at least 0 beside other texts")
    found = torch.zeros(len(text), dtype=torch.int64, device=text.device)
    rows = max(1, block_cells // max(1, len(pool)))
    for start in range(0, len(text), rows):
        scores = similarity(text[start : start + rows], pool)
        mine = owner[start : start + rows, None] == owners
        itself = torch.arange(start, start + len(scores), device=text.device)[:, None]
        partner = mine.scatter(1, itself, False)
        highest = scores.masked_fill(~partner, -torch.inf).amax(dim=1, keepdim=True)
        rank = 1 + ((scores >= highest) & ~mine).sum(dim=1)
        found[start : start + rows] = torch.where(partner.any(dim=1), rank, 0)
    return found


def bag_of_words_ranks(texts: Sequence[str], owner: Int[Tensor, " m"]) -> Int[Tensor, " m"]:
    """``text_ranks`` of texts that are compared by the words they share: the cosine of TF-IDF, without any model.

    Captions of one image share words, so this is what a model of text must reach to know more than words.

    Args:
        texts: at least one of them not blank.
        owner: which of them belong together.

    Example:
        >>> import torch
        >>> from tether.evaluate.text_retrieval import bag_of_words_ranks
        >>> texts = ["a dog runs", "a brown dog", "a cat sleeps", "the cat"]
        >>> bag_of_words_ranks(texts, torch.tensor([0, 0, 1, 1]))
        tensor([1, 1, 1, 1])
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]")  # other signs, such as emoji, are words, too
    table: Any = words.fit_transform(texts)

    def cosines(some: Tensor, others: Tensor) -> Tensor:
        return torch.from_numpy((table[some[:, 0].long().numpy()] @ table[others[:, 0].long().numpy()].T).toarray())

    return text_ranks(torch.arange(len(texts), dtype=torch.float64)[:, None], owner, similarity=cosines)


def text_chance(owner: Int[Tensor, " m"], *, k: Depths = (1, 5, 10)) -> dict[str, float]:
    """The recalls of ranking at random, as keys ``text_to_text_r1_chance``...

    Args:
        owner: which texts belong together.
        k: the depths.
    """
    own = torch.unique(owner, return_inverse=True, return_counts=True)
    partners = own[2][own[1]].double() - 1
    partners, texts = partners[partners > 0], len(owner) - 1
    found: dict[str, float] = {}
    for depth in k:
        drawn = torch.arange(min(depth, texts), dtype=torch.float64)
        missed = ((texts - partners[:, None] - drawn).clamp(min=0) / (texts - drawn)).prod(dim=1)
        found[f"text_to_text_r{depth}_chance"] = (1 - missed).mean().item()
    return found
