"""Where pages come from: the templates of this folder, and those of whoever writes a page of the same look."""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


@cache
def environment(*packages: str) -> Environment:
    """Templates of ``page/`` in these packages, then of the report itself, which brings the style and the charts.

    Args:
        packages: dotted names of packages that hold a folder ``page``.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package, "page") for package in (*packages, __package__ or "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
