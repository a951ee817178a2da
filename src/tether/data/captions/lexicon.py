"""Words for rewriting captions by rule: what may stand for what, what says nothing, and how a caption is framed."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from tether.core.atomic_io import read_text
from tether.core.errors import InputError
from tether.core.yaml_files import MAX_BYTES, parse_yaml

ENGLISH = "english"
_NAMED = re.compile(r"(.+)#([0-9a-f]{12})", re.DOTALL)
Words = TypeVar("Words")
_KEYS = ("synonyms", "stopwords", "openings", "frames")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The words of one language, all in small letters.

    Attributes:
        name: ``english`` or the file it came from, ``#``, and the first 12 digits of its content's SHA-256, so that
            what is kept under a name is not taken for that of another content.
        synonyms: for each known word the others of its group.
        stopwords: words that name nothing.
        openings: beginnings that say only that there is an image.
        frames: sentences with one ``{}`` that a bare caption goes into.
    """

    name: str
    synonyms: Mapping[str, tuple[str, ...]]
    stopwords: frozenset[str]
    openings: tuple[str, ...]
    frames: tuple[str, ...]


def lexicon(name: str = ENGLISH) -> Lexicon:
    """The lexicon that comes with Tether (``english``), or one from a YAML file of the same keys.

    A lexicon's own name, with its digest, gives that lexicon again.

    Raises:
        InputError: no such file, one that is not of this form, or of another content than its name says; it names the
            file and the key.
    """
    named = None if os.path.exists(name) else _NAMED.fullmatch(name)  # noqa: PTH110 - Path raises for a long name
    source = named[1] if named else name
    found = parsed_words(source, _parsed, shipped="english.yaml")
    if named and found.name != name:
        raise InputError(f"{source}: is not what it was: expected {name!r}, got {found.name!r}")
    return found


def parsed_words(source: str, parse: Callable[[str, str], Words], *, shipped: str) -> Words:
    """What ``parse`` makes of a file's text and name: the file that comes with Tether, for ``english``, or another.

    Raises:
        InputError: no such file, or what ``parse`` refuses.
    """
    if source == ENGLISH:
        return _shipped(shipped, parse)
    path = Path(source)
    try:
        text = read_text(path, limit=MAX_BYTES)
    except InputError as error:
        raise InputError(f"{error}; the words that come with Tether are {ENGLISH!r}") from error
    return parse(text, str(path))


@functools.cache
def _shipped(file: str, parse: Callable[[str, str], Words]) -> Words:
    text = (resources.files("tether.data.captions") / "lexicons" / file).read_text(encoding="utf-8")
    return parse(text, ENGLISH)


def _parsed(text: str, where: str) -> Lexicon:
    given = parse_yaml(text, where=where)
    if not isinstance(given, dict) or set(given) - set(_KEYS):
        raise InputError(f"{where}: expected some of the keys {', '.join(_KEYS)}, got {given!r:.100}")
    stopwords = given.get("stopwords") or []
    frames = _words(given.get("frames"), where=f"{where}: frames")
    for frame in frames:
        if frame.count("{}") != 1:
            raise InputError(f"{where}: frames: expected exactly one {{}}, got {frame!r}")
    return Lexicon(
        f"{where}#{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        _groups(given.get("synonyms"), where=f"{where}: synonyms"),
        frozenset(stopwords.split() if isinstance(stopwords, str) else _words(stopwords, where=f"{where}: stopwords")),
        _words(given.get("openings"), where=f"{where}: openings"),
        frames or ("{}",),
    )


def _words(given: Any, *, where: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(word, str) and word.strip() for word in given):
        raise InputError(f"{where}: expected a list of words, got {given!r:.100}")
    return tuple(given)


def _groups(given: Any, *, where: str) -> dict[str, tuple[str, ...]]:
    if given is None:
        return {}
    if not isinstance(given, list):
        raise InputError(f"{where}: expected a list of groups, got {given!r:.100}")
    found: dict[str, tuple[str, ...]] = {}
    for number, group in enumerate(given):
        words = _words(group, where=f"{where}[{number}]")
        if len(set(words)) < 2 or len(set(words)) < len(words):
            raise InputError(f"{where}[{number}]: expected two or more words, none of them twice, got {group!r}")
        for word in words:
            if word in found:
                raise InputError(f"{where}[{number}]: {word!r} is in two groups")
            found[word] = tuple(other for other in words if other != word)
    return found
