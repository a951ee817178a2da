"""The templates of a page: those of its own package, then the shared ones, which bring the style and the charts."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def render(template: str, *, package: str, **values: Any) -> str:
    """A page as one string.

    Args:
        template: file name in ``page/`` of the package.
        package: dotted name of the package.
        values: what the template shows.
    """
    return _environment(package).get_template(template).render(**values)


@cache
def _environment(package: str) -> Environment:
    return Environment(
        loader=ChoiceLoader([PackageLoader(name, "page") for name in (package, __package__ or "")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
