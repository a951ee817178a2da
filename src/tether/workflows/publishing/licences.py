"""Licences as the Hugging Face hub names them; which one holds is for the publisher to say, nothing is guessed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tether.core.errors import InputError
from tether.core.printable import is_line, quoted

OTHER = "other"
LICENCES = (
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bigcode-openrail-m", "bigscience-bloom-rail-1.0",
    "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc",
    "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0",
    "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2",
    "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0",
    "pddl", "postgresql", "unlicense", "wtfpl", "zlib", OTHER,
)  # fmt: skip
"""The hub's identifiers (huggingface.co/docs/hub/repositories-licenses), without ``unknown``, which tells nobody what
they may do."""
_NEAR = 4


@dataclass(frozen=True, slots=True)
class Licence:
    """Under which terms a model is published.

    Attributes:
        identifier: one of ``LICENCES``.
        name: of a licence that is none of them.
        link: to the text of that.
    """

    identifier: str
    name: str = ""
    link: str = ""


def licence(identifier: str | None, *, name: str | None = None, link: str | None = None) -> Licence:
    """A licence from what was given, checked.

    Args:
        identifier: as the hub writes it; capitals do not count.
        name: of a licence that the hub has no identifier for, with ``other`` alone.
        link: where its text is, an ``https://`` address; with ``other`` alone.

    Raises:
        InputError: none given, an identifier that the hub does not know, or ``other`` without a name and a link.
    """
    if identifier is None or not identifier.strip():
        raise InputError(
            "license: a model card needs one, and none is guessed; give --license apache-2.0, or another of the hub's "
            "identifiers, or --license other with --license-name and --license-link"
        )
    known = identifier.strip().lower()
    if known not in LICENCES:
        near = difflib.get_close_matches(known, LICENCES, n=_NEAR, cutoff=0.5)
        hint = f"near ones: {', '.join(near)}; " if near else ""
        raise InputError(
            f"license: the hub knows no {quoted(identifier)}; {hint}any other is --license other with --license-name "
            "and --license-link"
        )
    for option, value in (("license_name", name), ("license_link", link)):
        if known == OTHER and not value:
            raise InputError(f"{option}: --license other needs it, got none")
        if known != OTHER and value:
            raise InputError(f"{option}: is for --license other alone, got --license {known}")
        if value and not is_line(value):
            raise InputError(f"{option}: expected one line of text, got {quoted(value)}")
    if link and not link.startswith("https://"):
        raise InputError(f"license_link: expected an https:// address, got {quoted(link)}")
    return Licence(known, name or "", link or "")
