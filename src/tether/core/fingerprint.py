"""What a piece of code depends on, and a digest of it that comments, docstrings and layout leave alone."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def fingerprint(files: Iterable[Path], *, package: Path = PACKAGE) -> str:
    """Digest of the files and of all modules of the package that they import, directly or not.

    An import inside a function counts; one under ``if TYPE_CHECKING`` does not. What a package's ``__init__`` only
    passes on counts where it is defined, so that a registry does not tie all its members together. Comments,
    docstrings, blank lines and line ends do not change it, since the syntax trees are compared.

    Args:
        files: where to begin, such as the file of a class.
        package: the folder whose modules are followed; others, such as torch's, are not.
    """
    total = hashlib.blake2b(digest_size=12)
    for path in sorted(closure(files, package=package)):
        name = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
        total.update(f"{name}\0{_read(path, _stamp(path), package)[0]}\0".encode())
    return total.hexdigest()


def closure(files: Iterable[Path], *, package: Path = PACKAGE) -> frozenset[Path]:
    """The files, and all files of the package that importing them (or calling what they hold) may read."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _read(path, _stamp(path), package)[1]
    return frozenset(found)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=4096)
def _read(path: Path, stamp: tuple[int, int], package: Path) -> tuple[str, tuple[Path, ...]]:
    """Digest of a file's syntax tree, and the files of the package that it imports; read again when it changed."""
    tree = _bare(path)
    return hashlib.blake2b(ast.dump(tree).encode(), digest_size=12).hexdigest(), tuple(_imported(tree, path, package))


def code_of(path: Path) -> str:
    """The code of a file without comments, docstrings and layout."""
    return ast.dump(_bare(path))


def _bare(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # pyrefly: ignore - every node with a list called body takes one
                line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return tree


def _imported(tree: ast.Module, path: Path, package: Path) -> set[Path]:
    found: set[Path] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            found.update(file for alias in node.names for file in _files(alias.name, package))
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, path, package)
            found.update(file for alias in node.names for file in _files(f"{base}.{alias.name}", package))
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def _base(node: ast.ImportFrom, path: Path, package: Path) -> str:
    """The dotted module that a ``from`` import names, relative ones written out."""
    if not node.level:
        return node.module or ""
    inside = path.parents[node.level - 1].relative_to(package).parts
    return ".".join([package.name, *inside, *filter(None, [node.module])])


def _files(name: str, package: Path) -> list[Path]:
    """The file that a dotted name comes from; a name that a package only passes on comes from where it is defined."""
    first, *parts = name.split(".")
    if first != package.name:
        return []
    folder = package
    for part in parts:
        if (folder / f"{part}.py").is_file():
            return [folder / f"{part}.py"]
        if not (folder / part / "__init__.py").is_file():
            return _passed_on(part, folder / "__init__.py", package)
        folder = folder / part
    return [folder / "__init__.py"]


def _passed_on(name: str, init: Path, package: Path) -> list[Path]:
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
            return _files(f"{_base(node, init, package)}.{original}", package)
    return [init]
