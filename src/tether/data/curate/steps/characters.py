"""A column of texts as one array of code points, so that rules about characters cost a few passes over memory."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt32

_LAST = 0x323B0  # no letter stands above it in Unicode 16
_ALL = 0x110000
LETTER = "L"
MARK = "M"


def code_points(texts: pa.StringArray) -> tuple[UInt32[np.ndarray, " m"], Int[np.ndarray, " n+1"]]:
    """The code points of n texts one after the other, and where each text starts; a null is an empty text."""
    column = texts.fill_null("")
    joined = "".join(column.to_pylist())
    starts = np.zeros(len(column) + 1, np.int64)
    np.cumsum(np.asarray(pc.utf8_length(column)), out=starts[1:])
    return np.frombuffer(joined.encode("utf-32-le"), np.uint32), starts


def totals(marked: Bool[np.ndarray, " m"], starts: Int[np.ndarray, " n+1"]) -> Int[np.ndarray, " n"]:
    """How many marked places each text has."""
    running = np.zeros(len(marked) + 1, np.int64)
    np.cumsum(marked, out=running[1:])
    return running[starts[1:]] - running[starts[:-1]]


def longest_run(points: UInt32[np.ndarray, " m"], starts: Int[np.ndarray, " n+1"]) -> Int[np.ndarray, " n"]:
    """Length of the longest run of one code point in each text; 0 for an empty one."""
    found = np.zeros(len(starts) - 1, np.int64)
    if not len(points):
        return found
    begins = np.ones(len(points), np.bool_)
    np.not_equal(points[1:], points[:-1], out=begins[1:])
    inside = starts[:-1][starts[:-1] < len(points)]
    begins[inside] = True  # a run ends with its text
    places = np.flatnonzero(begins)
    lengths = np.diff(places, append=len(points))
    filled = np.flatnonzero(np.diff(starts))
    found[filled] = np.maximum.reduceat(lengths, np.searchsorted(places, starts[filled]))
    return found


@cache
def is_kind(kinds: str) -> Bool[np.ndarray, " 1114112"]:
    """For every code point whether its Unicode category begins with one of ``kinds``, such as ``LM``."""
    table = np.zeros(_ALL, np.bool_)
    category = unicodedata.category
    table[:_LAST] = [category(chr(point))[0] in kinds for point in range(_LAST)]
    table[0xE0100:0xE01F0] = MARK in kinds  # variation selectors
    return table
