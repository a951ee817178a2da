"""Drop captions that are no sentence about an image: too short, too long, addresses, file names, markup, noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int, UInt32

from tether.core.errors import InputError
from tether.core.ranges import Count, Share, Whole, checked
from tether.data.curate.engine.step import Stateless, texts_of
from tether.data.curate.steps.characters import LETTER, MARK, code_points, is_kind, longest_run, totals

Choice = Literal["drop", "keep"]

_TOGETHER = 1 << 22  # characters looked at at once, so that captions of a megabyte each do not fill the memory
_ADDRESS = (
    r"(?i)https?://|\bwww\.\w|[\w.+-]+@[\w-]+\.\w|\.(?:com|org|net|html?|php)\b|"
    r"\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|mp4)\b"
)
_MARKUP = r"(?i)</?[a-z][^<>]*>|<!--|&(?:[a-z]{2,8}|#[0-9]{1,6}|#x[0-9a-f]{1,5});"
_SEPARATOR = "Z"
_WHITE = np.array([0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x1F, 0x85], np.uint32)
_REPLACEMENT = 0xFFFD


class TextRules(Stateless):
    """Keeps captions that pass every rule; a pair without a caption passes none.

    Characters are Unicode code points, words what white space sets apart: Chinese, Japanese and Thai sentences are one
    word. Rules read the caption as it is; put ``tidy_text`` before them to mend what can be mended.
    """

    @checked
    def __init__(
        self,
        *,
        characters: tuple[Whole, Whole] = (3, 1000),
        words: tuple[Whole, Whole] = (1, 200),
        letters: Share = 0.3,
        run: Count | None = 9,
        addresses: Choice = "drop",
        markup: Choice = "drop",
        broken: Choice = "drop",
    ) -> None:
        """Set the rules; ``keep``, and for ``run`` None, switch one off, and so do limits that let all pass.

        Args:
            characters: least and most code points.
            words: least and most words.
            letters: least fraction, 0 to 1, of letters (with their marks) among what is not white space; above 0 it
                needs at least one letter.
            run: most repetitions of one character in a row, at least 1, or None for any number.
            addresses: captions with a web or mail address or an image's file name in them.
            markup: captions with HTML tags or entities in them.
            broken: captions with control characters, with the mark that stands for undecodable bytes, or with UTF-8
                that was read as Latin-1.
        """
        for name, (low, high) in (("characters", characters), ("words", words)):
            if low > high:
                raise InputError(f"{name}: expected least and most, least <= most, got {low} and {high}")
        self.characters, self.words, self.letters, self.run = tuple(characters), tuple(words), letters, run
        self.addresses, self.markup, self.broken = addresses, markup, broken
        self.refusal = f"the caption breaks a rule: {', '.join(self._rules())}"

    def _rules(self) -> list[str]:
        named = [
            f"{self.characters[0]} to {self.characters[1]} characters",
            f"{self.words[0]} to {self.words[1]} words",
        ]
        named += [f"letters at least {self.letters:g} of it"] if self.letters else []
        named += [f"no character more than {self.run} times in a row"] if self.run else []
        named += ["no address"] if self.addresses == "drop" else []
        named += ["no markup"] if self.markup == "drop" else []
        return named + (["nothing broken"] if self.broken == "drop" else [])

    def keep(self, rows: pa.RecordBatch) -> Float[np.ndarray, " n"]:
        """1 for captions that pass, else 0."""
        texts = texts_of(rows).cast(pa.string())
        length = np.asarray(pc.utf8_length(texts).fill_null(-1))
        place = np.flatnonzero((length >= self.characters[0]) & (length <= self.characters[1]))
        passed = np.zeros(rows.num_rows)
        for some in _portions(place, length):
            passed[some] = self._pass(texts.take(pa.array(some)))
        return passed

    def _pass(self, texts: pa.StringArray) -> Bool[np.ndarray, " n"]:
        points, starts = code_points(texts)
        white = is_kind(_SEPARATOR)[points] | np.isin(points, _WHITE)
        begins = ~white
        begins[1:] &= white[:-1] | _at(starts, len(points))[1:]
        words = totals(begins, starts)
        passed = (words >= self.words[0]) & (words <= self.words[1])
        if self.letters:
            letters = totals(is_kind(LETTER + MARK)[points], starts)
            lettered = totals(is_kind(LETTER)[points], starts)
            passed &= (lettered > 0) & (letters >= self.letters * totals(~white, starts))
        if self.run is not None:
            passed &= longest_run(points, starts) <= self.run
        if self.broken == "drop":
            passed &= totals(_is_broken(points, _at(starts, len(points))), starts) == 0
        if self.addresses == "drop":
            _refuse(passed, texts, _ADDRESS, where=totals((points == ord(".")) | (points == ord(":")), starts) > 0)
        if self.markup == "drop":
            _refuse(passed, texts, _MARKUP, where=totals((points == ord("<")) | (points == ord("&")), starts) > 0)
        return passed


def _portions(place: Int[np.ndarray, " n"], length: Int[np.ndarray, " m"]) -> Iterator[Int[np.ndarray, " k"]]:
    """Neighbouring places of about ``_TOGETHER`` characters together, one at least."""
    if len(place):
        part = np.cumsum(length[place]) // _TOGETHER
        yield from np.split(place, np.flatnonzero(np.diff(part)) + 1)


def _at(starts: Int[np.ndarray, " n"], count: int) -> Bool[np.ndarray, " count"]:
    marked = np.zeros(count + 1, np.bool_)
    marked[starts] = True
    return marked[:count]


def _is_broken(points: UInt32[np.ndarray, " m"], first: Bool[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    control = (points < 0x20) | ((points >= 0x7F) & (points < 0xA0))
    if control.any():
        control &= ~np.isin(points, _WHITE)
    following = np.append(np.where(first[1:], 0, points[1:]), 0)  # the next caption's first follows none
    # A letter of two bytes, and the quotation marks and dashes of three, as Latin-1 or Windows-1252 show them.
    two = ((points == 0xC2) | (points == 0xC3)) & (following >= 0x80) & (following < 0xC0)
    three = (points == 0xE2) & ((following == 0x20AC) | (following == 0x80))
    return control | (points == _REPLACEMENT) | two | three


def _refuse(passed: Bool[np.ndarray, " n"], texts: pa.StringArray, pattern: str, *, where: np.ndarray) -> None:
    """Those in which the pattern is found, looked for only where it can be."""
    place = np.flatnonzero(passed & where)
    if len(place):
        passed[place] = ~np.asarray(pc.match_substring_regex(texts.take(pa.array(place)), pattern))
