"""Which words the captions of a run have, so that others can be warned of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tether.core.atomic_io import write_json
from tether.core.protocols import Source
from tether.core.shape import read_record
from tether.data.shuffle import reason_against

FILE = "words.json"
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")
"""Letters of scripts that put no spaces between words: Thai, Lao, kana and Han."""
_SHAPE = {"digest": str, "images": int, "captions": int, "scratch": bool, "words": {"*": int}}


def words_of(text: str) -> list[str]:
    """The words of a text in small letters."""
    return WORD.findall(text.lower())


@dataclass(frozen=True, slots=True)
class WordCounts:
    """The words of the captions that a model learnt from.

    Attributes:
        digest: of the model's weights.
        images: rows that could be learnt from.
        captions: their captions.
        scratch: whether the model knew no words before.
        words: in small letters, how many captions have each; those of scripts without spaces are left out.
    """

    digest: str
    images: int
    captions: int
    scratch: bool
    words: Mapping[str, int]

    def unseen(self, text: str) -> list[str]:
        """The words of a text that no caption has, in one number or the other."""
        return [word for word in dict.fromkeys(words_of(text)) if not _UNSPACED.search(word) and not self._has(word)]

    def _has(self, word: str) -> bool:
        forms = (word, f"{word}s", f"{word}es", word.removesuffix("s"), word.removesuffix("es"))
        return any(form in self.words for form in forms)

    def warnings(self, texts: Sequence[str]) -> list[str]:
        """What to say of texts with words that no caption has.

        A model from random weights cannot know such a word, so each text is named. One that began with a trained
        text tower may well know it, so they are named in one line.
        """
        unseen = {text: words for text in texts if (words := self.unseen(text))}
        if not self.scratch:
            words = dict.fromkeys(word for some in unseen.values() for word in some)
            return [
                f"in none of the {self.captions:,} captions this model was tuned on: {', '.join(words)}; what it knows "
                "of that comes from the model it began with"
            ] * bool(words)
        return [
            f"{text}: {', '.join(words)} is in none of the {self.captions:,} captions this model learnt from, and it "
            "knew no words before: its answer is a guess"
            for text, words in unseen.items()
        ]

    def save(self, folder: Path) -> None:
        """Write it into a run's folder."""
        write_json(folder / FILE, asdict(self))


def count_words(source: Source, *, digest: str, scratch: bool) -> WordCounts:
    """Read a source once; rows that training would skip are skipped."""
    images = captions = 0
    words: Counter[str] = Counter()
    for block in source.blocks():
        for row in source.read(block):
            if reason_against(row, need_text=True) is not None:
                continue
            images += 1
            for text in row.texts:
                captions += bool(text.strip())
                words.update({word for word in words_of(text) if not _UNSPACED.search(word)})
    ordered = sorted(words.items(), key=lambda item: (-item[1], item[0]))
    return WordCounts(digest, images, captions, scratch, dict(ordered))


def read_words(folder: Path) -> WordCounts | None:
    """What a run's folder says, or None.

    Raises:
        InputError: a file that is malformed.
    """
    values = read_record(folder / FILE, _SHAPE)
    return None if values is None else WordCounts(**values)
