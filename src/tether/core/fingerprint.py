"""What a piece of code depends on, and a digest of it that comments, docstrings, layout and moved files leave alone."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tether.core.atomic_io import write_text
from tether.core.cache_folder import cache_dir
from tether.core.errors import TetherError
from tether.core.method_files import FILE, read_method

PACKAGE = Path(__file__).parents[1]
FACTS = "CARD"
"""What a module says about itself under this name is no code; a card's metric and margin are compared as they are."""
DATA = (".csv", ".json", ".npz", ".tsv", ".txt", ".yaml")
"""Files of a package that count where a module asks ``resources.files("package")`` for them."""

_STUB = "__init__.pyi"
_MAKES = "Registry("
_WORD = re.compile(r"[a-z][a-z0-9_]{1,40}")
_ALIKE = 5  # letters that an argument shares with the registry it names a part of: augment and augmentations

Stamp = tuple[int, int, int]


def code_of(path: Path) -> str:
    """Digest of the code of one file, whatever it imports."""
    return _read(path, packages=()).digest


@dataclass(frozen=True, slots=True)
class _Code:
    """One file: digest of its syntax tree without imports of the package, which stand beside it in order of use."""

    digest: str
    imports: list[str]
    passed: dict[str, str]  # name at the top level to the dotted name that it is imported from
    reads: list[str]  # packages whose data files it asks for
    words: list[str]  # texts in it that may name a part
    defaults: list[tuple[str, str]]  # arguments, fields and registries, and the part that each may name
    registers: dict[str, dict[str, str]]  # registry to name to module:Class


