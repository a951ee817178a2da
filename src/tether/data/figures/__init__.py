"""Figures of scientific papers with their captions: out of LaTeX sources and JATS articles, safely."""

from tether.data.figures.archive import CaptionedFigure, FigureArchive, Problem
from tether.data.figures.contamination import Decontaminated, decontaminate
from tether.data.figures.images import as_jpeg, resize_for_clip
from tether.data.figures.jats import extract_jats_figures
from tether.data.figures.members import Limits
from tether.data.figures.tex import extract_tex_figures, latex_to_text

__all__ = [
    "CaptionedFigure",
    "Decontaminated",
    "FigureArchive",
    "Limits",
    "Problem",
    "as_jpeg",
    "decontaminate",
    "extract_jats_figures",
    "extract_tex_figures",
    "latex_to_text",
    "resize_for_clip",
]
