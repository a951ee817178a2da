"""An import from where a part lay before: an error that names the new place.

For this release: the next one goes without this file, ``moved.json`` and the line in ``tether/__init__.py``.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

METHODS = Path(__file__).parents[1] / "methods"


class OldPlaces(MetaPathFinder):
    """Asked last, for a module that no other finder knows, and for a name that its package lacks."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        """Nothing: another finder's business.

        Raises:
            ImportError: the module or the name has moved.
        """
        if fullname.startswith("tether.") and (found := new_places(asked := _asked(fullname))):
            raise ImportError(f"{asked} has moved to {' or '.join(found)}; import it from there", name=fullname)


def new_places(dotted: str) -> list[str]:
    """Dotted names of what lay under an old one.

    Args:
        dotted: name of a module, or of a class or function in a package, such as ``tether.losses.AlignClipLoss``.

    Example:
        >>> from tether.core.moved import new_places
        >>> new_places("tether.losses.align_clip"), new_places("tether.losses.AlignClipLoss")
        (['tether.methods.alignclip.loss'], ['tether.methods.alignclip.AlignClipLoss'])
    """
    modules = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    old = dotted.removeprefix("tether.")
    if new := modules.get(old):
        return [f"tether.{new}"]
    package, _, below = old.partition(".")
    if below and (new := modules.get(package)):
        return new_places(f"tether.{new}.{below}") or [f"tether.{new}.{below}"]
    if inside := {new.rpartition(".")[0] for name, new in modules.items() if name.startswith(f"{old}.")}:
        return [f"tether.{package}" for package in sorted(inside)]  # a package that is empty now
    name = dotted.rpartition(".")[2]
    exported = re.compile(rf"^from .* as {re.escape(name)}$", re.MULTILINE)
    stubs = sorted(METHODS.glob("*/__init__.pyi"))
    found = [stub.parent.name for stub in stubs if exported.search(stub.read_text(encoding="utf-8"))]
    return [f"tether.methods.{folder}.{name}" for folder in found]


def _asked(parent: str) -> str:
    """The module that an import asks for; Python looks for each package above it first, and stops at the error."""
    frame, asked = sys._getframe(), parent
    while frame := frame.f_back:
        name = str(frame.f_locals.get("name"))
        if frame.f_code.co_name == "_find_and_load" and name.startswith(f"{asked}."):
            asked = name
    return asked


def install() -> None:
    """Put the finder last among Python's."""
    if not any(isinstance(finder, OldPlaces) for finder in sys.meta_path):
        sys.meta_path.append(OldPlaces())
