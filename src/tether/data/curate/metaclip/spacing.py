"""Where blanks stand: how MetaCLIP spaces a caption, and how MetaCLIP 2 wraps an entry where a script writes none."""

from __future__ import annotations

import re
import string

import pyarrow as pa
import pyarrow.compute as pc

MARKS = ",.;:?!`"
WHITE = "\t\n\r"
_TABLE = str.maketrans({mark: f" {mark} " for mark in MARKS} | dict.fromkeys(WHITE, " "))


def spaced(text: str) -> str:
    """The caption with a blank at both ends and around each mark; blanks are not collapsed, case is not folded.

    Source: arXiv 2309.16671, released code (``substr_matching.py``).
    """
    return f" {text.translate(_TABLE)} "


def tokens(text: str) -> list[str]:
    """What stands between the single blanks of ``spaced(text)``, the outer two left out; empty strings count."""
    return text.translate(_TABLE).split(" ")


def token_lists(texts: pa.StringArray) -> pa.ListArray:
    """``tokens`` of every text at once; a null has one empty token."""
    column = texts.fill_null("")
    marks = pc.ReplaceSubstringOptions(f"[{MARKS}]", r" \0 ")
    white = pc.ReplaceSubstringOptions("[\t\n\r]", " ")
    for options in (marks, white):
        column = pc.call_function("replace_substring_regex", [column], options)
    return pc.call_function("split_pattern", [column], pc.SplitPatternOptions(" "))


JOINED_RANGES = (
    (0x4E00, 0x9FFF),  # Han
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0x2CEB0, 0x2EBEF),
    (0xF900, 0xFAFF),
    (0x2E80, 0x2EFF),
    (0x2F00, 0x2FDF),
    (0x2FF0, 0x2FFF),
    (0x0E00, 0x0E7F),  # Thai
    (0x0E80, 0x0EFF),  # Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x0F00, 0x0FFF),  # Tibetan
)
"""Code points of the scripts that set no blanks, both ends included; kana and Hangul are not among them."""

WIDE_MARKS = "，。、；：？！“”‘’（）【】《》〈〉「」『』～—"
"""The full-width marks and quotes that count as punctuation."""

WITHOUT_BLANKS = frozenset({"bo", "dz", "ja", "km", "lo", "my", "ryu", "th", "zh", "zh_classical", "zh_yue"})
"""Languages whose words stand side by side, so that a bigram is joined without a blank."""

PUNCTUATION = frozenset(string.punctuation + WIDE_MARKS)
_JOINED = re.compile(f"[{''.join(f'{chr(low)}-{chr(high)}' for low, high in JOINED_RANGES)}]")


def is_mark(character: str) -> bool:
    """Whether one character is ASCII punctuation or one of ``WIDE_MARKS``."""
    return character in PUNCTUATION


def is_joined(character: str) -> bool:
    """Whether one character needs no blank beside it: a mark, or a letter of a script that sets none."""
    return character in PUNCTUATION or _JOINED.match(character) is not None


def wrapped(entry: str) -> str:
    """The entry with a blank before it and after it, each only where its outer character is not joined.

    Source: arXiv 2507.22062, released code (``substr_matching.py``). Two entries never become the same text.
    """
    return f"{'' if is_joined(entry[0]) else ' '}{entry}{'' if is_joined(entry[-1]) else ' '}"
