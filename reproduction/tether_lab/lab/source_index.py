"""Where things stand in the source: files and lines found by reading, so nothing heavy is imported."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tether.core.errors import InputError
from tether.core.fingerprint import PACKAGE, SourceTrees
from tether_lab.lab.card import Card

CORE_LEFT_OUT = tuple(
    f"src/tether/core/{name}.py" for name in ("errors", "printable", "shape", "atomic_io", "guarded", "locks")
)
"""Files of a checkout that only say, check or keep something."""
LAB = Path(__file__).parents[1]
"""The folder of this package."""
ROOTS = ("src", "reproduction")
"""Folders of a checkout that hold code whose figures are stored."""
_MOST_HOPS = 8  # re-exports followed before giving up


@dataclass(frozen=True, slots=True)
class Place:
    """A file and a line in it, from 1."""

    path: Path
    line: int = 1

    def __str__(self) -> str:
        """``file:line``, the file relative to the checkout when it is inside."""
        return f"{shown(self.path)}:{self.line}"


def checkout() -> Path | None:
    """The source checkout that both packages run from, or None where one of them is from elsewhere."""
    root = LAB.parents[1]
    return root if (root / "pyproject.toml").is_file() and (root / "src" / "tether") == PACKAGE else None


def need_checkout(purpose: str) -> Path:
    """The checkout, or an InputError that says what needs it."""
    root = checkout()
    if root is None:
        raise InputError(
            f"{purpose} needs both packages from one checkout; tether is at {PACKAGE} and tether_lab at {LAB}"
        )
    return root


def shown(path: Path) -> str:
    """A path as people read it: relative to the checkout when it is inside, with forward slashes."""
    root = checkout()
    return (path.relative_to(root) if root and path.is_relative_to(root) else path).as_posix()


def dotted(path: Path) -> str:
    """The module that a file of one of the packages is."""
    package = LAB if path.is_relative_to(LAB) else PACKAGE
    names = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def card_path(slug: str) -> Path:
    """The file of a paper's card and study."""
    return LAB / "papers" / slug.replace("-", "_") / "study.py"


def card_place(slug: str) -> Place:
    """Where the card of a paper stands."""
    path = card_path(slug)
    return Place(path, _line_of(path, "CARD") or 1)


def part_place(part: str) -> Place:
    """Where a class or function of this package is defined; re-exports are followed.

    Args:
        part: such as ``tether.methods.zclip.clipper.ZClip``, or ``tether.losses.ClipLoss`` where that is re-exported.

    Raises:
        InputError: there is no such module, or no such name in it.
    """
    wanted = part
    for _ in range(_MOST_HOPS):
        names = wanted.split(".")
        if names[0] not in (PACKAGE.name, LAB.name):
            break
        path, rest = _module_of(names)
        if path is None:
            break
        if not rest:
            return Place(path)
        line = _line_of(path, ".".join(rest))
        if line is not None:
            return Place(path, line)
        source = _imported_from(path, rest[0])
        if source is None:
            break
        wanted = ".".join([source, *rest[1:]])
    raise InputError(f"no part {part!r} in {PACKAGE.name}")


def test_places(card: Card) -> list[Path]:
    """The tests that name a paper's module, its parts or its slug, sorted; empty without a checkout."""
    root = checkout()
    if root is None:
        return []
    stem = card.slug.replace("-", "_")
    names = {part.rpartition(".")[2] for part in card.parts}
    imported = re.compile(rf"^ *from [\w.]+ import (\([^)]*|.*)\b({'|'.join(names)})\b", re.MULTILINE)
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if path.stem == f"test_{stem}" or (any(name in text for name in names) and imported.search(text)):
            found.append(path)
    return found


def vector_path(slug: str) -> Path | None:
    """The file of figures made by the paper's official code, or None."""
    root = checkout()
    path = root / "tests" / "golden" / "vectors" / f"{slug}.npz" if root else None
    return path if path and path.is_file() else None


def guide_path(card: Card) -> Path | None:
    """The how-to, or None without a checkout or when it is not written."""
    root = checkout()
    path = root / "docs" / "guides" / card.guide if root and card.guide else None
    return path if path and path.is_file() else None


def results_folder() -> Path:
    """Where results of more than one paper are kept."""
    return LAB.parent / "results"


def result_path(slug: str) -> Path:
    """Where the measured result of a paper is kept."""
    return card_path(slug).with_name("result.json")


def sources() -> SourceTrees:
    """The packages as they are now, for fingerprints of cards."""
    leave_out = [PACKAGE / "core" / Path(name).name for name in CORE_LEFT_OUT]
    leave_out += [LAB / "lab" / name for name in ("card.py", "model_cache.py")]
    return SourceTrees(PACKAGE, LAB, leave_out=leave_out, studies=[LAB])


def fingerprint(card: Card, *, sources: SourceTrees) -> str:
    """Digest of the code that decides a card's figures: its check, its parts, its test beds, and all they import.

    The lab counts, for it gives seeds and budgets. What only says or keeps something does not: the card's own words,
    the classes that hold them, and the store of trained models.

    Args:
        card: of a paper.
        sources: as ``sources`` gives them.
    """
    return fingerprint_of(card_path(card.slug), card.parts, sources=sources)


def fingerprint_of(card: Path, parts: Iterable[str], *, sources: SourceTrees) -> str:
    """``fingerprint`` of a card's file that is not imported, such as one of another commit."""
    lab = sources.packages[LAB.name] / "lab" / "lab.py"
    homes = filter(None, map(sources.home, parts))
    return sources.fingerprint([card, lab, *homes])


def _module_of(names: list[str]) -> tuple[Path | None, list[str]]:
    """The file of the longest prefix that is a module, and the names left over."""
    for end in range(len(names), 0, -1):
        base = (LAB if names[0] == LAB.name else PACKAGE).parent.joinpath(*names[:end])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path, names[end:]
    return None, names


@functools.lru_cache(maxsize=256)
def _tree(path: Path, stamp: int) -> ast.Module:
    text = path.read_text(encoding="utf-8")
    try:
        return ast.parse(text)
    except SystemError:  # CPython 3.11 miscounts the depth if garbage is collected meanwhile (python/cpython#106905)
        return ast.parse(text)


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file, read once as long as the file does not change."""
    return _tree(path, path.stat().st_mtime_ns)


def _line_of(path: Path, name: str) -> int | None:
    """Line of a top-level definition, or of a method as ``Class.method``."""
    body: list[ast.stmt] = tree(path).body
    names = name.split(".")
    for depth, wanted in enumerate(names):
        node = next((node for node in body if wanted in _defined(node)), None)
        if node is None:
            return None
        if depth == len(names) - 1:
            return node.lineno
        body = node.body if isinstance(node, ast.ClassDef) else []
    return None


def _defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case _:
            return set()


def _imported_from(path: Path, name: str) -> str | None:
    """The dotted origin of a name that a file imports, or a package when it is asked for it, with ``from``."""
    stub = path.with_suffix(".pyi")
    for file in (path, *([stub] if stub.is_file() else [])):
        for node in ast.walk(tree(file)):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and any((alias.asname or alias.name) == name for alias in node.names)
            ):
                original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
                return ".".join([*([dotted(path)] if node.level else []), node.module, original])
    return None
