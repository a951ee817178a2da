"""One paper's sources, as an archive or a folder: which images it holds and what their captions say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tether.core.errors import InputError
from tether.methods.scientific_papers.jats import JATS_IMAGES, extract_jats_figures, jats_about, read_jats
from tether.methods.scientific_papers.members import ENDINGS, Limits, members
from tether.methods.scientific_papers.tex import IMAGES, extract_tex_figures, latex_to_text

_log = logging.getLogger("tether.data")
_TEX, _JATS = (".tex",), (".nxml", ".xml")


@dataclass(frozen=True, slots=True)
class CaptionedFigure:
    """An image with its caption.

    Attributes:
        name: of the image's file in the archive.
        caption: plain text, blanks collapsed, never empty.
        document: the file that the caption stands in.
    """

    name: str
    caption: str
    document: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A file of an archive that could not be used, and why."""

    name: str
    reason: str


class FigureArchive:
    r"""The sources of one paper: a ``.tar``, ``.tar.gz``, ``.zip`` or a folder with LaTeX files or JATS articles.

    Everything is read in memory and within limits, nothing is written, nothing is fetched, and no file of the archive
    is ever run: names that point outside, links, devices, files that unpack without end and XML that declares entities
    are passed over and named in ``problems``. ``\input`` is not followed, so a file may include itself.

    Attributes:
        paper: the file's name without its ending: the identifier that arXiv and PubMed Central give it.
        names: the images' files, in the archive's order.
        problems: what was passed over; reading images may add to it.
        about: ``doi``, ``pmcid`` and ``licence``, as far as a JATS article says them.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        encoding: str = "auto",
        languages: tuple[str, ...] = ("en",),
        join: str = " ",
        to_text: Callable[[str], str] = latex_to_text,
        limits: Limits | None = None,
        strict: bool = False,
    ) -> None:
        """Read the archive once and find the figures.

        Args:
            path: the archive or folder.
            encoding: of LaTeX files; ``iso-8859-1`` is the paper's, see ``extract_tex_figures``.
            languages: of JATS figures, see ``extract_jats_figures``.
            join: put between the pieces of a JATS caption; the paper's code puts nothing there.
            to_text: turns a caption's LaTeX into plain text.
            limits: what the archive may hold.
            strict: raise at the first problem.

        Raises:
            InputError: no such file, or no archive at all; under ``strict``, any problem.
            MissingExtraError: a library of the extra ``figures`` is needed and missing.
        """
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{path}: no such file or folder")
        self.paper = paper_of(self.path.name)
        self.names: list[str] = []
        self.problems: list[Problem] = []
        self.about: dict[str, str] = {}
        self._limits, self._strict = limits or Limits(), strict
        documents = self._scan()
        self._figures: dict[str, CaptionedFigure] = {}
        for name, data in documents.items():
            try:
                if name.endswith(_TEX):
                    found = extract_tex_figures(
                        data, image_names=self.names, encoding=encoding, to_text=to_text, strict=True
                    )
                else:
                    found = self._jats(data, languages=languages, join=join)
            except InputError as error:
                self._problem(name, str(error))
                continue
            for image, caption in found.items():
                if caption.strip():
                    self._figures[image] = CaptionedFigure(image, " ".join(caption.split()), name)

    def figures(self) -> tuple[CaptionedFigure, ...]:
        """Images that have a caption, in the archive's order; of several captions the last document's counts."""
        return tuple(self._figures[name] for name in self.names if name in self._figures)

    def images(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of image files, in the archive's order, read anew.

        Args:
            names: which ones; None takes those that have a caption.
        """
        wanted = set(self._figures if names is None else names)
        try:
            for member in members(self.path, limits=self._limits):
                if not wanted:
                    return
                if member.name in wanted and not member.refused:
                    wanted.discard(member.name)
                    yield member.name, member.read()
        except InputError as error:
            self._problem("", str(error))

    def _scan(self) -> dict[str, bytes]:
        """List the images; the documents by name."""
        documents: dict[str, bytes] = {}
        seen: set[str] = set()
        count, left = 0, float(self._limits.document_bytes)
        try:
            for member in members(self.path, limits=self._limits):
                count += 1
                if not member.name.endswith((*IMAGES, *_TEX, *_JATS)):
                    continue
                if member.refused:
                    self._problem(member.name, member.refused)
                elif member.name in seen:
                    self._problem(member.name, f"{member.name!r} stands in it twice; the first is taken")
                else:
                    seen.add(member.name)
                    if member.name.endswith(IMAGES):
                        self.names.append(member.name)
                    else:
                        left -= member.size * (1 if member.name.endswith(_TEX) else 0.25)
                        if left >= 0:
                            documents[member.name] = member.read()
                        else:
                            most = self._limits.document_bytes
                            self._problem(member.name, f"more than {most:,} bytes of LaTeX, or four times that of XML")
        except InputError as error:
            if not count:
                raise
            self._problem("", str(error))
        return documents

    def _jats(self, data: bytes, *, languages: tuple[str, ...], join: str) -> dict[str, str]:
        for key, value in jats_about(read_jats(data)).items():
            self.about.setdefault(key, value)
        found = extract_jats_figures(data, image_names=self.names, languages=languages, join=join, strict=True)
        by_link = {PurePosixPath(name).stem: name for name in self.names if name.endswith(JATS_IMAGES)}
        return {by_link[link]: caption for link, caption in found.items()}

    def _problem(self, name: str, reason: str) -> None:
        if self._strict:
            raise InputError(f"{self.path}: {name}: {reason}" if name else reason)
        self.problems.append(Problem(name, reason))
        _log.warning("%s: %s: %s", self.path.name, name, reason)


def paper_of(name: str) -> str:
    """A file's name without the ending of an archive."""
    ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]
