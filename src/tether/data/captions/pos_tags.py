"""What kind of word each word of a caption is: tags as taggers of English give them, and a small tagger by lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from tether.core.errors import InputError
from tether.core.yaml_files import parse_yaml
from tether.data.captions.augment import bare
from tether.data.captions.lexicon import ENGLISH, parsed_words

Tagger = Callable[[Sequence[str]], Sequence[str]]
"""One tag of the Penn Treebank for each word, such as ``NN``; a tagger of nltk or spaCy can stand behind it."""

_TAGS = {"determiner": "DT", "other": "IN", "adjective": "JJ", "auxiliary": "VBZ", "verb": "VB", "noun": "NN"}
_CLASSES = {"NN": 1, "JJ": 2, "VB": 3}


def pos_class(tag: str) -> int:
    """How much a word tells, by its tag: 1 for nouns, 2 for adjectives, 3 for verbs, 4 for all else.

    Source: the released code of arXiv 2305.07017.

    Example:
        >>> from tether.data.captions.pos_tags import pos_class
        >>> [pos_class(tag) for tag in ("NNS", "JJR", "VBZ", "IN")]
        [1, 2, 3, 4]
    """
    return _CLASSES.get(tag[:2], 4)


@final
class LexiconTagger:
    """Tags the words of captions by lists and endings, without a model; what it does not know is a noun.

    It does not read the sentence, but for one thing: after a determiner or an adjective a verb is a noun.

    Example:
        >>> from tether.data.captions.pos_tags import LexiconTagger
        >>> LexiconTagger()("two brown dogs run in the park".split())
        ['DT', 'JJ', 'NN', 'VB', 'IN', 'DT', 'NN']
    """

    def __init__(self, *, words: str = ENGLISH) -> None:
        """Read the lists.

        Args:
            words: ``english``, or a YAML file: ``determiner``, ``other``, ``adjective``, ``auxiliary``, ``verb`` and
                ``noun``, each words in small letters with blanks between them, and ``endings``, such as ``{ly:
                other}``; all optional.

        Raises:
            InputError: a file that is not of this form; it names the file and the key.
        """
        self._tags, self._endings = parsed_words(words, _parsed, shipped="english_tags.yaml")

    def __call__(self, words: Sequence[str]) -> list[str]:
        """A tag for each word; marks around it and capitals do not matter."""
        found: list[str] = []
        for word in words:
            tag = self._tag(bare(word))
            follows = bool(found) and found[-1] in (_TAGS["determiner"], _TAGS["adjective"])
            found.append(_TAGS["noun"] if tag == _TAGS["verb"] and follows else tag)
        return found

    def _tag(self, word: str) -> str:
        if not any(letter.isalpha() for letter in word):
            return _TAGS["other"]
        if word in self._tags:
            return self._tags[word]
        known = (tag for ending, tag in self._endings.items() if word.endswith(ending) and len(word) > len(ending) + 1)
        return next(known, _TAGS["noun"])


_Lists = tuple[Mapping[str, str], Mapping[str, str]]


def _parsed(text: str, where: str) -> _Lists:
    given = parse_yaml(text, where=where)
    if not isinstance(given, dict) or set(given) - {*_TAGS, "endings"}:
        raise InputError(f"{where}: expected some of the keys {', '.join(_TAGS)}, endings, got {given!r:.100}")
    endings: Any = given.pop("endings", None) or {}
    if not isinstance(endings, dict) or any(str(kind) not in _TAGS for kind in endings.values()):
        raise InputError(f"{where}: endings: expected one of {', '.join(_TAGS)} for each, got {endings!r:.100}")
    tags: dict[str, str] = {}
    for kind, words in given.items():
        if not isinstance(words, str):
            raise InputError(f"{where}: {kind}: expected words with blanks between them, got {words!r:.100}")
        tags |= dict.fromkeys(words.split(), _TAGS[kind])
    longest_first = sorted(endings, key=lambda ending: (-len(str(ending)), str(ending)))
    return tags, {str(ending): _TAGS[endings[ending]] for ending in longest_first}
