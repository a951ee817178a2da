"""Protocols of caption rewriters (other words, one sentence of two texts, two paraphrases), and rewrites by rule."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol, final, runtime_checkable

from tether.core.ranges import Share, checked
from tether.core.runtime_protocol import ByAttributes
from tether.data.captions.grammar import in_other_words, is_spoken, rearranged, taken_apart, without_articles
from tether.data.captions.lexicon import ENGLISH, lexicon
from tether.data.captions.rng import Chance, one_of


@runtime_checkable
class Rewriter(Protocol, metaclass=ByAttributes):
    """Says a caption in other words (LaCLIP)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a rewrite, as plain values."""
        ...

    def rewrite(self, text: str, *, count: int, generator: Chance) -> list[str]:
        """Exactly ``count`` texts that say what the caption says; a blank one may be among them."""
        ...


@runtime_checkable
class Fuser(Protocol, metaclass=ByAttributes):
    """Makes one sentence of an alt-text and a description (VeCLIP)."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a sentence, as plain values."""
        ...

    def fuse(self, alt: str, *, visual: str) -> str:
        """One text that says what both say."""
        ...


@runtime_checkable
class Paraphraser(Protocol, metaclass=ByAttributes):
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


_TRIES = 4


@final
class TemplateRewriter:
    """Says a caption in other words by rule, without a model; colours, numbers and names stay as they are.

    A known opening is taken off and another frame put around the rest; things that are listed change places; articles
    before them may go; words with synonyms are replaced. A caption without any word of the lexicon comes back as it
    is, for it is in another language. Where the rules offer too few ways of saying it, texts repeat.

    Source: stands in for the language model of arXiv 2305.20088, which makes far richer rewrites.
    """

    @checked
    def __init__(self, *, words: str = ENGLISH, synonym: Share = 0.5, drop_articles: Share = 0.3) -> None:
        """Take the settings.

        Args:
            words: lexicon, ``english`` or a YAML file.
            synonym: probability that a word with synonyms is replaced, in [0, 1].
            drop_articles: probability that articles are dropped, in [0, 1].
        """
        self.lexicon = lexicon(words)
        self.synonym, self.drop_articles = synonym, drop_articles

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        return {"words": self.lexicon.name, "synonym": self.synonym, "drop_articles": self.drop_articles}

    def rewrite(self, text: str, *, count: int, generator: Chance) -> list[str]:
        """``count`` texts, each other than the caption and the ones before where that is possible."""
        if not is_spoken(text, lexicon=self.lexicon):
            return [text] * count
        found: list[str] = []
        for _ in range(count):
            new = text
            for _ in range(_TRIES):
                new = self._once(text, generator)
                if new != text and new not in found:
                    break
            found.append(new)
        return found

    def _once(self, text: str, generator: Chance) -> str:
        phrase = rearranged(taken_apart(text, lexicon=self.lexicon), generator=generator)
        if generator.random() < self.drop_articles:
            phrase = without_articles(phrase)
        frame = one_of(self.lexicon.frames, generator=generator)
        new = frame.replace("{}", phrase.words) + phrase.end
        return in_other_words(new, lexicon=self.lexicon, chance=self.synonym, generator=generator)
