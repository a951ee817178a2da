"""How many lines of the package stand behind loading a model, training one, and segmenting pictures.

Command: ``python benchmarks/import_sizes.py [--quick]``; half a minute of one core, with ``--quick`` without the run
that a user gets who gives data and no recipe. Exit status 1 when one run is over its limit.

Two counts of the lines of Tether's own files, blank ones and comments too:

- run: what a process has imported that does it, with the smallest model.
- reach: what can be imported from the same module, whatever the settings: imports in functions count as those at the
  top, and so do strings that name a module, as in registries; imports for type checking do not. A package that gives
  its names on demand counts with the names that are asked of it. What methods register in ``method.toml`` is left out.

Last counted, run and reach: load 10,100 and 20,330 lines; train 29,732 and 74,915, from Python 28,310 and 72,128,
without a recipe 28,845 and 74,915; segment 22,778 and 38,200.
"""

from __future__ import annotations

import argparse
import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import tether

SOURCE = Path(tether.__file__).parents[1]
DOTTED = re.compile(r"(tether(?:\.\w+)+)(?::\w+)?")
MAKE = """
import tether, torch, torchvision
from tether.models import create
from pathlib import Path
tether.save(create("tiny", seed=1), "model")
Path("photos").mkdir()
for name in "ab":
    torchvision.io.write_png(torch.zeros(3, 40, 70, dtype=torch.uint8), f"photos/{name}.png")
"""
COMMAND = "from tether.cli import main\nsys.argv = ['tether', *{!r}.split()]\ntry:\n    main()\nfinally:\n    tell()"
TELL = """
import sys
def tell():
    names = [name for name in sys.modules if name.partition(".")[0] == "tether"]
    open("imported", "w").write("\\n".join(names))
"""


@dataclass(frozen=True)
class Case:
    """What is done, from which modules it starts, and how many lines it may import."""

    program: str
    roots: tuple[str, ...]
    limit: int


CASES = {
    "load": Case("import tether\ntether.load('model')\ntell()", ("tether.models.load",), 12_000),
    "train": Case(
        COMMAND.format("train digits --recipe demo size=tiny model={} steps=2 --out run"), ("tether.cli.train",), 30_000
    ),
    "train, from Python": Case(
        "import tether\nsettings = ['size=tiny', 'model={}', 'steps=2']\n"
        "tether.train('digits', recipe='demo', out='run', settings=settings)\ntell()",
        ("tether.workflows.train",),
        30_000,
    ),
    "segment": Case(
        COMMAND.format("segment photos --classes road,car --model model --out masks"), ("tether.cli.segment",), 25_000
    ),
    "train, no recipe": Case(COMMAND.format("train digits --out run"), ("tether.cli.train",), 30_000),
}
SLOW = {"train, no recipe"}


def run(program: str, folder: str | Path) -> None:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)


def imported(case: Case, folder: str | Path) -> set[str]:
    """The modules that a process has imported that does it in a folder, where ``MAKE`` was run."""
    shutil.rmtree(Path(folder) / "run", ignore_errors=True)
    run(TELL + case.program, folder)
    return set((Path(folder) / "imported").read_text(encoding="utf-8").split())


def reached(roots: tuple[str, ...]) -> set[str]:
    """The modules that can be imported from some."""
    found: set[str] = set()
    waiting = [*roots]
    while waiting:
        name = waiting.pop()
        if name not in found and path_of(name) is not None:
            found.add(name)
            waiting += [name.rpartition(".")[0], *named_in(name)]
    return found


@cache
def path_of(name: str) -> Path | None:
    """The file of a module; None where there is none."""
    place = SOURCE.joinpath(*name.split("."))
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if name and path.is_file()), None)


def named_in(name: str) -> Iterator[str]:
    """The modules that a file imports, or may import."""
    path = path_of(name)
    assert path is not None
    tree = without_type_checking(ast.parse(path.read_text(encoding="utf-8")))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = absolute(node, name)
            for one in node.names:
                yield given_by(package, one.name)
        elif isinstance(node, ast.Constant) and path.name != "__init__.py":
            said = DOTTED.fullmatch(str(node.value))
            yield from [said[1]] if said else []


def given_by(package: str, name: str) -> str:
    """The module in which a name lies that is imported from a package or a module."""
    if path_of(f"{package}.{name}") is not None:
        return f"{package}.{name}"
    path = path_of(package)
    if path is None or path.name != "__init__.py":
        return package
    stub = path.with_suffix(".pyi")
    for node in ast.walk(ast.parse((stub if stub.is_file() else path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and any(name in (one.name, one.asname) for one in node.names):
            return given_by(absolute(node, package), next(a.name for a in node.names if name in (a.name, a.asname)))
    return package


def absolute(node: ast.ImportFrom, where: str) -> str:
    """The dotted name of what something is imported from."""
    if not node.level:
        return node.module or ""
    path = path_of(where)
    parts = where.split(".") + ["x"] * (path is not None and path.name == "__init__.py")
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def without_type_checking(tree: ast.Module) -> ast.Module:
    class Leave(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)

    return Leave().visit(tree)


def lines(modules: set[str]) -> int:
    paths = {path for name in modules if (path := path_of(name)) is not None}
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="without what takes longest")
    quick = parser.parse_args().quick
    over = False
    print(f"{'':20}{'run':>8}{'limit':>8}{'reach':>8}")
    with tempfile.TemporaryDirectory() as folder:
        run(MAKE, folder)
        for name, case in CASES.items():
            if not (quick and name in SLOW):
                found = lines(imported(case, folder))
                over |= found > case.limit
                print(f"{name:20}{found:8,}{case.limit:8,}{lines(reached(case.roots)):8,}", flush=True)
    sys.exit(int(over))


if __name__ == "__main__":
    main()
