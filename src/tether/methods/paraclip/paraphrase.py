"""Two paraphrases of each caption, the second of the first: what ParaCLIP tunes a text tower on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from tether.core.ranges import Share, checked
from tether.data.captions.augment import bare
from tether.data.captions.grammar import in_other_words, is_spoken, joined, rearranged, taken_apart, without_articles
from tether.data.captions.lexicon import ENGLISH, lexicon
from tether.data.captions.rewriter import Paraphraser
from tether.data.captions.rng import Chance, of_key, one_of

MOST_WORDS = 15
"""Longest caption that is paraphrased, released ``call_openai.py``."""


def keep_caption(caption: str) -> bool:
    """Whether a caption has 2 to 15 words between blanks: what the paper paraphrases."""
    return 1 < len(caption.split()) <= MOST_WORDS


@final
class RuleParaphraser:
    """Another structure at the first step, other words at the second; rules only, no model.

    Step 1 takes a known opening off, puts another frame around the rest, changes the order of what is listed and may
    drop articles. Step 2 keeps that structure and replaces every word that has a synonym which was not yet used. A
    text without any word of the lexicon comes back as it is.

    Source: stands in for the language model of arXiv 2402.15120, which paraphrases far more freely.
    """

    @checked
    def __init__(self, *, words: str = ENGLISH, drop_articles: Share = 0.3) -> None:
        """Take the settings.

        Args:
            words: lexicon, ``english`` or a YAML file.
            drop_articles: probability that articles are dropped at step 1, in [0, 1].
        """
        self.lexicon = lexicon(words)
        self.drop_articles = drop_articles

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        return {"words": self.lexicon.name, "drop_articles": self.drop_articles}

    def step1(self, caption: str, *, generator: Chance) -> str:
        """Another structure."""
        if not is_spoken(caption, lexicon=self.lexicon):
            return caption
        phrase = rearranged(taken_apart(caption, lexicon=self.lexicon), generator=generator)
        if generator.random() < self.drop_articles:
            phrase = without_articles(phrase)
        made = [frame.replace("{}", joined(phrase.things)) + phrase.end for frame in self.lexicon.frames]
        others = [text for text in made if text != caption]
        return one_of(others or made, generator=generator)

    def step2(self, paraphrase: str, *, avoid: Iterable[str], generator: Chance) -> str:
        """Other words, none of them among ``avoid`` (in small letters)."""
        used = frozenset(avoid)
        return in_other_words(paraphrase, lexicon=self.lexicon, chance=1.0, generator=generator, avoid=used)


@dataclass(frozen=True, slots=True)
class Paraphrased:
    """One caption with its paraphrases.

    Attributes:
        row: its index among the captions given.
        caption: as it was.
        first: a paraphrase of the caption.
        second: a paraphrase of the first: the one that is paired with the image.
    """

    row: int
    caption: str
    first: str
    second: str


@final
class ParaphrasePairs:
    """Captions of 2 to 15 words, each with a paraphrase and the paraphrase of that one.

    Written once, before any training. The draws of a caption depend on the seed, its index and its text alone.

    Source: arXiv 2402.15120, section 3.1; dropping what was not changed is ours.

    Attributes:
        rows: the paraphrased captions, in order.
        too_short_or_long: captions that were left out by their length.
        unchanged: captions left out because a paraphrase was equal to what it paraphrases, or blank.
    """

    @checked
    def __init__(
        self,
        captions: Sequence[str],
        *,
        paraphraser: Paraphraser,
        seed: int = 0,
        unchanged: Literal["drop", "keep"] = "drop",
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> None:
        """Paraphrase all captions.

        Args:
            captions: one for each image.
            paraphraser: any with two steps.
            seed: of its draws.
            unchanged: ``drop`` captions of which a paraphrase equals what it paraphrases, for these would be their own
                false negatives, or ``keep`` them.
            on_progress: called with the captions that are done and their number.
        """
        found: list[Paraphrased] = []
        self.too_short_or_long = self.unchanged = 0
        for row, caption in enumerate(captions):
            if not keep_caption(caption):
                self.too_short_or_long += 1
            else:
                generator = of_key(f"{row} {caption}", seed=seed, salt="paraphrase")
                one = paraphraser.step1(caption, generator=generator)
                used = frozenset(bare(word) for word in f"{caption} {one}".split())
                two = paraphraser.step2(one, avoid=used, generator=generator)
                same = one.split() == caption.split() or two.split() == one.split() or not (one.strip() and two.strip())
                if same and unchanged == "drop":
                    self.unchanged += 1
                else:
                    found.append(Paraphrased(row, caption, one, two))
            if on_progress is not None:
                on_progress(row + 1, len(captions))
        self.rows = tuple(found)

    def __len__(self) -> int:
        """How many captions have paraphrases."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Paraphrased:
        """One of them."""
        return self.rows[index]
