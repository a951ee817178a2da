"""The skeleton of a part, with the methods that its room's protocol promises."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

from tether.core.errors import InputError
from tether.papers.reproduction import source_index
from tether.papers.reproduction.part_reference import Shelf


def class_text(shelf: Shelf, *, name: str, unfilled: str) -> str:
    """The source of a new module with one class that keeps the mapping's promise in form and does nothing yet.

    A protocol of this package is spelled out, method by method; any other promise is a class to inherit from.

    Args:
        shelf: the mapping the class will join.
        name: of the class.
        unfilled: the words that stand where a person must write.
    """
    home = shelf.dotted.rpartition(".")[0]
    path, node = _definition(f"{home}.{shelf.promise}")
    if path is not None and node is not None and any(ast.unparse(base).startswith("Protocol") for base in node.bases):
        methods = [_method(member, unfilled) for member in node.body if isinstance(member, ast.FunctionDef)]
        imports = _imports_for(methods, path)
        base = ""
    else:
        methods, base = [_bare_constructor(unfilled)], f"({shelf.promise})"
        imports = [_import_of(home, shelf.promise, defined=path)]
    lines = [
        f'"""{unfilled}: one sentence that says what this part does."""',
        "",
        "from __future__ import annotations",
        "",
        *imports,
        *([""] if imports else []),
        "",
        f"class {name}{base}:",
        f'    """{unfilled}: a plain sentence.',
        "",
        "    Shapes, units, ranges, errors; the source (arXiv id, section) and what differs from the paper.",
        '    """',
        "",
        "\n\n".join(methods),
        "",
    ]
    return "\n".join(lines)


def _bare_constructor(unfilled: str) -> str:
    return "\n".join(
        [
            "    def __init__(self) -> None:",
            f'        """{unfilled}."""',
            f'        raise NotImplementedError("{unfilled}")',
        ]
    )


def _definition(dotted: str) -> tuple[Path | None, ast.ClassDef | None]:
    try:
        place = source_index.part_place(dotted)
    except InputError:
        return None, None
    wanted = dotted.rpartition(".")[2]
    for node in source_index.tree(place.path).body:
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            return place.path, node
    return None, None


def _method(node: ast.FunctionDef, unfilled: str) -> str:
    bare = copy.deepcopy(node)
    docstring = ast.get_docstring(node) or f"{unfilled}."
    bare.body = [
        ast.Expr(ast.Constant(docstring)),
        ast.Raise(ast.Call(ast.Name("NotImplementedError"), [ast.Constant(unfilled)], [])),
    ]
    lines = ast.unparse(ast.fix_missing_locations(bare)).splitlines()
    return "\n".join(f"    {line}" if line else "" for line in lines).replace(f"'{unfilled}'", f'"{unfilled}"')


def _imports_for(methods: list[str], path: Path) -> list[str]:
    """Import lines for the names that the methods' annotations use, as the protocol's file has them."""
    tree = ast.parse("class Part:\n" + "\n\n".join(methods))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    home = source_index.dotted(path)
    own: set[str] = set()
    found: dict[str, set[str]] = {}
    plain: list[str] = []
    for node in source_index.tree(path).body:
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module != "__future__":
                taken = {ast.unparse(alias) for alias in names if (alias.asname or alias.name) in used}
                if taken:
                    found.setdefault(module, set()).update(taken)
            case ast.Import(names=names):
                plain += [f"import {ast.unparse(alias)}" for alias in names if (alias.asname or alias.name) in used]
            case ast.ClassDef(name=name) | ast.Assign(targets=[ast.Name(id=name)]):
                own |= {name} & used
            case _:
                continue
    if own:
        found.setdefault(home, set()).update(own)
    lines = [*plain, *(f"from {module} import {', '.join(sorted(names))}" for module, names in found.items())]
    return _grouped(lines)


def _grouped(lines: list[str]) -> list[str]:
    """Imports in three groups with an empty line between: standard library, others, this package."""
    import sys

    groups: list[list[str]] = [[], [], []]
    for line in sorted(lines, key=lambda line: (line.startswith("from "), line.split()[1])):
        top = line.split()[1].partition(".")[0]
        groups[2 if top == source_index.PACKAGE.name else 0 if top in sys.stdlib_module_names else 1].append(line)
    out: list[str] = []
    for group in filter(None, groups):
        out += [*([""] if out else []), *group]
    return out


def _import_of(home: str, name: str, *, defined: Path | None) -> str:
    """How to import the class to inherit from: from where it is defined here, or as the mapping's module does."""
    if defined is not None:
        return f"from {source_index.dotted(defined)} import {name}"
    for node in source_index.tree(source_index.part_place(home).path).body:
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return f"from {node.module} import {name}"
    raise InputError(f"{home}: {name} is not imported there by name, so a skeleton cannot inherit from it")
