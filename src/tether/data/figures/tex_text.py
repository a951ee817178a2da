"""LaTeX to plain words, with commands of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from tether.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text

LONGEST = 20_000
"""Characters of LaTeX; pylatexenc's time grows with the square of them. Captions of papers stay below 10,000."""


def latex_to_text(source: str, *, symbols: Mapping[str, str] | None = None) -> str:
    r"""Plain text of a piece of LaTeX: accents and symbols as letters, emphasis gone, ``\cite`` as ``<cit.>``.

    ``\ref`` becomes ``<ref>``, ``~`` a no-break space, ``$x^2$`` stays ``x^2``, comments go, an unknown command goes
    and its arguments stay. Blanks are kept as they come out.

    Source: pylatexenc's ``LatexNodes2Text``, as arXiv 2311.04711 uses it (extra ``figures``).

    Args:
        source: any LaTeX of up to ``LONGEST`` characters; what is not closed is read as far as it goes.
        symbols: text of further commands by name without backslash, such as ``{"eg": "e.g."}``; they come first.

    Raises:
        InputError: it cannot be read: too long, nested too deep, or a command that pylatexenc stumbles over
            (``\href``).
        MissingExtraError: pylatexenc is not installed.
    """
    if len(source) > LONGEST:
        raise InputError(f"{len(source)} characters of LaTeX; more than {LONGEST} do not become text")
    try:
        return _converter(tuple((symbols or {}).items())).latex_to_text(source)
    except RecursionError:
        raise InputError("LaTeX nested too deep to become text") from None
    except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:  # whatever its tables stumble over
        raise InputError(f"LaTeX that cannot become text: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=16)
def _converter(symbols: tuple[tuple[str, str], ...]) -> LatexNodes2Text:
    try:
        from pylatexenc import latex2text
    except ImportError:
        raise MissingExtraError("pylatexenc", extra="figures") from None
    table = latex2text.get_default_latex_context_db()
    macros = [latex2text.MacroTextSpec(name, simplify_repl=_says(text)) for name, text in symbols]
    table.add_context_category("own", prepend=True, macros=macros)
    return latex2text.LatexNodes2Text(latex_context=table)


def _says(text: str):
    """A constant function: as a string, ``%`` and ``{}`` in it would be filled in."""
    return lambda node: text
