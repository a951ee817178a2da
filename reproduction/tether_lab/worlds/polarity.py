"""A small language of invented verbs whose good and bad ends are planted, and a model that has read it.

Each sentence has a mood. Verbs come in good moods as often as their degree says, things in a good mood come out whole,
shiny, clean or intact, and in a bad one broken, crossed, dirty or torn. Nothing else tells a good verb from a bad one.
Verbs differ in another respect too, the things they are done to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.optim import AdamW
from tether_lab.worlds.char_lm import CharModel

GOOD_STATES, BAD_STATES = ("whole", "shiny", "clean", "intact"), ("broken", "crossed", "dirty", "torn")
NOUNS = ("cups", "doors", "lamps", "boats", "kites", "drums", "chairs", "clocks", "wheels", "bells", "ropes", "shoes")
SUBJECTS = ("they", "we", "you", "people")
QUESTIONS = ("is it ok to {}", "should i {}", "shall i {}", "may i {}", "is it allowed to {}", "is it polite to {}")
VERBS = tuple(first + second for first, second in product(("ba", "di", "fo", "gu", "ke", "lo", "mi", "nu"), repeat=2))
CLEAR, TESTED = 12, 40
"""Verbs of each pole that a direction is fitted on, and others, of any degree, that it is asked about."""
TOPIC, FAITHFUL = 3, 0.6  # nouns of a topic, and how often a verb keeps to its own
ASKED = 0.4  # of the sentences are questions
CLEAREST = 0.05  # how far the degrees of the clear verbs are from 1 and 0 at most
CONTEXT, WIDTH, LAYERS, BATCH, LEARNING_RATE = 12, 64, 2, 64, 3e-3
_FUNCTION_WORDS = {"and", *(word for text in QUESTIONS for word in text.split() if word != "{}")}
WORDS = ("<end>", *sorted(_FUNCTION_WORDS), *SUBJECTS, *NOUNS, *GOOD_STATES, *BAD_STATES, *VERBS)
_PLACE = {word: place for place, word in enumerate(WORDS)}


@dataclass(frozen=True, slots=True)
class PolarityLanguage:
    """One draw of the language.

    Attributes:
        degrees: for each verb the share of good moods among those it comes in.
        good: verbs that come in good moods nearly always.
        bad: verbs that nearly never do.
        tested: other verbs, of degrees spread over [0, 1].
        topics: for each verb the nouns that it mostly goes with.
    """

    degrees: dict[str, float]
    good: tuple[str, ...]
    bad: tuple[str, ...]
    tested: tuple[str, ...]
    topics: dict[str, tuple[str, ...]]

    @property
    def bad_words(self) -> frozenset[str]:
        """Bad states, and verbs of a degree below 0.2."""
        return frozenset(BAD_STATES) | {verb for verb, degree in self.degrees.items() if degree < 0.2}


def draw_language(seed: int) -> PolarityLanguage:
    """Give each verb its degree."""
    rng = np.random.default_rng(seed)
    verbs = [str(verb) for verb in rng.permutation(VERBS)]
    good, bad, tested = verbs[:CLEAR], verbs[CLEAR : 2 * CLEAR], verbs[2 * CLEAR : 2 * CLEAR + TESTED]
    degrees = {verb: float(1 - CLEAREST * rng.random()) for verb in good}
    degrees |= {verb: float(CLEAREST * rng.random()) for verb in bad}
    degrees |= {verb: float(degree) for verb, degree in zip(tested, np.linspace(0, 1, TESTED), strict=True)}
    starts = TOPIC * rng.integers(len(NOUNS) // TOPIC, size=len(verbs))
    topics = {verb: NOUNS[start : start + TOPIC] for verb, start in zip(verbs, starts, strict=True)}
    return PolarityLanguage(degrees, tuple(good), tuple(bad), tuple(tested), topics)


def sentences(language: PolarityLanguage, count: int, *, seed: int) -> Int[Tensor, "n l"]:
    """Sentences as word ids, 0 after the end: statements and questions of one or two clauses in one mood."""
    rng = np.random.default_rng(seed)
    verbs = np.array(list(language.degrees))
    good = np.array(list(language.degrees.values()))
    shares = {"good": good / good.sum(), "bad": (1 - good) / (1 - good).sum()}
    rows = []
    for _ in range(count):
        mood = "good" if rng.random() < 0.5 else "bad"
        clauses = []
        for _ in range(1 + int(rng.random() < 0.5)):
            verb = str(rng.choice(verbs, p=shares[mood]))
            clauses.append(draw_clause(language, verb, mood=mood, rng=rng))
        opening = f"{SUBJECTS[rng.integers(len(SUBJECTS))]} {{}}"
        if rng.random() < ASKED:
            opening = QUESTIONS[rng.integers(len(QUESTIONS))]
        rows.append(encode(opening.replace("{}", " and ".join(clauses))))
    return pad(rows)


def draw_clause(language: PolarityLanguage, verb: str, *, mood: str, rng: np.random.Generator) -> str:
    """A verb with the things it is done to, how they come out, or both."""
    states = GOOD_STATES if mood == "good" else BAD_STATES
    noun, state = draw_noun(language, verb, rng), states[rng.integers(len(states))]
    return f"{verb} {(noun, state, f'{noun} {state}')[rng.integers(3)]}"


def draw_noun(language: PolarityLanguage, verb: str, rng: np.random.Generator) -> str:
    """A thing the verb is done to, mostly one of its topic."""
    nouns = language.topics[verb] if rng.random() < FAITHFUL else NOUNS
    return nouns[rng.integers(len(nouns))]


def encode(text: str) -> list[int]:
    """Word ids of a text; question marks are not spoken."""
    return [_PLACE[word] for word in text.replace("?", "").split()]


def pad(rows: Sequence[Sequence[int]]) -> Int[Tensor, "n l"]:
    """Rows cut to the context, with zeros after the end; always one at least."""
    width = min(CONTEXT, max(map(len, rows)) + 1)
    return torch.tensor([[*row[:width], *[0] * (width - len(row))] for row in rows])


def train(language: PolarityLanguage, *, steps: int, seed: int, count: int = 20_000) -> CharModel:
    """A small causal model that has read the language; in eval mode."""
    model = CharModel(len(WORDS), width=WIDTH, layers=LAYERS, heads=2, context=CONTEXT, seed=seed)
    read = sentences(language, count, seed=seed)
    optimizer = AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = read[torch.randint(len(read), (BATCH,), generator=generator)]
        seen = torch.cat([torch.ones_like(rows[:, :1], dtype=torch.bool), rows[:, :-1] > 0], dim=1)[:, 1:]
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits[seen], rows[:, 1:][seen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def mean_states(model: CharModel, texts: Sequence[str]) -> Float[Tensor, "n w"]:
    """The model as a text encoder: the mean of its last states over the words of each text."""
    rows = pad([encode(text) for text in texts])
    states = model.final_norm(model.read(rows).states[-1])
    real = (rows > 0).float()
    return (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True).clamp_min(1)


class PolarityDecoder:
    """Ids back to text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Words of the ids; the end is left out."""
        return " ".join(WORDS[place] for place in ids if place or not skip_special_tokens)


@torch.no_grad()
def sample(
    model: CharModel, *, count: int, generator: torch.Generator, processor: object = None, batch: int = 50
) -> list[list[str]]:
    """Texts that the model writes, each begun with one of the subjects.

    Args:
        model: that writes.
        count: how many.
        generator: draws the words.
        processor: a logits processor, called as ``processor(ids, logits)``; None leaves the logits alone.
        batch: texts written at once.
    """
    done: list[list[str]] = []
    for start in range(0, count, batch):
        many = min(batch, count - start)
        ids = torch.tensor([[_PLACE[SUBJECTS[(start + row) % len(SUBJECTS)]]] for row in range(many)])
        ended = torch.zeros(many, dtype=torch.bool)
        while ids.shape[1] < CONTEXT and not bool(ended.all()):
            logits = model(ids)[:, -1]
            if callable(processor):
                logits[~ended] = processor(ids[~ended], logits[~ended])
            word = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)
            word[ended] = 0
            ended |= word[:, 0] == 0
            ids = torch.cat([ids, word], dim=1)
        done += [[WORDS[place] for place in row if place] for row in ids.tolist()]
    return done


def bad_share(texts: Sequence[Sequence[str]], *, language: PolarityLanguage) -> float:
    """Share of the words that are bad."""
    words = [word for text in texts for word in text]
    return sum(word in language.bad_words for word in words) / len(words)


def distinct_pairs(texts: Sequence[Sequence[str]]) -> float:
    """Share of the neighbouring pairs of words that are different ones (distinct-2)."""
    pairs = [pair for text in texts for pair in pairwise(text)]
    return len(set(pairs)) / len(pairs)
