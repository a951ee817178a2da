"""Adding a line to a source file where it belongs, the rest untouched."""

from __future__ import annotations

import ast


def add_to_mapping(text: str, found: ast.Dict, *, key: str, value: str) -> str:
    """Add one entry at the end of a dictionary; one that stood on a single line is spread, one entry a line.

    Args:
        text: the file.
        found: the dictionary's node in it.
        key: of the new entry.
        value: its source text.
    """
    entry = f'"{key}": {value},'
    lines = text.splitlines(keepends=True)
    last = found.end_lineno or found.lineno
    if found.lineno != last:
        closing = lines[last - 1]
        indent = " " * (len(closing) - len(closing.lstrip()))
        return "".join([*lines[: last - 1], f"{indent}    {entry}\n", *lines[last - 1 :]])
    line = lines[last - 1]
    head, tail = _cut(line, found.col_offset), _cut(line, found.end_col_offset or 0)
    pairs = [
        f"    {ast.get_source_segment(text, name)}: {ast.get_source_segment(text, member)},\n"
        for name, member in zip(found.keys, found.values, strict=True)
        if name is not None
    ]
    spread = [line[:head], "{\n", *pairs, f"    {entry}\n", "}", line[tail:]]
    return "".join([*lines[: last - 1], *spread, *lines[last:]])


def add_import(text: str, *, module: str, name: str) -> str:
    """Add ``from module import name`` among the file's own imports of the same package, in order of module."""
    package = module.partition(".")[0]
    every = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    same = [node for node in every if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package]
    line = f"from {module} import {name}\n"
    lines = text.splitlines(keepends=True)
    for node in same:
        if (node.module or "") > module:
            return "".join([*lines[: node.lineno - 1], line, *lines[node.lineno - 1 :]])
    after = (same or every)[-1:]
    at = (after[0].end_lineno or after[0].lineno) if after else _below_docstring(text)
    gap = [] if same else ["\n"]
    return "".join([*lines[:at], *gap, line, *lines[at:]])


def _below_docstring(text: str) -> int:
    match ast.parse(text).body:
        case [ast.Expr(value=ast.Constant(value=str())) as docstring, *_]:
            return docstring.end_lineno or docstring.lineno
        case _:
            return 0


def _cut(line: str, offset: int) -> int:
    """A byte offset of the syntax tree as an index of characters."""
    return len(line.encode()[:offset].decode())
