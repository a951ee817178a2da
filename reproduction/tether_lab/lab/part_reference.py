"""The reference of parts: every registry, found by its annotation."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from tether.core.errors import InputError
from tether.core.markdown import bullets, page
from tether.core.ranges import rules
from tether_lab.lab import source_index

_ANNOTATION = ": Registry["
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class _Words(str):
    """An annotation as it stands in the source; shown without the quotes of a string."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True)
class ListedRegistry:
    """One ``core.registry.Registry``.

    Attributes:
        dotted: where it stands, such as ``tether.space.ESTIMATORS``.
        protocol: the protocol its members keep, as annotated.
    """

    dotted: str
    protocol: str

    @property
    def package(self) -> str:
        """The first folder below the package."""
        return self.dotted.split(".")[1]

    def parts(self) -> Mapping[str, type]:
        """The mapping itself; imports its module."""
        module, _, name = self.dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


def registries() -> list[ListedRegistry]:
    """Every public mapping that is annotated ``Registry[...]``, by the name under which its package has it."""
    found = []
    for path in sorted(source_index.PACKAGE.rglob("*.py")):
        if _ANNOTATION not in path.read_text(encoding="utf-8"):  # parsing all takes seconds
            continue
        module = source_index.dotted(path).removesuffix(".registry")
        for node in source_index.tree(path).body:
            match node:
                case ast.AnnAssign(
                    target=ast.Name(id=name), annotation=ast.Subscript(value=ast.Name(id="Registry"))
                ) if not name.startswith("_"):
                    protocol = ast.unparse(node.annotation.slice).partition("[")[0]
                    found.append(ListedRegistry(f"{module}.{name}", protocol))
    return sorted(found, key=lambda registry: registry.dotted)


def reference() -> str:
    """For each mapping its parts: name in a configuration, what it is, and its constructor."""
    blocks = []
    for registry in registries():
        blocks += [f"## {registry.package}: `{registry.dotted}`", f"Each is a `{registry.protocol}`."]
        for name, part in registry.parts().items():
            blocks += [f"### `{name}`", first_line(part), f"```python\n{signature(part)}\n```"]
    return page(
        "# Parts",
        "Every part that a configuration can name, by package. A configuration writes `name` or "
        "`{name: ..., keyword: value}` with the keywords of the constructor; the order below is that of the package's "
        "mapping.",
        *blocks,
    )


def signature(part: type) -> str:
    """The constructor as a call: ranges and choices spelled out, other annotations as they stand in the source.

    Raises:
        InputError: a default whose text holds an address, which would differ in every run.
    """
    own = part.__init__ is not object.__init__  # object's takes no settings, but its signature says that it takes any
    shown = {name: rule.shown for name, rule in rules(part.__init__).items()}
    parameters = [
        parameter.replace(annotation=_Words(shown.get(name, parameter.annotation)))
        if isinstance(parameter.annotation, str)
        else parameter
        for name, parameter in inspect.signature(part.__init__).parameters.items()
        if own and name != "self"
    ]
    text = f"{part.__name__}{inspect.Signature(parameters)}"
    if _ADDRESS.search(text):
        raise InputError(f"{part.__module__}.{part.__name__}: a default has no fixed text: {text}")
    return text


def first_line(part: type) -> str:
    """The first paragraph of the docstring, on one line."""
    return " ".join((inspect.getdoc(part) or "").partition("\n\n")[0].split())


_TITLES = {
    "Args": "Settings",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Raises": "Errors",
    "Example": "Example",
}
_SETTINGS = ("__init__", "recipe")
"""Methods whose arguments are a part's settings; the second is that of a ``PresetStep``."""
_SECTION = re.compile(r"^(" + "|".join(_TITLES) + r"):\n((?:(?:[ ]+.*)?\n)*)", re.MULTILINE)
_ITEM = re.compile(r"^(\*{0,2}\w+|[\w.]+): ", re.MULTILINE)


def described(part: str) -> str:
    """The docstring of a class or function, and the settings of a class's constructor, as Markdown.

    Args:
        part: dotted path, such as ``tether.methods.zclip.clipper.ZClip``.
    """
    node = _definition(part)
    made = [inner for inner in node.body if isinstance(inner, ast.FunctionDef) and inner.name in _SETTINGS]
    sections = {}
    for doc in (ast.get_docstring(node) or "", *(ast.get_docstring(one) or "" for one in made)):
        sections |= {title: body for title, body in _SECTION.findall(doc + "\n") if title not in sections}
    text = _SECTION.sub("", (ast.get_docstring(node) or "") + "\n")
    return page(_plain(text), *(_section(title, sections[title]) for title in _TITLES if title in sections))


def example(part: str) -> str:
    """The example in a docstring, as it stands there; empty where there is none."""
    found = dict(_SECTION.findall((ast.get_docstring(_definition(part)) or "") + "\n"))
    return textwrap.dedent(found.get("Example", "")).strip()


def first_sentence(part: str) -> str:
    """The first paragraph of a part's docstring on one line, in Markdown."""
    return " ".join(_plain((ast.get_docstring(_definition(part)) or "").partition("\n\n")[0]).split())


def _definition(part: str) -> ast.ClassDef | ast.FunctionDef:
    """The definition; of several, as of an overloaded function, the last."""
    name = part.rpartition(".")[2]
    *_, found = (
        node
        for node in ast.walk(source_index.tree(source_index.part_place(part).path))
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    )
    return found


def _section(title: str, body: str) -> str:
    body = textwrap.dedent(body).strip()
    if title == "Example":
        return f"**Example**\n\n```python\n{body}\n```"
    items = [item.replace("\n", " ") for item in re.split(r"\n(?=\S)", body)]
    return f"**{_TITLES[title]}**\n\n" + bullets(_ITEM.sub(r"`\1`: ", " ".join(_plain(item).split())) for item in items)


def _plain(text: str) -> str:
    """Double backticks of reStructuredText as Markdown's single ones."""
    return text.replace("``", "`").strip()
