"""Figures of scientific papers: archives of LaTeX sources or JATS articles as rows of images and captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

from tether.core.atomic_io import local
from tether.core.errors import InputError, MissingExtraError
from tether.core.hash_rng import hash_uniform
from tether.core.printable import encodable
from tether.core.ranges import Count, checked
from tether.core.types import Block, Row
from tether.data.blocks import cut, indices
from tether.data.paths import files, fingerprint, labels
from tether.data.sources.columns import bad_row
from tether.methods.scientific_papers.archive import FigureArchive, paper_of
from tether.methods.scientific_papers.images import SIZE, Postscript, as_jpeg, resize_for_clip
from tether.methods.scientific_papers.members import ENDINGS

Split = Literal["all", "train", "validation", "test"]
_TEST, _VALIDATION = 0.1, 0.05
_BLOCK_PAPERS = 64


class FiguresSource:
    """Every captioned figure of every paper; a block is a stretch of papers.

    A row's key is the paper's and the image's name. ``meta`` holds ``paper`` (what arXiv or PubMed Central call it,
    which is where its licence can be looked up), ``figure``, ``document``, and ``doi``, ``pmcid`` and ``licence`` as
    far as a JATS article says them, else the empty string. What an archive holds that cannot be used is a bad row.
    Splits are by paper, since one figure often stands in several files of a paper.
    """

    @checked
    def __init__(
        self,
        path: str,
        *,
        papers: Literal["archives", "folders"] = "archives",
        split: Split = "all",
        size: Count = SIZE,
        images: Literal["jpeg", "original"] = "jpeg",
        postscript: Postscript = "refuse",
        encoding: str = "auto",
        languages: tuple[str, ...] = ("en",),
        join: str = " ",
    ) -> None:
        """List the papers; none is opened yet.

        Args:
            path: an archive, a folder of archives (``.tar.gz``, ``.tar``, ``.zip``...) at any depth, or a pattern.
            papers: ``folders`` says that each folder in ``path`` is an unpacked paper.
            split: ``train`` (85 % of the papers), ``validation``, ``test`` (10 %) or ``all``.
            size: most pixels of an image's longer side.
            images: ``jpeg`` prepares them as the paper does; ``original`` leaves the bytes as they are, PDF too.
            postscript: ``refuse``, or ``ghostscript`` to have the program ``gs`` render EPS.
            encoding: of LaTeX files, see ``extract_tex_figures``; the paper's is ``iso-8859-1``.
            languages: of JATS figures; empty takes every language.
            join: put between the pieces of a JATS caption.

        Raises:
            InputError: no such file, or no paper there.
        """
        self.name = encodable(str(path))
        found = _folders(path) if papers == "folders" else files(path, ending=ENDINGS)
        names = labels(found)
        draws = hash_uniform(map(paper_of, names), salt="figures split")
        self._paths = {
            name: Path(each)
            for name, each, draw in zip(names, found, draws, strict=True)
            if split in ("all", _split_of(draw))
        }
        if not self._paths:
            raise InputError(f"{path}: none of the {len(found)} papers falls into the split {split!r}")
        self._size, self._images, self._postscript = size, images, postscript
        self._encoding, self._languages, self._join = (
            encoding,
            (languages,) if isinstance(languages, str) else tuple(languages),
            join,
        )
        settings = (split, size, images, postscript, encoding, self._languages, join)
        self.version = fingerprint(found, settings=settings)

    def blocks(self) -> Sequence[Block]:
        """Stretches of 64 papers; how many figures they have, only reading tells."""
        return [Block(block.id) for block in cut(len(self._paths), length=_BLOCK_PAPERS)]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The figures of some papers from row ``start`` on; after each paper's, what could not be used of it.

        Raises:
            MissingExtraError: a library of the extra ``figures`` is needed and missing.
        """
        papers = indices(block, start=0, rows=len(self._paths), length=_BLOCK_PAPERS, where=self.name)
        names = list(self._paths)[papers.start : papers.stop]
        yield from islice((row for name in names for row in self._rows(name)), start, None)

    def _rows(self, name: str) -> Iterator[Row]:
        paper = paper_of(name)
        try:
            archive = FigureArchive(
                self._paths[name], encoding=self._encoding, languages=self._languages, join=self._join
            )
        except InputError as error:
            yield bad_row(paper, str(error))
            return
        by_name = {figure.name: figure for figure in archive.figures()}
        about = {key: archive.about.get(key, "") for key in ("doi", "pmcid", "licence")}
        for file, data in archive.images():
            figure, key = by_name[file], f"{paper}/{file}"
            try:
                image = data if self._images == "original" else self._prepared(data, key)
            except (InputError, MissingExtraError) as error:
                yield bad_row(key, str(error))
                continue
            meta = {"paper": paper, "figure": file, "document": figure.document, **about}
            yield Row(encodable(key), image, (figure.caption,), meta)
        for number, problem in enumerate(archive.problems):
            yield bad_row(f"{paper}/{problem.name or 'archive'}#{number}", problem.reason)

    def _prepared(self, data: bytes, key: str) -> bytes:
        return as_jpeg(resize_for_clip(data, size=self._size, postscript=self._postscript, name=key))


def _folders(path: str) -> list[str]:
    folder = local(path)
    found = sorted(str(each) for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
    if not found:
        raise InputError(f"{path}: expected a folder with one folder for each paper")
    return found


def _split_of(draw: float) -> Split:
    return "test" if draw < _TEST else "validation" if draw < _TEST + _VALIDATION else "train"
