"""The recipes that come with the package, by name."""

from __future__ import annotations

from pathlib import Path

from tether.core.component import closest
from tether.core.errors import InputError

FOLDER = Path(__file__).resolve().parents[1] / "recipes"


def names() -> list[str]:
    """Every recipe of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(recipe: str | Path) -> Path:
    """The file of a recipe: a path that exists, or the name of one of the package's.

    Raises:
        InputError: neither.
    """
    path, own = Path(recipe), FOLDER / f"{recipe}.yaml"
    if path.is_file():
        return path
    if str(recipe) in names():
        return own
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"{recipe}: no such file; recipes of the package, by name: {', '.join(names())}")
    raise InputError(f"recipe {str(recipe)!r}: {closest(str(recipe), names())}; or give the path of a YAML file")
