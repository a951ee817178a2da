"""The words of the captions: which carry meaning, which name an attribute, and where each lies in the space."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.errors import InputError
from tether.data.words import WORD, words_of
from tether.evaluate.inspect.context import Subject

_SMALL = """
a an the and or of in on at to for with by from is are was were be this that these those it its there here can you we
see someone has have having do does picture image photo photograph shows show showing contains scene view into over
under near next up down out as his her their our your my i he she they who which what some one two three four something
thing things
"""
STOP = frozenset(_SMALL.split())
"""Words that say nothing about an image's content."""

_KINDS = {
    "colour": """red orange yellow green turquoise blue purple pink brown black white grey gray violet golden silver
        beige cyan magenta maroon navy teal tan""",
    "size": "small medium large big tiny huge little tall short long",
    "texture": "plain striped dotted checkered spotted smooth rough furry shiny wooden metal",
    "state": "whole broken open closed old new young wet dry empty full",
}
ATTRIBUTES: dict[str, frozenset[str]] = {kind: frozenset(words.split()) for kind, words in _KINDS.items()}
"""Attribute words by kind; exchanging two of one kind makes a caption false and keeps its words."""

_PLURAL = re.compile(r"(?<=[a-z]{3})s$")


def spans(text: str) -> list[tuple[int, int, str]]:
    """(start, end, word in small letters) of every word."""
    return [(found.start(), found.end(), found[0].lower()) for found in WORD.finditer(text)]


def kind_of(word: str) -> str | None:
    """Which kind of attribute a word names, or None."""
    return next((kind for kind, words in ATTRIBUTES.items() if word in words), None)


def replaced(text: str, changes: Sequence[tuple[tuple[int, int, str], str]]) -> str:
    """The text with other words at these spans."""
    for (start, end, _), new in sorted(changes, key=lambda change: -change[0][0]):
        text = text[:start] + new + text[end:]
    return text


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that part the captions, and their directions in the joint space.

    Attributes:
        words: most even split first.
        holds: (m, v) whether a caption holds a word.
        directions: (v, d) unit: mean embedding of captions with the word minus the mean of those without it.
    """

    words: tuple[str, ...]
    holds: Bool[Tensor, "m v"]
    directions: Float[Tensor, "v d"]


def vocabulary(subject: Subject, *, most: int = 24, least: float = 0.01, widest: float = 0.6) -> Vocabulary:
    """Content words that at least ``least`` and at most ``widest`` of the captions hold (and two captions at least)."""
    captions = [frozenset(words_of(caption)) for caption in subject.seen.captions]
    counts = Counter(word for caption in captions for word in caption if word not in STOP and len(word) > 1)
    count = len(captions)
    fit = [word for word, times in counts.items() if times >= 2 and least * count <= times <= widest * count]
    fit.sort(key=lambda word: (-counts[word] * (count - counts[word]), word))
    chosen = tuple(fit[:most])
    if len(chosen) < 2:
        raise InputError(
            f"expected at least two words that {least:.0%} to {widest:.0%} of the captions hold, "
            f"found {len(chosen)} in {count} captions"
        )
    holds = torch.tensor([[word in caption for word in chosen] for caption in captions])
    share = holds.to(subject.text.dtype)
    total = subject.text.sum(dim=0)
    inside = share.T @ subject.text
    times = share.sum(dim=0)[:, None]
    directions = inside / times - (total - inside) / (count - times)
    return Vocabulary(chosen, holds, F.normalize(directions, dim=-1))


def heads(captions: Sequence[str], *, kind: str) -> list[tuple[str, str] | None]:
    """For each caption its first attribute of a kind with the noun it stands before, such as ("red", "star").

    The noun is the next word that is neither an attribute nor a small word; a plural ``s`` is dropped.
    """
    found: list[tuple[str, str] | None] = []
    for caption in captions:
        words = words_of(caption)
        at = next((place for place, word in enumerate(words) if word in ATTRIBUTES[kind]), None)
        after = [] if at is None else [word for word in words[at + 1 :] if kind_of(word) is None]
        if at is None or not after or after[0] in STOP:
            found.append(None)
        else:
            found.append((words[at], _PLURAL.sub("", after[0])))
    return found
