"""Figures and their captions in JATS articles (PubMed Central), by the rules of arXiv 2311.04711."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from tether.core.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_log = logging.getLogger("tether.data")

JATS_IMAGES = (".jpg",)
"""Endings of the files that a figure's link may name, as a package of PubMed Central holds them."""


def extract_jats_figures(
    xml: str | bytes,
    *,
    image_names: Iterable[str] | None = None,
    languages: Sequence[str] = ("en",),
    join: str = "",
    blanks: Literal["kept", "collapsed"] = "kept",
    strict: bool = False,
) -> dict[str, str]:
    """Captions of an article's figures, by the link to the image, which is a file's name without ending.

    Every ``<fig>`` counts whose ``fig-type`` is missing or ``Figure``, whose language is missing or wanted, that has a
    ``<caption>`` which is not only blanks and a ``<graphic>`` of its own (none inside ``<alternatives>``). A link used
    twice has its last caption; one to an empty caption has an empty one.

    The document is read without entities: one that declares any is refused, so that none can blow up or read a file,
    and nothing is fetched.

    Source: arXiv 2311.04711, section 3.2. Its code drops the figures in English and keeps the others; the paper, and
    this, keep the English ones.

    Args:
        xml: the article.
        image_names: names of the image files beside it, of which those ending in ``.jpg`` count; None takes every
            link.
        languages: wanted language codes, such as ``en``, which stands for ``en-GB`` too; empty takes every language.
        join: put between a title and a paragraph, and between all other pieces of text; the code's is nothing.
        blanks: ``collapsed`` makes one blank of every run of them.
        strict: raise on a document that cannot be read, instead of giving nothing and saying so in the log.

    Raises:
        InputError: under ``strict``, a document that is not well-formed or declares entities.
        MissingExtraError: defusedxml is not installed.
    """
    try:
        root = read_jats(xml)
    except InputError as error:
        if strict:
            raise
        _log.warning("%s", error)
        return {}
    there = None
    if image_names is not None:
        there = {PurePosixPath(name).stem for name in image_names if name.endswith(JATS_IMAGES)}
    wanted = _codes((languages,) if isinstance(languages, str) else languages)
    captions: dict[str, str] = {}
    for figure in root.iter("fig"):
        found = None if figure is root else _caption(figure, languages=wanted, join=join)
        if found is not None and (there is None or found[0] in there):
            captions[found[0]] = " ".join(found[1].split()) if blanks == "collapsed" else found[1]
    return captions


def read_jats(xml: str | bytes) -> Element:
    """The document's root.

    Raises:
        InputError: not well-formed, or it declares entities.
        MissingExtraError: defusedxml is not installed.
    """
    try:
        from defusedxml.common import DefusedXmlException
        from defusedxml.ElementTree import ParseError, fromstring
    except ImportError:
        raise MissingExtraError("defusedxml", extra="figures") from None
    try:
        return fromstring(xml, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        raise InputError(f"XML that declares entities is not read: {error}") from None
    except (ParseError, ValueError, LookupError) as error:  # the latter two for its encoding
        raise InputError(f"XML that cannot be read: {error}") from None


def jats_about(root: Element) -> dict[str, str]:
    """``doi``, ``pmcid`` and ``licence`` (its link, else its words) of an article, as far as it says them."""
    about: dict[str, str] = {}
    meta = root.find("./front/article-meta")
    if meta is None:
        return about
    for identifier in meta.iter("article-id"):
        kind = {"doi": "doi", "pmc": "pmcid", "pmcid": "pmcid"}.get(identifier.get("pub-id-type", ""))
        if kind and identifier.text:
            about.setdefault(kind, identifier.text.strip())
    licence = next(meta.iter("license"), None)
    if licence is not None:
        words = " ".join("".join(licence.itertext()).split())
        link = _ending(licence, "href") or next((_ending(part, "href") for part in licence.iter("ext-link")), None)
        about["licence"] = link or licence.get("license-type") or words
    return about


def _caption(figure: Element, *, languages: tuple[str, ...], join: str) -> tuple[str, str] | None:
    """The link and the caption of a figure that counts."""
    if figure.get("fig-type", "Figure") != "Figure":
        return None
    language = _ending(figure, "lang")
    if language is not None and languages:
        (code,) = _codes((language,))
        if not any(code == wanted or code.startswith(f"{wanted}-") for wanted in languages):
            return None
    caption, graphic = figure.find("caption"), figure.find("graphic")
    if caption is None or graphic is None:
        return None
    text, link = join.join(caption.itertext()), _ending(graphic, "href")
    return None if link is None or text.isspace() else (link, text)


def _codes(languages: Iterable[str]) -> tuple[str, ...]:
    return tuple(language.strip().lower().replace("_", "-") for language in languages)


def _ending(element: Element, name: str) -> str | None:
    """The first attribute whose name, with its namespace, ends so."""
    return next((value for key, value in element.attrib.items() if key.endswith(name)), None)
