"""Docstrings of the source as Markdown: what a part does, its settings and its example, without importing it."""

from __future__ import annotations

import ast
import re
import textwrap

from tether.papers.reproduction import source_index
from tether.papers.reproduction.markdown import bullets, page

_TITLES = {
    "Args": "Settings",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Raises": "Errors",
    "Example": "Example",
}
_SECTION = re.compile(r"^(" + "|".join(_TITLES) + r"):\n((?:(?:[ ]+.*)?\n)*)", re.MULTILINE)
_ITEM = re.compile(r"^(\*{0,2}\w+|[\w.]+): ", re.MULTILINE)


def described(part: str) -> str:
    """The docstring of a class or function, and the settings of a class's constructor, as Markdown.

    Args:
        part: dotted path, such as ``tether.optim.clip.zclip.ZClip``.
    """
    node = _definition(part)
    made = [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name == "__init__"]
    sections = {}
    for doc in (ast.get_docstring(node) or "", *(ast.get_docstring(one) or "" for one in made)):
        sections |= {title: body for title, body in _SECTION.findall(doc + "\n") if title not in sections}
    text = _SECTION.sub("", (ast.get_docstring(node) or "") + "\n")
    return page(_plain(text), *(_section(title, sections[title]) for title in _TITLES if title in sections))


def example(part: str) -> str:
    """The example in a docstring, as it stands there; empty where there is none."""
    found = dict(_SECTION.findall((ast.get_docstring(_definition(part)) or "") + "\n"))
    return textwrap.dedent(found.get("Example", "")).strip()


def _definition(part: str) -> ast.ClassDef | ast.FunctionDef:
    name = part.rpartition(".")[2]
    return next(
        node
        for node in ast.walk(source_index.tree(source_index.part_place(part).path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    )


def _section(title: str, body: str) -> str:
    body = textwrap.dedent(body).strip()
    if title == "Example":
        return f"**Example**\n\n```python\n{body}\n```"
    items = [item.replace("\n", " ") for item in re.split(r"\n(?=\S)", body)]
    return f"**{_TITLES[title]}**\n\n" + bullets(_ITEM.sub(r"`\1`: ", " ".join(_plain(item).split())) for item in items)


def _plain(text: str) -> str:
    """Double backticks of reStructuredText as Markdown's single ones."""
    return text.replace("``", "`").strip()
