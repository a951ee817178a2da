"""Mend what can be mended in a caption without changing a word of it."""

from __future__ import annotations

import html
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tether.core.ranges import checked
from tether.data.curate.engine.step import Gives, KeptSettings, texts_of

_TAG = r"(?is)<!--.*?-->|</?[a-z][^<>]*>"
_WHITE = (
    "[\\x09-\\x0D\\x1C-\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}]+"
)
# Control characters, soft hyphen, zero-width space, word joiner and byte order mark. The zero-width joiners stay: they
# spell words of Persian and of Indian scripts, and emoji.
_INVISIBLE = "[\\x00-\\x08\\x0E-\\x1B\\x7F-\\x{84}\\x{86}-\\x{9F}\\x{AD}\\x{200B}\\x{2060}\\x{FEFF}]+"


class TidyText(KeptSettings):
    """Gives captions one Unicode form and single blanks, and takes invisible characters and markup out of them.

    ``<b>caf&eacute;</b>`` becomes the word without tags, its accent one character. Words, case and punctuation stay.
    """

    columns: tuple[str, ...] = ()
    gives: Gives = "one"

    @checked
    def __init__(self, *, form: Literal["NFC", "NFKC"] = "NFC", markup: Literal["strip", "keep"] = "strip") -> None:
        """Set the form.

        Args:
            form: ``NFKC`` also unfolds ligatures, wide letters and raised digits.
            markup: HTML entities become their characters and tags go, also those spelt with entities, or all stay.
        """
        self.form, self.markup = form, markup

    def map(self, rows: pa.RecordBatch) -> pa.ListArray:
        """The one text of each caption; it may be empty."""
        texts = texts_of(rows).cast(pa.string())
        if self.markup == "strip":
            texts = _changed(texts, "<", _untagged)
            texts = _changed(texts, "&", _opened)
        texts = pc.replace_substring_regex(texts, _INVISIBLE, "")  # first: what stood around it may join
        texts = pc.utf8_normalize(texts, self.form)
        texts = pc.replace_substring_regex(texts, _WHITE, " ")
        texts = pc.utf8_trim(texts, " ")
        return pa.ListArray.from_arrays(pa.array(np.arange(len(texts) + 1), pa.int32()), texts)


def _changed(texts: pa.StringArray, sign: str, change: Any) -> pa.StringArray:
    """Texts with ``change`` made to those that hold ``sign``."""
    held = pc.match_substring(texts, sign).fill_null(False)
    if not pc.any(held).as_py():
        return texts
    return pc.replace_with_mask(texts, held, change(texts.filter(held)))


def _untagged(texts: pa.StringArray) -> pa.StringArray:
    return pc.replace_substring_regex(texts, _TAG, " ")


def _opened(texts: pa.StringArray) -> pa.StringArray:
    """Entities as characters, without the tags that were spelt with them."""
    return _changed(pa.array([html.unescape(text) for text in texts.to_pylist()], pa.string()), "<", _untagged)
