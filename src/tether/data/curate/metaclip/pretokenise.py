"""How MetaCLIP reads a caption: seven marks and three kinds of white space are set apart by blanks, nothing else."""

from __future__ import annotations

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
