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
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from tether.core.atomic_io import read_text
from tether.core.component import closest
from tether.core.errors import InputError, reason_of
from tether.core.printable import printable, quoted
from tether.core.shape import check

GROUP = "tether.methods"
FILE = "method.toml"
LARGEST = 2**16
"""Bytes of a file; those of Tether have 3,300 at most."""
FOLDER = Path(__file__).parents[1] / "methods"
LISTED = FOLDER / "slugs.txt"
"""Every method of Tether by its slug, sorted, one a line: without it one that is lost would leave no trace."""
SHAPE = {
    **dict.fromkeys(("title?", "venue?", "arxiv?", "code?", "gives?", "guide?"), str),
    **dict.fromkeys(("claim?", "verdict?", "on_photographs?"), str),
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
    "measures",
    "model_changes",
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
    "sharpeners",
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
_NAME, _TARGET = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII), re.compile(r"\.?\w+(\.\w+)*:\w+", re.ASCII)
_DOTS = 200  # in a line; tomllib takes time and memory with the square of the parts of a dotted key


class MethodWarning(UserWarning):
    """A method of somebody else cannot be read; everything else works."""


@dataclass(frozen=True, slots=True)
class MethodFile:
    """What a ``method.toml`` holds.

    ``title``, ``year``, ``authors``, ``venue``, ``arxiv`` and ``code`` (``owner/name``) name the paper; ``gives`` says
    in one sentence what a user gets, ``needs`` what a user must have, ``guide`` the page of the guides that shows it,
    ``claim`` what was checked, ``verdict`` how that came out, ``on_photographs`` how it came out with real images;
    ``parts`` has the dotted name of each part and what it does. All may be missing.

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

    Of two methods of one name the first stays. Nothing is imported.

    Warns:
        MethodWarning: what is left out, once a process.
    """
    found: dict[str, MethodFile] = {}
    for where, package, path in [*_own(), *_foreign()]:
        try:
            file = read_method(_located(package) if path is None else path, package=package)
            if (first := found.setdefault(file.slug, file)) is not file and first.path.resolve() != file.path.resolve():
                raise InputError(
                    f"{first.path} has the name {file.slug!r} already; rename the folder {file.path.parent}"
                )
        except InputError as error:
            warnings.warn(printable(f"{where}: left out: {error}"), MethodWarning, stacklevel=2)
    return tuple(found.values())


def check_listed() -> None:
    """See that every method of Tether is there.

    Raises:
        InputError: it names those whose folder is lost, or whose file cannot be read.
    """
    if said := said_of_lost():
        raise InputError(said)


def said_of_lost() -> str:
    """What is to be said of methods of Tether that are not there; empty where all are."""
    lost = sorted({*read_text(LISTED).split()} - {file.slug for file in method_files()})
    if not lost:
        return ""
    names = ", ".join(lost)
    return f"{LISTED}: names {names}, of which {FOLDER} has no {FILE} that can be read; install tether-clip again"


def _own() -> Iterator[tuple[str, str, Path | None]]:
    for path in sorted(FOLDER.glob(f"*/{FILE}"), key=_slug):
        yield str(path), f"tether.methods.{path.parent.name}", path


def _slug(path: Path) -> str:
    return path.parent.name.replace("_", "-")


def _foreign() -> Iterator[tuple[str, str, Path | None]]:
    """Who names a package of methods, the package, and None for the file, which is still to be found."""
    found = set()
    for distribution in distributions():
        try:
            if GROUP not in (distribution.read_text("entry_points.txt") or ""):  # parsing them all takes longer
                continue
            points = list(distribution.entry_points.select(group=GROUP))
            owner = f"package {distribution.name}: "
        except Exception:  # metadata of somebody else, which need not be of a method
            continue
        found |= {(one.name, one.value, owner) for one in points}
    for name, package, owner in sorted(found):
        yield f"{owner}entry point {name} of {GROUP}", package, None


def _located(package: str) -> Path:
    """The file of a package, which is looked for and not imported."""
    top, *rest = package.split(".")
    if not all(map(str.isidentifier, (top, *rest))):
        raise InputError(f"expected the name of a package, got {quoted(package)}")
    try:
        spec = importlib.util.find_spec(top)  # which imports what stands above a name: nothing here
        places = (spec.submodule_search_locations if spec else None) or ()
        found = [path for path in (Path(place, *rest, FILE) for place in places) if path.exists()]
    except (OSError, ValueError) as error:
        raise InputError(f"expected a package with a {FILE}, not {quoted(package)}: {reason_of(error)}") from error
    if not found:
        raise InputError(f"expected a package with a {FILE}, found none in {quoted(package)}")
    return found[0]


def read_method(path: Path, *, package: str) -> MethodFile:
    """One file.

    Args:
        path: the file.
        package: dotted name of the package that it lies in.

    Raises:
        InputError: no such file, or a malformed one.
    """
    text = read_text(path, limit=LARGEST)
    if any(line.count(".") > _DOTS for line in text.splitlines()):
        raise InputError(f"{path}: keys are nested too deeply; expected at most {_DOTS} dots in a line")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{path}: values are nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{path}: not TOML: {reason_of(error)}") from error
    known = [name.removesuffix("?") for name in SHAPE]
    if unknown := sorted(values.keys() - set(known)):
        raise InputError(f"{path}: unknown key {quoted(unknown[0])}; {closest(unknown[0][:80], known)}")
    check(values, SHAPE, where=str(path))
    if broken := [name for name, value in values.items() if isinstance(value, str) and "\n" in value]:
        raise InputError(f"{path}: {broken[0]}: expected one line, got {quoted(values[broken[0]])}")
    for kind, parts in values.get("register", {}).items():
        if kind not in KINDS:
            raise InputError(f"{path}: register: no registry {quoted(kind)}; {closest(kind[:80], KINDS)}")
        for name, target in parts.items():
            if not _NAME.fullmatch(name):
                raise InputError(
                    f"{path}: register.{kind}: expected letters, digits and _ in a name, got {quoted(name)}"
                )
            if not _TARGET.fullmatch(target):
                raise InputError(f"{path}: register.{kind}.{name}: expected 'module:Class', got {quoted(target)}")
    return MethodFile(path, package, values)
