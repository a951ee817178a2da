"""The four places of a new paper: its part, one line in the room's mapping, its card, its test."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.papers.insert import add_import, add_to_mapping
from tether.papers.promise import class_text
from tether.papers.reproduction import source_index
from tether.papers.reproduction.part_reference import Shelf, shelves

_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
UNFILLED = "TO FILL IN"
"""Stands wherever a person must write; the tests refuse it, so no skeleton can pass for a paper."""
_NAME = "CARD"  # apart from the template, for a file that has it at the left margin counts as a card


def plan(root: Path, *, slug: str, room: str, mapping: str | None = None) -> dict[Path, str]:
    """What each file would hold; nothing is written.

    Args:
        root: the checkout.
        slug: of the paper, lower-case words with hyphens.
        room: where its part lives.
        mapping: name of the mapping it joins, such as ``CLIPPERS``; default: the room's first.

    Raises:
        InputError: a slug of another form, an unknown room or mapping, or a file that exists already.
    """
    if not _SLUG.fullmatch(slug):
        raise InputError(f"slug: expected lower-case words joined by hyphens, such as gate-norm, got {slug!r}")
    shelf = _shelf(room, mapping)
    if _defines(shelf):
        raise InputError(
            f"mapping: {shelf.dotted} stands in the file of its base class {shelf.promise}, which a part in a file of "
            "its own could not import; write the class there by hand"
        )
    stem = slug.replace("-", "_")
    name = "".join(word.capitalize() for word in slug.split("-"))
    shelf_path = root / "src" / source_index.part_place(shelf.dotted).path.relative_to(source_index.PACKAGE.parent)
    part_path = _folder(shelf_path, shelf, root) / f"{stem}.py"
    module = ".".join(part_path.relative_to(root / "src").with_suffix("").parts)
    card_path = root / "src" / "tether" / "papers" / "cards" / f"{stem}.py"
    test_path = root / "tests" / "unit" / f"test_{stem}.py"
    for path in (part_path, card_path, test_path):
        if path.exists():
            raise InputError(f"{path}: exists already; choose another slug or edit that file")
    return {
        part_path: class_text(shelf, name=name, unfilled=UNFILLED),
        shelf_path: _with_line(shelf_path, shelf, key=stem, name=name, module=module),
        card_path: _card(slug, room=room, part=f"{module}.{name}"),
        test_path: _test(slug, module=module, name=name),
    }


def write(files: Mapping[Path, str]) -> None:
    """Write every file of a plan, each atomically."""
    for path, text in files.items():
        write_text(path, text)


def _shelf(room: str, mapping: str | None) -> Shelf:
    every = shelves()
    here = [shelf for shelf in every if shelf.room == room]
    if not here:
        rooms = sorted({shelf.room for shelf in every})
        raise InputError(f"room: {room!r} has no mapping of parts; known: {', '.join(rooms)}")
    if mapping is None:
        return here[0]
    for shelf in here:
        if shelf.dotted.endswith(f".{mapping}"):
            return shelf
    names = ", ".join(shelf.dotted.rpartition(".")[2] for shelf in here)
    raise InputError(f"mapping: room {room!r} has no {mapping!r}; known: {names}")


def _defines(shelf: Shelf) -> bool:
    """Whether the mapping's own file defines the class that its members inherit from."""
    nodes = source_index.tree(source_index.part_place(shelf.dotted).path).body
    return any(isinstance(node, ast.ClassDef) and node.name == shelf.promise for node in nodes)


def _folder(shelf_path: Path, shelf: Shelf, root: Path) -> Path:
    """Beside the mapping, or beside the newest member where the mapping names modules."""
    members = mapping_dict(ast.parse(shelf_path.read_text(encoding="utf-8")), shelf.dotted.rpartition(".")[2])
    match members.values[-1:]:
        case [ast.Constant(value=str(where))]:
            return (root / "src").joinpath(*where.partition(":")[0].split(".")).parent
        case _:
            return shelf_path.parent


def mapping_dict(tree: ast.Module, name: str) -> ast.Dict:
    """The dictionary that a mapping is written as, directly or as the argument of the class that wraps it."""
    values: dict[str, ast.expr | None] = {}
    for node in tree.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=target), value=value):
                values[target] = value
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                values[target] = value
            case _:
                continue
    found = values.get(name)
    if isinstance(found, ast.Call) and found.args and isinstance(found.args[0], ast.Name):
        found = values.get(found.args[0].id)
    if not isinstance(found, ast.Dict):
        raise InputError(f"mapping: {name} is not written as a dictionary")
    return found


def _with_line(path: Path, shelf: Shelf, *, key: str, name: str, module: str) -> str:
    text = path.read_text(encoding="utf-8")
    found = mapping_dict(ast.parse(text), shelf.dotted.rpartition(".")[2])
    by_module = isinstance(found.values[-1], ast.Constant) if found.values else False
    text = add_to_mapping(text, found, key=key, value=f'"{module}:{name}"' if by_module else name)
    return text if by_module else add_import(text, module=module, name=name)


def _card(slug: str, *, room: str, part: str) -> str:
    return f'''"""{UNFILLED}: one sentence that says what the paper does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.card import Card, Claim, Trial

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

{_NAME} = Card(
    slug="{slug}",
    title="{UNFILLED}",
    year=0,
    arxiv="",
    room="{room}",
    parts=("{part}",),
    needs=(),
    gives="{UNFILLED}",
    claim=Claim(
        says="{UNFILLED}",
        metric="{UNFILLED}",
        better="higher",
        margin=0.0,
        baseline="{UNFILLED}",
        scale="{UNFILLED}",
    ),
    minutes=0,
    guide="{slug}.md",
)


def reproduce(lab: Lab) -> Trial:
    """Measure the claim once, for the lab's seed: without the method, then with it."""
    raise NotImplementedError("{UNFILLED}")
'''


def _test(slug: str, *, module: str, name: str) -> str:
    card = f"tether.papers.cards.{slug.replace('-', '_')}"
    imports = "\n    ".join(sorted([f"import {card} as card", f"import {module} as part"]))
    return f'''"""{slug}: figures worked out by hand from the paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from {module} import {name}


@pytest.mark.parametrize("case", [pytest.param((), id="{UNFILLED}")])
def test_follows_the_paper(case):
    given, expected = case
    assert {name}()(given) == pytest.approx(expected)


def test_nothing_is_left_to_fill_in():
    {imports}

    for module in (card, part):
        assert "TO FILL" + " IN" not in Path(str(module.__file__)).read_text(encoding="utf-8")
    assert "TO FILL" + " IN" not in Path(__file__).read_text(encoding="utf-8")
'''
