"""Made-up papers as arXiv and PubMed Central would hand them out, with what the rules find in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tether_lab.worlds.plots import draw_plot, render_plot

_HEAD = '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta></article-meta></front><body><sec>'
_FIGURES = 5
"""Places for a figure in each paper."""


@dataclass(slots=True)
class Manuscript:
    """A paper in the making.

    Attributes:
        rng: of all that is left to chance.
        text: its LaTeX or XML so far.
        files: its images.
        wanted: caption of each image that the rules find, blanks collapsed.
    """

    rng: np.random.Generator
    text: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    wanted: dict[str, str] = field(default_factory=dict)

    def image(self, ending: str) -> tuple[str, str, str]:
        """A new image: its file, that without ending, and its caption."""
        plot = draw_plot(self.rng)
        stem = f"figs/plot{len(self.files)}"
        buffer = io.BytesIO()
        from PIL import Image

        kind = "JPEG" if ending == ".jpg" else "PNG"
        Image.fromarray(render_plot(plot, rng=self.rng)).save(
            buffer, kind, **({"quality": 92} if kind == "JPEG" else {})
        )
        self.files[stem + ending] = buffer.getvalue()
        return stem + ending, stem, plot.caption


def write_papers(folder: Path, *, count: int, rng: np.random.Generator) -> dict[tuple[str, str], str]:
    """Papers as ``.tar.gz``, every other one an article in XML; the caption of every (paper, image) to be found."""
    wanted: dict[tuple[str, str], str] = {}
    for number in range(count):
        paper = Manuscript(rng)
        kinds = list(ARTICLE if number % 2 else LATEX)
        for place in rng.permutation(len(kinds))[: _FIGURES - 2]:
            kinds[place](paper)
        for _ in range(2):
            kinds[0](paper)  # every paper has plain ones
        text = "\n".join(paper.text)
        if number % 2:
            name, document = f"PMC{number:04d}", f"{_HEAD}{text}</sec></body></article>"
        else:
            name, document = (
                f"2311.{number:05d}",
                f"\\documentclass{{article}}\n\\begin{{document}}\n{text}\n\\end{{document}}\n",
            )
        files = {("paper.nxml" if number % 2 else "main.tex"): document.encode(), **paper.files}
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
            for file, data in files.items():
                info = tarfile.TarInfo(file)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        wanted |= {(name, file): caption for file, caption in paper.wanted.items()}
    return wanted


def _figure(inside: str, *, environment: str = "figure", options: str = "") -> str:
    return f"\\begin{{{environment}}}{options}\n{inside}\n\\end{{{environment}}}"


def _plain(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    paper.text.append(
        _figure(f"\\centering\n\\includegraphics[width=3cm]{{{file}}}\n\\caption{{{caption}}}\\label{{f}}")
    )
    paper.wanted[file] = caption


def _without_ending(paper: Manuscript) -> None:
    file, stem, caption = paper.image(".jpg")
    first, rest = caption.split(" ", 1)
    latex = f"{first} \\emph{{{rest}}} After~\\cite{{k}}, see Fig.~\\ref{{f}}, $x^2$."
    paper.text.append(_figure(f"\\caption[Short.]{{{latex}}}\n\\includegraphics{{{stem}}}", environment="figure*"))
    paper.wanted[file] = f"{caption} After <cit.>, see Fig. <ref>, x^2."


def _sub_figures(paper: Manuscript) -> None:
    parts = []
    for _ in range(2):
        file, _, caption = paper.image(".png")
        inner = f"\\includegraphics{{{file}}}\\caption{{{caption}}}"
        parts.append(_figure(inner, environment="subfigure", options="{.5\\textwidth}"))
        paper.wanted[file] = caption
    paper.text.append(_figure("".join(parts) + "\\caption{Both of them.}"))


def _wrapped(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    inner = (
        f"% \\includegraphics{{figs/plot0.png}}\n\\includegraphics{{{file}}}%\n\\caption\n {{{caption} % not said\n}}"
    )
    paper.text.append(_figure(inner, environment="wrapfigure", options="{r}{5cm}"))
    paper.wanted[file] = caption


def _twice(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    for text in ("An earlier word on it.", caption):
        paper.text.append(_figure(f"\\includegraphics{{{file}}}\\caption{{{text}}}"))
    paper.wanted[file] = caption


def _two_graphics(paper: Manuscript) -> None:
    files = [paper.image(".png")[0] for _ in range(2)]
    inside = "".join(f"\\includegraphics{{{file}}}" for file in files)
    paper.text.append(_figure(f"{inside}\\caption{{Two pictures.}}"))


def _not_there(paper: Manuscript) -> None:
    _, stem, caption = paper.image(".png")
    paper.text.append(_figure(f"\\includegraphics{{{stem}.pdf}}\\caption{{{caption}}}"))


def _alias(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    paper.text.append("\\newcommand{\\ig}[1]{\\includegraphics{#1}}")
    paper.text.append(_figure(f"\\ig{{{file}}}\\caption{{{caption}}}"))


def _link(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    paper.text.append(_figure(f"\\includegraphics{{{file}}}\\caption{{{caption} \\url{{http://x.y}}}}"))


def _centred(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    paper.text.append(_figure(f"\\begin{{center}}\\includegraphics{{{file}}}\\end{{center}}\\caption{{{caption}}}"))


def _commented(paper: Manuscript) -> None:
    file, _, caption = paper.image(".png")
    paper.text.append(f"% \\begin{{figure}}\\includegraphics{{{file}}}\\caption{{{caption}}}\\end{{figure}}")


def _fig(caption: str, stem: str, *, attributes: str = "", around: str = "{}") -> str:
    graphic = around.format(f'<graphic xlink:href="{Path(stem).name}"/>')
    return f"<fig {attributes}><label>1</label><caption>{caption}</caption>{graphic}</fig>"


def _found(attributes: str = "") -> Callable[[Manuscript], None]:
    def add(paper: Manuscript) -> None:
        file, stem, caption = paper.image(".jpg")
        title, rest = caption.split(". ", 1)
        paper.text.append(_fig(f"<title>{title}.</title><p>\n<italic>{rest}</italic></p>", stem, attributes=attributes))
        paper.wanted[file] = caption

    return add


def _passed_over(
    attributes: str = "", *, around: str = "{}", ending: str = ".jpg", words: str = ""
) -> Callable[[Manuscript], None]:
    def add(paper: Manuscript) -> None:
        _, stem, caption = paper.image(ending)
        paper.text.append(_fig(f"<p>{words or caption}</p>", stem, attributes=attributes, around=around))

    return add


def _grouped(paper: Manuscript) -> None:
    paper.text.append("<fig-group>")
    _found('fig-type="Figure" xml:lang="en-US"')(paper)
    paper.text.append("</fig-group>")


LATEX = (
    _plain,
    _without_ending,
    _sub_figures,
    _wrapped,
    _twice,
    _two_graphics,
    _not_there,
    _alias,
    _link,
    _centred,
    _commented,
)
ARTICLE = (
    _found(),
    _found('xml:lang="EN"'),
    _grouped,
    _passed_over('fig-type="Table"'),
    _passed_over('xml:lang="de"'),
    _passed_over(around="<alternatives>{}</alternatives>"),
    _passed_over(ending=".png"),
    _passed_over(words=" \n "),
)
"""Kinds of figures, the plain one first."""


def held_out(count: int, *, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, str]]:
    """Plots that are in no paper: pixels and captions, no caption twice."""
    seen: set[str] = set()
    while len(seen) < count:
        plot = draw_plot(rng)
        if plot.caption not in seen:
            seen.add(plot.caption)
            yield render_plot(plot, rng=rng), plot.caption
