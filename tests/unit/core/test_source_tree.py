"""What holds for the package's source as a whole: no import circle, one meaning for each public class name."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tether

PACKAGE = Path(tether.__file__).parent
MODULES = {
    ".".join(("tether", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
SHARED = {"ClippingCallback": "the same part for Lightning and for transformers, imported from its trainer's module"}

BY_WORDS = {
    "tether.cli": "torch raises a bare RuntimeError where the CPU's memory is used up",
    "tether.models.wrapped_encoders": "torch raises a bare RuntimeError where a meta tensor is read",
}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports anywhere: at its top, in functions, for type checking."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside if inside <= MODULES.keys() else inside | {str(node.module)}
    return found & MODULES.keys()


def test_no_module_imports_itself_through_others(trees):
    graph = {name: _imported(tree) - {name} for name, tree in trees.items()}
    assert "tether.core.errors" in graph["tether.models.load"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' <- '.join(error.args[1])}")


def test_a_public_class_name_is_defined_once(trees):
    where = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(name)
    assert where["Clip"] == ["tether.models.dual"]
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert twice.keys() == SHARED.keys(), twice


def test_no_error_is_told_from_another_by_its_words(trees):
    """``"..." in str(error)``: libraries change their words; an exception has a class, and a state can be looked at."""
    found = {
        name
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops)
        for right in node.comparators
        if isinstance(right, ast.Call) and ast.unparse(right) in ("str(error)", "str(exception)", "str(e)")
    }
    assert found == BY_WORDS.keys()
