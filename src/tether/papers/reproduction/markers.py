"""Figures in a guide, taken from the stored results: ``<!--= zclip.ours:.2f -->1.88<!--/-->``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tether.core.errors import InputError
from tether.papers.reproduction.reproduce import stored

_MARKER = re.compile(r"<!--= (?P<key>[^\s:]+)(?::(?P<form>\S+))? -->.*?<!--/-->")


def filled(text: str, *, where: str) -> str:
    """The text with every marker's figure brought up to date.

    A key is ``SLUG.verdict``, ``SLUG.mean``, ``SLUG.lower``, ``SLUG.margin``, ``SLUG.cpu_seconds``, or the mean over
    seeds of ``SLUG.ours``, ``SLUG.baseline`` or a side figure, ``SLUG.notes.NAME``. What follows the colon is a format
    such as ``.2f`` or ``.1%``; without one the value is written with ``str``.

    Args:
        text: Markdown.
        where: the file, for the error message.

    Raises:
        InputError: no such paper, result or key, or a format that the value does not have.
    """

    def figure(match: re.Match[str]) -> str:
        key, form = match["key"], match["form"] or ""
        slug, _, name = key.partition(".")
        result = stored(slug)
        if result is None:
            raise InputError(f"{where}: marker {key!r}: there is no results/{slug}.json")
        try:
            shown = format(_value(result, name), form)
        except (KeyError, ValueError) as error:
            raise InputError(f"{where}: marker {key!r} {form!r}: {error}; known: {', '.join(_names(result))}") from None
        return f"<!--= {key}{':' + form if form else ''} -->{shown}<!--/-->"

    return _MARKER.sub(figure, text)


def _value(result: Mapping[str, Any], name: str) -> Any:
    if name in ("verdict", "mean", "lower", "margin", "cpu_seconds"):
        return result[name]
    seeds = result["seeds"]
    values = [seed["notes"][name.removeprefix("notes.")] if name.startswith("notes.") else seed[name] for seed in seeds]
    return sum(values) / len(values)


def _names(result: Mapping[str, Any]) -> list[str]:
    return ["verdict", "mean", "lower", "margin", "cpu_seconds", "ours", "baseline"] + [
        f"notes.{name}" for name in sorted(result["seeds"][0]["notes"])
    ]
