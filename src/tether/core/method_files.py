"""What methods register: each brings a ``method.toml``, which is read without importing the method.

Methods are the folders of ``tether/methods`` and other people's packages, which name themselves in their
``pyproject.toml``::

    [project.entry-points."tether.methods"]
    my_method = "my_package"

``my_package/method.toml`` lists parts by registry and name; a module that begins with a dot lies in that package::

    [register.objectives]
    my_loss = ".losses:MyLoss"
"""

from __future__ import annotations

import functools
import importlib.util
import re
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from tether.core.component import closest
from tether.core.errors import InputError, reason_of
from tether.core.printable import quoted
from tether.core.shape import check

GROUP = "tether.methods"
FILE = "method.toml"
FOLDER = Path(__file__).parents[1] / "methods"
SHAPE = {
    **dict.fromkeys(("title?", "venue?", "arxiv?", "code?", "gives?", "guide?", "verdict?"), str),
    "year?": int,
    "authors?": [str],
    "needs?": [str],
    "parts?": {"*": str},
    "register?": {"*": {"*": str}},
}
KINDS = (
    "adapted_heads",
    "adapters",
    "augmentations",
    "canvases",
    "caption_picks",
    "caption_recipes",
    "classifier_heads",
    "classifiers",
    "clippers",
    "codecs",
    "compressors",
    "curate_steps",
    "curators",
    "debiasers",
    "detectors",
    "edits",
    "estimators",
    "fits",
    "generators",
    "grids",
    "image_transforms",
    "lines",
    "mask_models",
    "models",
    "objectives",
    "optimizers",
    "plain_picks",
    "probes",
    "pruners",
    "quantisers",
    "read_recipes",
    "readers",
    "recipes",
    "repairs",
    "rewriters",
    "rewrites",
    "schedules",
    "segmenter_heads",
    "segmenters",
    "sources",
    "steps",
    "teachers",
    "terms",
    "token_choices",
    "towers",
    "trained_heads",
    "training_free",
    "view_heads",
    "views",
    "weight_edits",
)
"""Every registry by the name that its table in a ``method.toml`` has."""


class MethodWarning(UserWarning):
    """A method of somebody else cannot be read; everything else works."""


@dataclass(frozen=True, slots=True)
class MethodFile:
    """What a ``method.toml`` holds.

    ``title``, ``year``, ``authors``, ``venue``, ``arxiv`` and ``code`` (``owner/name``) name the paper; ``gives`` says
    in one sentence what a user gets, ``needs`` what a user must have, ``guide`` the page of the guides that shows it,
    ``verdict`` how its check came out; ``parts`` has the dotted name of each part and what it does. All may be missing.

    Attributes:
        path: the file.
        package: dotted name of the package that it lies in.
        values: its keys.
    """

    path: Path
    package: str
    values: Mapping[str, Any]

    @property
    def slug(self) -> str:
        """Name of the method: its folder's, with hyphens."""
        return _slug(self.path)

    def registered(self) -> Iterator[tuple[str, str, str]]:
        """Registry, name and ``module:Class`` of each part."""
        for kind, parts in self.values.get("register", {}).items():
            for name, target in parts.items():
                yield kind, name, f"{self.package}{target}" if target.startswith(".") else target


@functools.cache
def method_files() -> tuple[MethodFile, ...]:
    """The files of ``tether/methods``, then those of other packages, each sorted; one that cannot be read is left out.

    Warns:
        MethodWarning: what cannot be read, once a process.
    """
    found = []
    for where, package, path in [*_own(), *_foreign()]:
        try:
            found.append(read_method(path, package=package) if isinstance(path, Path) else _located(path))
        except InputError as error:
            warnings.warn(f"{where}: left out: {error}", MethodWarning, stacklevel=2)
    return tuple(found)


def _own() -> Iterator[tuple[str, str, Path]]:
    for path in sorted(FOLDER.glob(f"*/{FILE}"), key=_slug):
        yield str(path), f"tether.methods.{path.parent.name}", path


def _slug(path: Path) -> str:
    return path.parent.name.replace("_", "-")


def _foreign() -> Iterator[tuple[str, str, EntryPoint]]:
    for point in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        owner = f"package {point.dist.name}: " if point.dist else ""
        yield f"{owner}entry point {point.name} of {GROUP}", point.value, point


def _located(point: EntryPoint) -> MethodFile:
    try:
        spec = importlib.util.find_spec(point.value)
    except Exception as error:  # a package above it is imported, and is not ours
        raise InputError(f"cannot import {point.value}: {type(error).__name__}: {reason_of(error)}") from error
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"expected a package with a {FILE}, found no package {point.value!r}")
    return read_method(Path(spec.submodule_search_locations[0], FILE), package=point.value)


def read_method(path: Path, *, package: str) -> MethodFile:
    """One file.

    Args:
        path: the file.
        package: dotted name of the package that it lies in.

    Raises:
        InputError: no such file, or a malformed one.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not TOML: {reason_of(error)}") from error
    check(values, SHAPE, where=str(path))
    for kind, parts in values.get("register", {}).items():
        if kind not in KINDS:
            raise InputError(f"{path}: register: no registry {kind!r}; {closest(kind, KINDS)}")
        for name, target in parts.items():
            if not re.fullmatch(r"\.?\w+(\.\w+)*:\w+", target):
                raise InputError(f"{path}: register.{kind}.{name}: expected 'module:Class', got {quoted(target)}")
    return MethodFile(path, package, values)