class SourceTrees:
    """The files of a package as they are now, each read at most once.

    What was read is kept in the user's cache by path, time and size, so that the next process parses only what was
    edited since; a cache that is damaged or cannot be written costs time and nothing else.

    Code that imports a registry (``core.registry.Registry``) does not depend on all its members, only on those that it
    names: in a file of a study by any text, elsewhere by an argument's default or the key of a registry.

    Args:
        packages: folders whose modules are followed; others, such as torch's, are not.
        leave_out: files of them that do not count, nor what they import.
        studies: folders of them in whose files every text may name a part.
    """

    def __init__(self, *packages: Path, leave_out: Collection[Path] = (), studies: Collection[Path] = ()) -> None:
        """List the files; nothing is parsed yet."""
        self.packages = {package.name: package for package in packages or (PACKAGE,)}
        self._studies = tuple(f"{folder}{os.sep}" for folder in studies)
        self._leave_out = set(map(str, leave_out))
        self._stamps: dict[str, Stamp] = {}
        self._modules: dict[str, str] = {}
        for name, package in self.packages.items():
            self._list(str(package), name)
        self._cache = cache_dir() / "sources" / f"{_hash(*map(str, self.packages.values()))}.json"
        self._old = _kept(self._cache)
        self._codes: dict[str, _Code] = {}
        self._whole: dict[str, str] = {}
        self._homes: dict[str, str | None] = {}

    def fingerprint(self, files: Iterable[Path], *, words: Iterable[str] = ()) -> str:
        """Digest of the files and of all modules of the package that they import, directly or not.

        An import inside a function counts, and so does text such as ``"package.module:Name"``; an import under ``if
        TYPE_CHECKING`` does not. What a package's ``__init__`` only passes on, lazily or not, counts where it is
        defined. Comments, docstrings, layout and the order
        of imports do not change it, for syntax trees are compared; nor does the move or the new name of a file, for an
        import counts by the name and the code of what it brings. Data files count for a module that asks
        ``resources.files("package.of.theirs")``.

        Args:
            files: where to begin, such as the file of a class.
            words: texts that may name parts, such as settings hold; those that they name count too.
        """
        named = (target for word in words for _, target in self._registered.get(word, ()))
        homes = map(Path, filter(None, map(self._home, named)))
        return _hash(*sorted(self._with_imports(path) for path in self._closure([*files, *homes])))

    def closure(self, files: Iterable[Path]) -> frozenset[Path]:
        """The files, and all files of the package that importing them (or calling what they hold) may read."""
        return frozenset(map(Path, self._closure(files)))

    def home(self, name: str) -> Path | None:
        """The file that a dotted name is defined in, re-exports followed; None for what is not of this package."""
        found = self._home(name)
        return Path(found) if found else None

    def save(self) -> None:
        """Keep what was read for the next process, when there is anything new."""
        if self._codes.keys() - self._old.keys() or any(self._fresh(path) is None for path in self._codes):
            found = {path: self._codes.get(path) or self._fresh(path) for path in self._stamps}
            rows = {path: [*self._stamps[path], *dataclasses.astuple(code)] for path, code in found.items() if code}
            body = json.dumps([_stamp(Path(__file__)), rows])
            try:
                write_text(self._cache, f"{_hash(body)}\n{body}")
            except (TetherError, OSError):
                return

    def _list(self, folder: str, dotted: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if entry.name.isidentifier():
                        self._list(entry.path, f"{dotted}.{entry.name}")
                elif entry.name == _STUB:
                    self._stamps[entry.path] = _stamped(entry.stat())
                elif entry.name.endswith(".py"):
                    self._stamps[entry.path] = _stamped(entry.stat())
                    self._modules[dotted if entry.name == "__init__.py" else f"{dotted}.{entry.name[:-3]}"] = entry.path

    def _closure(self, files: Iterable[Path]) -> set[str]:
        found: set[str] = set()
        waiting = list(map(str, files))
        while waiting:
            path = waiting.pop()
            if path not in found and path not in self._leave_out:
                found.add(path)
                code = self._code(path)
                waiting += filter(None, map(self._home, [*code.imports, *self._named(path)]))
        return found

    def _named(self, path: str) -> Iterator[str]:
        """The registered parts that a file names, dotted."""
        code, every = self._code(path), path.startswith(self._studies)
        known = {name.rpartition(".")[2].lower() for name in code.imports}
        for word in code.words if every else ():
            yield from (target for _, target in self._registered.get(word, ()))
        for argument, word in code.defaults:
            for kind, target in self._registered.get(word, ()):
                if kind in known or kind.startswith(argument.lower()[:_ALIKE]):
                    yield target

    @functools.cached_property
    def _registered(self) -> dict[str, list[tuple[str, str]]]:
        """Name of a part to its registries and what it is, dotted."""
        found: dict[str, list[tuple[str, str]]] = {}
        for path in sorted(set(self._modules.values())):
            if self._fresh(path) or _MAKES in Path(path).read_text(encoding="utf-8"):
                for kind, parts in self._code(path).registers.items():
                    for name, target in parts.items():
                        found.setdefault(name, []).append((kind, target.replace(":", ".")))
        for package in self.packages.values():
            for file in sorted(package.glob(f"methods/*/{FILE}")):
                method = read_method(file, package=f"{package.name}.methods.{file.parent.name}")
                for kind, name, target in method.registered():
                    found.setdefault(name, []).append((kind, target.replace(":", ".")))
        return found

    def _with_imports(self, path: str) -> str:
        """Digest of a file and, in order of use, of what it imports: the name, unless it is a file's, and the code."""
        if path not in self._whole:
            code, brought = self._code(path), []
            for name in code.imports:
                home = self._home(name)
                brought.append("" if name in self._modules else name.rpartition(".")[2])
                brought.append(self._code(home).digest if home and home not in self._leave_out else "")
            self._whole[path] = _hash(code.digest, *brought, *map(self._data, code.reads))
        return self._whole[path]

    def _data(self, package: str) -> str:
        """Digest of the names and bytes of a package's data files."""
        folder = self.packages[package.partition(".")[0]].parent.joinpath(*package.split("."))
        files = sorted(path for path in folder.rglob("*") if path.suffix in DATA)
        return _hash(*(f"{path.relative_to(folder).as_posix()} {_hash(path.read_bytes().hex())}" for path in files))

    def _code(self, path: str) -> _Code:
        if path not in self._codes:
            above = [package.parent for package in self.packages.values() if path.startswith(f"{package}{os.sep}")]
            folders = Path(path).relative_to(above[0]).parts[:-1] if above else ()
            found = self._fresh(path) or _read(Path(path), packages=tuple(self.packages), inside=".".join(folders))
            self._codes[path] = found
        return self._codes[path]

    def _fresh(self, path: str) -> _Code | None:
        """What the cache knows of a file that has not changed since."""
        row = self._old.get(path)
        return _Code(*row[3:]) if row and tuple(row[:3]) == self._stamps.get(path) else None

    def _home(self, name: str) -> str | None:
        if name not in self._homes:
            self._homes[name] = self._find(name)
        return self._homes[name]

    def _find(self, name: str) -> str | None:
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            path = self._modules.get(".".join(parts[:end]))
            if path is not None:
                is_package = path.endswith("__init__.py")
                stub = f"{path}i"
                lazily = self._code(stub).passed if is_package and stub in self._stamps else {}
                passed = (lazily | self._code(path).passed).get(parts[end]) if end < len(parts) else None
                return self._home(passed) if passed and is_package and passed != name else path
        return None


def _kept(path: Path) -> dict[str, list]:
    """Rows of the cache, or none when it is not there, damaged, or written by another version of this module."""
    try:
        digest, _, body = path.read_text(encoding="utf-8").partition("\n")
        made_by, rows = json.loads(body) if digest == _hash(body) else ([], {})
    except (OSError, ValueError):
        return {}
    return rows if made_by == list(_stamp(Path(__file__))) else {}


def _stamp(path: Path) -> Stamp:
    return _stamped(path.stat())


def _stamped(status: os.stat_result) -> Stamp:
    """What an edit changes, the time of the last change of the entry too, which nobody sets by hand."""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _hash(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def _read(path: Path, *, packages: tuple[str, ...], inside: str = "") -> _Code:
    """Parse a file of packages, whose modules begin with their names; ``inside`` is what relative imports add to."""
    return _parsed(path.read_text(encoding="utf-8"), packages, inside)


@functools.lru_cache(maxsize=4096)  # the trees of several commits differ in a few files
def _parsed(text: str, packages: tuple[str, ...], inside: str) -> _Code:
    reader = _Reader(packages, inside)
    reader.node(ast.parse(text))
    order: dict[str, None] = dict.fromkeys(reader.out[at] for at in reader.uses if reader.out[at] in reader.bound)
    names = [*order, *sorted(reader.bound.keys() - order.keys())]
    number = {name: f"import {at}" for at, name in enumerate(names)}
    for at in reader.uses:
        reader.out[at] = number.get(reader.out[at], reader.out[at])
    imports = [dotted for name in names for dotted in reader.bound[name]]
    words = sorted(reader.words)
    return _Code(_hash(*reader.out), imports, reader.passed, reader.reads, words, reader.defaults, reader.registers)


class _Reader:
    """Writes a syntax tree down as words, alike in every version of Python, and keeps what it imports apart."""

    def __init__(self, packages: tuple[str, ...], inside: str) -> None:
        self.packages, self.inside = packages, inside
        self.out: list[str] = []
        self.uses: list[int] = []  # places in out that hold a variable's name
        self.bound: dict[str, dict[str, None]] = {}  # variable to what it is imported from
        self.passed: dict[str, str] = {}
        self.reads: list[str] = []
        self.words: set[str] = set()
        self.defaults: list[tuple[str, str]] = []
        self.registers: dict[str, dict[str, str]] = {}
        self._depth = 0
        self._own_name = re.compile(rf"(?:{'|'.join(packages)})(\.\w+)*[.:](\w+)") if packages else None
        self._put: Callable[[str], None] = self.out.append

    def node(self, node: ast.AST) -> None:
        put, kind = self._put, node.__class__
        if kind is ast.Name:
            self.uses.append(len(self.out))
            put(node.id)  # pyrefly: ignore[missing-attribute]
            return
        put(kind.__name__)
        left_out = self._notes(node)
        for name in node._fields:
            if name == left_out:
                continue
            value = getattr(node, name, None)
            if value.__class__ is list:
                if value:
                    put(name)
                    self._list(value)
                    put("end")
            elif isinstance(value, ast.AST):
                if not isinstance(value, ast.expr_context):
                    put(name)
                    self.node(value)
            elif value is not None and name not in ("kind", "type_comment"):
                put(name)
                self._constant(value)

    def _notes(self, node: ast.AST) -> str:
        """Keep what a node says of parts and data; the field of it that is no code, or the empty string."""
        match node:
            case ast.Call(func=ast.Name(id="Registry"), args=[ast.Constant(value=str(kind)), ast.Dict() as members]):
                with contextlib.suppress(ValueError):  # not written out
                    self.registers[kind] = ast.literal_eval(members)
                    return "args"
            case ast.Call():
                self._resources(node)
            case ast.arguments():
                last = [*node.posonlyargs, *node.args][-len(node.defaults) :] if node.defaults else []
                arguments, values = [*last, *node.kwonlyargs], [*node.defaults, *node.kw_defaults]
                self._defaults((one.arg, value) for one, value in zip(arguments, values, strict=True))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords)):
                self._defaults((name, one.value) for one in keywords if one.arg == "default")
            case ast.AnnAssign(target=ast.Name(id=name)):
                self._defaults([(name, node.value)])
            case ast.Subscript(value=ast.Name(id=name)):
                self._defaults([(name, node.slice)])
        return ""

    def _defaults(self, pairs: Iterable[tuple[str, ast.expr | None]]) -> None:
        for name, value in pairs:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and _WORD.fullmatch(value.value):
                self.defaults.append((name, value.value))

    def _resources(self, call: ast.Call) -> None:
        """Keep the package of ``resources.files("package")`` or ``files("package")``."""
        asked = getattr(call.func, "attr", getattr(call.func, "id", None)) == "files" and len(call.args) == 1
        package = call.args[0].value if asked and isinstance(call.args[0], ast.Constant) else None
        if isinstance(package, str) and package.partition(".")[0] in self.packages and package not in self.reads:
            self.reads.append(package)

    def _constant(self, value: object) -> None:
        """A value as it is written; text that names something of the package by its name, ``module:Name`` as import."""
        if isinstance(value, str) and _WORD.fullmatch(value):
            self.words.add(value)
        found = self._own_name.fullmatch(value) if isinstance(value, str) and self._own_name else None
        if found and ":" in found[0]:
            self.bound[found[0]] = {found[0].replace(":", "."): None}
            self.uses.append(len(self.out))
        self._put(found[0] if found and ":" in found[0] else repr(found[2] if found else value))

    def _list(self, values: list) -> None:
        self._depth += 1
        for value in values:
            if not isinstance(value, ast.AST):
                self._put(repr(value))
            elif isinstance(value, (ast.Import, ast.ImportFrom)) and self._import(value):
                continue
            elif isinstance(value, ast.If) and _for_types(value.test):
                self._pass_on(value.body)
                self._list(value.orelse)
            elif not (isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)) and not self._facts(value):
                self.node(value)
        self._depth -= 1

    def _facts(self, node: ast.AST) -> bool:
        """Whether this is the top-level ``CARD = Card(...)``, which a module says about itself."""
        if not isinstance(node, ast.Assign) or self._depth != 1 or not isinstance(node.value, ast.Call):
            return False
        named = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return named == [FACTS] and ast.unparse(node.value.func) in (FACTS.capitalize(), f"{FACTS.capitalize()}.of")

    def _import(self, node: ast.Import | ast.ImportFrom) -> bool:
        """Keep an import of the package; False for one of something else."""
        if isinstance(node, ast.Import):
            own = [alias for alias in node.names if alias.name.partition(".")[0] in self.packages]
            for alias in own:
                self.bound.setdefault(alias.asname or alias.name.partition(".")[0], {})[alias.name] = None
            return own == node.names
        found = self._named(node)
        for name, origin in found.items():
            self.bound.setdefault(name, {})[origin] = None
        if self._depth == 1:
            self.passed |= found
        return bool(found)

    def _pass_on(self, body: list[ast.stmt]) -> None:
        """Imports for types alone tell where the names come from that a package imports when they are asked for."""
        for node in body:
            if isinstance(node, ast.ImportFrom) and self._depth == 1:
                self.passed |= self._named(node)

    def _named(self, node: ast.ImportFrom) -> dict[str, str]:
        """Variables and what of the package they are imported from."""
        above = self.inside.split(".")[: self.inside.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *filter(None, [node.module])])
        own = base.partition(".")[0] in self.packages
        return {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names} if own else {}


def _for_types(test: ast.expr) -> bool:
    return getattr(test, "id", getattr(test, "attr", None)) == "TYPE_CHECKING"
