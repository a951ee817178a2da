"""Generated documentation: which files there are, what they should hold, and which of them are stale.

Pages under ``docs/gen`` are made by ``make docs`` and not committed; the README's block, the guides' figures and each
``method.toml`` are.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.core.method_files import FILE
from tether_lab.lab import pages, part_reference, real_photos
from tether_lab.lab.method_text import brought_up_to_date
from tether_lab.lab.results import rows
from tether_lab.lab.stored_result import stored

README = "README.md"
START, END = "<!-- tether:papers -->", "<!-- /tether:papers -->"
FOLDER, GUIDES, METHODS = "docs/gen", "docs/guides", "src/tether/methods"
_NOTE = "<!-- Written by `tether-lab docs --write`; changes made here are lost. -->\n\n"


def generate(root: Path, *, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every page under ``docs/gen``: its path from the root, and what it should hold.

    Args:
        root: the checkout.
        more: pages of other packages, by file name under docs/gen.
    """
    every = rows()
    found = {
        "papers.md": pages.index(every),
        "bibliography.md": pages.bibliography(every),
        "claims.md": pages.claims(every),
        "parts.md": part_reference.reference(),
        **{f"papers/{row.card.slug}.md": pages.paper(row) for row in every},
        **(more or {}),
    }
    return {f"{FOLDER}/{name}": _NOTE + text for name, text in found.items()}


def committed(root: Path) -> dict[str, str]:
    """The README, the guides and each ``method.toml`` as they should be: every verdict and figure as last measured.

    Raises:
        InputError: the README has no markers, or a guide's marker names no figure.
    """
    every = rows()
    readme = with_block(_read(root / README) or "", pages.verdicts(every), where=str(root / README))
    methods = {
        name: brought_up_to_date((root / name).read_text(encoding="utf-8"), row)
        for row in every
        for name in [f"{METHODS}/{row.card.slug.replace('-', '_')}/{FILE}"]
    }
    guides = {
        path.relative_to(root).as_posix(): filled(path.read_text(encoding="utf-8"), where=str(path))
        for path in sorted((root / GUIDES).glob("*.md"))
    }
    return {README: readme, **guides, **methods}


def with_block(readme: str, block: str, *, where: str) -> str:
    """The README with the text between its markers replaced."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in before:
        raise InputError(f"{where}: expected one {START} and below it one {END}; the verdicts go between")
    return f"{before}{START}\n{block}\n{END}{after}"


def stale(root: Path, wanted: Mapping[str, str]) -> list[str]:
    """Files that differ from what they should hold, are missing, or are no longer generated; sorted."""
    changed = {name for name, text in wanted.items() if _read(root / name) != text}
    return sorted(changed | _orphans(root, wanted))


def write(root: Path, wanted: Mapping[str, str]) -> list[str]:
    """Make the files hold what they should and remove what is no longer generated; returns what changed."""
    changed = stale(root, wanted)
    for name in changed:
        if name in wanted:
            write_text(root / name, wanted[name])
        else:
            (root / name).unlink()
    return changed


def _orphans(root: Path, wanted: Mapping[str, str]) -> set[str]:
    if not any(name.startswith(FOLDER) for name in wanted):  # only what is committed was asked for
        return set()
    return {path.relative_to(root).as_posix() for path in (root / FOLDER).rglob("*.md")} - wanted.keys()


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


_WHOLE = ("verdict", "mean", "lower", "upper", "margin", "cpu_seconds", "on_photographs")
_MARKER = re.compile(r"<!--= (?P<key>[^\s:]+)(?::(?P<form>\S+))? -->.*?<!--/-->")


def filled(text: str, *, where: str) -> str:
    """The text with every marker's figure brought up to date.

    A key is ``SLUG.verdict``, ``SLUG.on_photographs`` (the verdict there, if the claim was checked there too),
    ``SLUG.mean``, ``SLUG.lower``, ``SLUG.upper``, ``SLUG.margin``, ``SLUG.cpu_seconds``, or the mean over seeds of
    ``SLUG.ours``, ``SLUG.baseline`` or a side figure, ``SLUG.notes.NAME``. What follows the colon is a format such as
    ``.2f`` or ``.1%``; without one the value is written with ``str``.

    Args:
        text: Markdown.
        where: the file, for the error message.

    Raises:
        InputError: no such paper, result or key, or a format that the value does not have.
    """
    photos = real_photos.stored()

    def figure(match: re.Match[str]) -> str:
        key, form = match["key"], match["form"] or ""
        slug, _, name = key.partition(".")
        result = stored(slug)
        if result is None:
            raise InputError(f"{where}: marker {key!r}: no result of {slug}")
        if slug in photos:
            result = result | {"on_photographs": photos[slug]["verdict"]}
        try:
            shown = format(_value(result, name), form)
        except (KeyError, ValueError) as error:
            raise InputError(f"{where}: marker {key!r} {form!r}: {error}; known: {', '.join(_names(result))}") from None
        return f"<!--= {key}{':' + form if form else ''} -->{shown}<!--/-->"

    return _MARKER.sub(figure, text)


def _value(result: Mapping[str, Any], name: str) -> Any:
    if name in _WHOLE:
        return result[name]
    seeds = result["seeds"]
    values = [seed["notes"][name.removeprefix("notes.")] if name.startswith("notes.") else seed[name] for seed in seeds]
    return statistics.fmean(values)  # exact, where sum() rounds otherwise before Python 3.12


def _names(result: Mapping[str, Any]) -> list[str]:
    return [*(name for name in _WHOLE if name in result), "ours", "baseline"] + [
        f"notes.{name}" for name in sorted(result["seeds"][0]["notes"])
    ]
