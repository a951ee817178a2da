"""Words of a known list and others, clean or with letters hidden, and a reader of two branches that learnt the list."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from tether.core.edit_distance import KnownWords
from tether.data.lettering.signs import lexicon
from tether.models import Clip
from tether.tasks.read import DualReader
from tether_lab.lab.lab import Lab
from tether_lab.lab.trace import saw
from tether_lab.worlds import drawn_words
from tether_lab.worlds.drawn_words import HIDDEN, LONGEST, right

WORDS = 400
"""Of both halves of the list; one half is never learnt from."""
CROPS, MISSPELT, TEST = 6_000, 6_000, 1_000
"""Crops of known words; of such words with a wrong letter, from which the CLIP alone learns; and of each kind asked."""
CLIP_STEPS, STEPS, BATCH, RATE = 600, 400, 64, 4e-3


@dataclass(frozen=True, slots=True)
class AskedWords:
    """Crops of a kind with their words."""

    crops: UInt8[Tensor, "n 3 h w"]
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OccludedBench:
    """What a seed has.

    Attributes:
        reader: that learnt clean and occluded crops of the known half.
        known: the words of that half.
        pieces: ids of the tokens that the CLIP has read in training.
        asked: by ``known`` or ``unseen`` and ``clean`` or ``occluded``.
    """

    reader: DualReader
    known: tuple[str, ...]
    pieces: frozenset[int]
    asked: dict[tuple[str, str], AskedWords]


def prepare(lab: Lab) -> OccludedBench:
    """Draw the words and teach CLIP and reader."""
    both, rng = lexicon(WORDS, longest=LONGEST, seed=lab.seed), drawn_words.generator_of(lab, "occluded")
    halves = {"known": both[: WORDS // 2], "unseen": both[WORDS // 2 :]}

    def drawn(half: str, count: int, hidden: int) -> AskedWords:
        words = tuple(halves[half][place] for place in rng.integers(0, len(halves[half]), count))
        return AskedWords(drawn_words.draw_words(words, rng=rng, hidden=hidden), words)

    parts = [drawn("known", lab.steps(CROPS // 2, 48), hidden) for hidden in (0, HIDDEN)]
    crops, words = torch.cat([one.crops for one in parts]), [word for one in parts for word in one.words]
    asked = {
        (half, what): drawn(half, lab.steps(TEST, 16), hidden)
        for half in halves
        for what, hidden in (("clean", 0), ("occluded", HIDDEN))
    }
    other = drawn_words.generator_of(lab, "misspelt")
    drawn_from = [halves["known"][place] for place in other.integers(0, WORDS // 2, lab.steps(MISSPELT, 48))]
    wrong = misspelt(drawn_from, other)
    seen = torch.cat([crops, drawn_words.draw_words(wrong, rng=other)])
    clip = drawn_words.word_clip(lab, "misspelt", seen, [*words, *wrong], steps=CLIP_STEPS)
    reader = drawn_words.new_reader(lab, clip)
    reader.fit(crops, words, steps=lab.steps(STEPS), batch_size=BATCH, learning_rate=RATE, seed=lab.seed)
    pieces = frozenset(clip.tokenizer([*words, *wrong]).flatten().tolist())
    return OccludedBench(reader, halves["known"], pieces, asked)


def misspelt(words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The words with one letter of each replaced by another."""
    found = []
    for word in words:
        place = int(rng.integers(len(word)))
        others = string.ascii_lowercase.replace(word[place], "")
        found.append(word[:place] + others[int(rng.integers(len(others)))] + word[place + 1 :])
    return found


@torch.no_grad()
def shares(bed: OccludedBench, asked: AskedWords) -> dict[str, float]:
    """Percentages of what is read.

    Words read right by each branch, before and after refinement, and by the nearest known word; and as ``new_pieces``
    the tokens of the visual branch's wrong guesses that the CLIP had never read in training.
    """
    reader, found = bed.reader, dict[str, float]()
    memory = torch.cat([reader.encode(some) for some in asked.crops.split(256)])
    known = KnownWords(bed.known)
    for refine in (0, 1):
        logits = reader.decoder.read(memory, text_memory=reader.text_memory, refine=refine)
        saw(logits.cross)
        visual, dual = (reader.charset.decode(one).words for one in (logits.visual, logits.cross))
        more = "" if refine else "_once"
        found |= {f"visual{more}": right(visual, asked.words), f"dual{more}": right(dual, asked.words)}
    for name, read in (("visual", visual), ("dual", dual)):
        found[f"{name}_nearest"] = right([known.nearest(word)[0] for word in read], asked.words)
    wrong = [word for word, true in zip(visual, asked.words, strict=True) if word != true] or list(asked.words)
    tokens = [token for row in cast(Clip, reader.model).tokenizer(wrong).tolist() for token in row]
    found["new_pieces"] = 100 * sum(token not in bed.pieces for token in tokens if token) / sum(map(bool, tokens))
    return found
