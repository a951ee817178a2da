"""Figures and their captions in LaTeX sources, by the rules of arXiv 2311.04711, and LaTeX as plain words."""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from tether.core.errors import InputError, MissingExtraError
from tether.methods.scientific_papers.tex_tree import Node, read_tex

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text


_log = logging.getLogger("tether.data")

IMAGES = (".jpg", ".jpeg", ".gif", ".png", ".pdf", ".eps", ".ps")
"""Endings of files that count as figures; compared as they are written."""
REFUSED = ("\\href", "\\url", "\\email")
"""A caption that holds one of these is left out."""
CAPTIONS = 200_000
"""Characters of a file's captions that become text; whole papers stay below 100,000."""
_CAPTION = re.compile(r"\\caption\s+(?={)")
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


def extract_tex_figures(
    source: str | bytes,
    *,
    image_names: Iterable[str],
    encoding: str = "iso-8859-1",
    to_text: Callable[[str], str] = latex_to_text,
    strict: bool = False,
) -> dict[str, str]:
    r"""Captions of the images that a LaTeX file includes, by the images' names.

    An image counts when its name is among ``image_names`` (written without ending: the first with that stem), when
    its direct container holds no other ``\includegraphics``, and when a ``\caption`` stands in that container, before
    or after it. So sub-figures have their own captions and never the outer one, and an image inside ``center`` whose
    caption stands outside has none. Lines with ``\newcommand`` are left out before, comments do not count, ``\input``
    is not followed. An image used twice has its last caption. A caption may come out empty.

    Source: arXiv 2311.04711, section 3, and ``src/process/arxiv.py`` of its code.

    Args:
        source: the file; bytes are decoded.
        image_names: names of the image files beside it, in their order.
        encoding: of bytes; ``auto`` is UTF-8 where it can be, else Windows-1252. The paper's is ISO-8859-1.
        to_text: turns a caption's LaTeX into plain text; blanks are collapsed after it.
        strict: raise on LaTeX that cannot be read, instead of giving nothing and saying so in the log.

    Raises:
        InputError: under ``strict``, LaTeX that cannot be read; always, an unknown encoding.
        MissingExtraError: pylatexenc is not installed and ``to_text`` was not given.

    Example:
        >>> from tether.methods.scientific_papers import extract_tex_figures
        >>> source = r"\begin{figure} \includegraphics{dog} \caption{The dog at $x^2$.} \end{figure}"
        >>> extract_tex_figures(source, image_names=["dog.pdf"])
        {'dog.pdf': 'The dog at x^2.'}
    """
    text = decode_tex(source, encoding=encoding) if isinstance(source, bytes) else source
    try:
        root = read_tex(_prepared(text))
    except InputError as error:
        if strict:
            raise InputError(f"LaTeX that cannot be read: {error}") from error
        _log.warning("LaTeX that cannot be read: %s", error)
        return {}
    names = list(image_names)
    known, by_stem = set(names), {_stem(name): name for name in reversed(names)}
    many = _graphics(root)
    captions: dict[str, str] = {}
    left = CAPTIONS
    for container, graphic in root.descendants():
        if graphic.name != "includegraphics" or many[id(container)] > 1:
            continue
        name = _meant(graphic, known=known, by_stem=by_stem)
        caption = next((node for _, node in container.descendants() if node.name == "caption"), None)
        if name is None or caption is None or not caption.args:
            continue
        latex = caption.args[-1].inner()
        if any(word in latex for word in REFUSED):
            continue
        left -= len(latex) if len(latex) <= LONGEST else 0
        try:
            if left < 0:
                raise InputError(f"more than {CAPTIONS} characters in all captions of the file")
            captions[name] = " ".join(to_text(latex).split())
        except InputError as error:
            if strict:
                raise InputError(f"caption of {name!r}: {error}") from error
            _log.warning("caption of %r: %s", name, error)
    return captions


def decode_tex(source: bytes, *, encoding: str = "auto") -> str:
    """Bytes of a LaTeX file as text; ``auto`` is UTF-8 (or UTF-16 with a mark), else Windows-1252, which never fails.

    Raises:
        InputError: an encoding that Python does not know, or that these bytes are not in.
    """
    if encoding != "auto":
        try:
            return source.decode(encoding)
        except LookupError:
            raise InputError(f"encoding: expected 'auto' or one that Python knows, got {encoding!r}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"not {encoding}: {error}") from None
    marked = source.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    for guess in ("utf-16" if marked else "utf-8-sig", "cp1252"):
        try:
            return source.decode(guess)
        except UnicodeDecodeError:
            continue
    return source.decode("iso-8859-1")  # five bytes have no letter in Windows-1252


def _prepared(text: str) -> str:
    r"""Without the lines that define commands, and with no blank between ``\caption`` and its brace."""
    *lines, last = text.split("\n")
    kept = [line for line in lines if "\\newcommand" not in line]
    return _CAPTION.sub(r"\\caption", "\n".join([*kept, last]))


def _stem(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    stem, dot, _ = base.lstrip(".").rpartition(".")
    return f"{folder}{slash}{base[: len(base) - len(base.lstrip('.'))]}{stem}" if dot else name


def _meant(graphic: Node, *, known: set[str], by_stem: dict[str, str]) -> str | None:
    path = next(reversed(list(graphic.texts())), None)
    if path is None or path.endswith(IMAGES):
        return path if path in known else None
    return by_stem.get(path)


def _graphics(root: Node) -> dict[int, int]:
    r"""How many ``\includegraphics`` stand below each node."""
    count: dict[int, int] = {}
    for parent, node in reversed(list(root.descendants())):  # children come after their parents
        own = (node.name == "includegraphics") + count.get(id(node), 0)
        count[id(parent)] = count.get(id(parent), 0) + own
    return count
