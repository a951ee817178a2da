"""The fingerprint of code, and what holds for the package's source as a whole."""

import ast
import os
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tether
import tether.core.fingerprint as fingerprint_module
import tether.losses.infonce
import tether_lab.worlds.biased_scenes
from tether.core.fingerprint import SourceTrees
from tether_lab.lab import model_cache, source_index

pytestmark = pytest.mark.slow

FILES = {
    "__init__.py": "",
    "card.py": "from pkg.parts import Part\n\n\ndef check():\n    from pkg import deep\n    return deep, Part\n",
    "parts/__init__.py": "from pkg.parts.other import Other\nfrom pkg.parts.part import Part\n",
    "parts/part.py": "from .. import base\n\n\nclass Part:\n    value = base.ONE\n",
    "parts/other.py": "class Other: ...\n",
    "base.py": "ONE = 1\n",
    "deep.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pkg import typed\n",
    "typed.py": "",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "pkg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pkg"


def test_the_closure_follows_calls_and_names_that_are_passed_on(package):
    found = {path.relative_to(package).as_posix() for path in SourceTrees(package).closure([package / "card.py"])}
    assert found == {"card.py", "parts/part.py", "base.py", "deep.py"}


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("base.py", "ONE = 2\n", True),
        ("base.py", '"""Doc."""\n# a comment\n\nONE = (1)\n', False),
        ("parts/part.py", 'from .. import base\nclass Part:\n    """Doc."""\n    value = base.ONE\n', False),
        ("card.py", FILES["card.py"].replace("def check", "CARD = Card(1)\n\n\ndef check"), False),
        ("card.py", FILES["card.py"].replace("def check", "CARDS = Card(1)\n\n\ndef check"), True),
        ("base.py", "ONE = 1\nCARD = evil(1)\n", True),
        ("card.py", FILES["card.py"].replace("Part", "Other"), True),
        ("card.py", FILES["card.py"].replace("import Part", "import Part as P").replace(", Part", ", P"), False),
        ("card.py", FILES["card.py"].replace("return deep", "return None"), True),
        ("parts/other.py", "class Other:\n    x = 1\n", False),
        ("typed.py", "x = 1\n", False),
    ],
)
def test_what_changes_the_fingerprint(package, name, text, changes):
    before = SourceTrees(package).fingerprint([package / "card.py"])
    (package / name).write_text(text)
    assert (SourceTrees(package).fingerprint([package / "card.py"]) != before) == changes


@pytest.mark.parametrize(
    ("name", "changes"), [("words.tsv", True), ("more/words.yaml", True), ("page.css", False), ("../words.tsv", False)]
)
def test_data_files_count_where_they_are_asked_for(package, name, changes):
    (package / "parts/part.py").write_text('from importlib import resources\nWORDS = resources.files("pkg.parts")\n')
    (package / "parts/more").mkdir()
    (package / "parts" / name).write_text("one\n")
    before = SourceTrees(package).fingerprint([package / "card.py"])
    (package / "parts" / name).write_text("two\n")
    assert (SourceTrees(package).fingerprint([package / "card.py"]) != before) == changes


REGISTRY = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pkg.parts import Part
PARTS: Registry[Part] = Registry("parts", {"part": "pkg.parts.part:Part", "other_part": "pkg.parts.other:Other"})
"""
NAMES = {
    "text in a study": ("study/bed.py", "from pkg.registry import PARTS\nSETTINGS = {'name': 'other_part'}\n"),
    "text in a study's card": ("study/card.py", "from pkg.run import run\nrun('other_part')\n"),
    "text elsewhere": ("study/bed.py", "from pkg.run import TEXT\n"),
    "default": ("study/bed.py", "from pkg.run import run\nrun()\n"),
    "field": ("study/bed.py", "from pkg.run import Config\nConfig()\n"),
    "pydantic's field": ("study/bed.py", "from pkg.run import Config\nConfig()\n"),
    "key": ("study/bed.py", "from pkg.run import chosen\nchosen()\n"),
}
RUN = {
    "text in a study's card": "from pkg.registry import PARTS\ndef run(part): PARTS[part]\n",
    "text elsewhere": "from pkg.registry import PARTS\nTEXT = 'other_part'\n",
    "default": "from pkg.registry import PARTS\ndef run(given, *, of='other_part'): PARTS[of]\n",
    "field": "class Config:\n    part: str = 'other_part'\n",
    "pydantic's field": "class Config:\n    part: str = Field(default='other_part', description='x')\n",
    "key": "from pkg.registry import PARTS\ndef chosen(): return PARTS['other_part']\n",
}


@pytest.mark.parametrize("how", NAMES)
def test_of_a_registry_the_members_count_that_are_named(package, how):
    (package / "registry.py").write_text(REGISTRY)
    (package / "run.py").write_text(RUN.get(how, ""))
    name, text = NAMES[how]
    (package / "study").mkdir()
    (package / name).write_text(text)

    def get() -> tuple[str, set[str]]:
        sources = SourceTrees(package, studies=[package / "study"])
        closure = {path.relative_to(package).as_posix() for path in sources.closure([package / name])}
        return sources.fingerprint([package / name]), closure

    before, closure = get()
    assert ("parts/other.py" in closure) == (how != "text elsewhere")
    assert "parts/part.py" not in closure
    (package / "registry.py").write_text(REGISTRY.replace('{"part"', '{"new": "pkg.base:ONE", "part"'))
    assert get()[0] == before
    (package / "parts/other.py").write_text("class Other:\n    x = 1\n")
    assert (get()[0] == before) == (how == "text elsewhere")


def test_settings_name_members_too(package):
    (package / "registry.py").write_text(REGISTRY)
    (package / "run.py").write_text("from pkg.registry import PARTS\ndef run(part): PARTS[part]\n")

    def get(*words: str) -> str:
        return SourceTrees(package).fingerprint([package / "run.py"], words=words)

    before = get("name", "other_part"), get("name")
    (package / "parts/other.py").write_text("class Other:\n    x = 1\n")
    assert get("name", "other_part") != before[0]
    assert get("name") == before[1]


def test_what_a_stub_passes_on_counts_where_it_is_defined(package):
    before = SourceTrees(package).fingerprint([package / "card.py"])
    (package / "parts/__init__.py").write_text("import lazy\nlazy.attach_stub(__name__, __file__)\n")
    (package / "parts/__init__.pyi").write_text("from .other import Other as Other\nfrom .part import Part as Part\n")
    assert SourceTrees(package).fingerprint([package / "card.py"]) == before
    (package / "parts/__init__.pyi").write_text("from .other import Other as Other, Other as Part\n")
    assert SourceTrees(package).fingerprint([package / "card.py"]) != before


def test_an_edit_that_keeps_size_and_time_is_seen(package):
    before = SourceTrees(package)
    first = before.fingerprint([package / "card.py"])
    before.save()
    status = (package / "base.py").stat()
    (package / "base.py").write_text("ONE = 2\n")
    os.utime(package / "base.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert SourceTrees(package).fingerprint([package / "card.py"]) != first


def test_a_moved_file_changes_nothing(package):
    before = SourceTrees(package).fingerprint([package / "card.py"])
    (package / "new").mkdir()
    (package / "new" / "__init__.py").write_text("")
    (package / "parts/part.py").rename(package / "new/other_name.py")
    (package / "card.py").write_text(FILES["card.py"].replace("pkg.parts import", "pkg.new.other_name import"))
    assert SourceTrees(package).fingerprint([package / "card.py"]) == before
    (package / "base.py").rename(package / "new/ground.py")
    (package / "new/other_name.py").write_text(
        FILES["parts/part.py"].replace("from .. import base", "from . import ground").replace("base.ONE", "ground.ONE")
    )
    assert SourceTrees(package).fingerprint([package / "card.py"]) == before


def test_two_names_that_change_places_are_seen(package):
    (package / "other.py").write_text("def f(): return 1\n")
    (package / "base.py").write_text("def f(): return 2\n")
    card = "from pkg.base import f as a\nfrom pkg.other import f as b\nresult = a() - b()\n"
    (package / "card.py").write_text(card)
    before = SourceTrees(package).fingerprint([package / "card.py"])
    (package / "card.py").write_text(card.replace("a() - b()", "b() - a()"))
    assert SourceTrees(package).fingerprint([package / "card.py"]) != before


def test_what_was_read_is_kept_and_a_damaged_cache_does_no_harm(package, tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    parsed: list[Path] = []
    read = fingerprint_module._read
    monkeypatch.setattr(fingerprint_module, "_read", lambda path, **more: parsed.append(path) or read(path, **more))

    def run() -> tuple[str, int]:
        parsed.clear()
        sources = SourceTrees(package)
        found = sources.fingerprint([package / "card.py"])
        sources.save()
        return found, len(parsed)

    before, count = run()
    assert count >= 4
    assert run() == (before, 0)
    (package / "base.py").write_text("ONE = 1\nTWO = 2\n")
    after, count = run()
    assert (after != before, count) == (True, 1)
    (kept,) = (tmp_path / "cache" / "sources").iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-20], whole.replace(b"ONE", b"TWO"), whole.replace(b'["', b"[7,", 1), b"\xff\xfe"):
        kept.write_bytes(damaged)
        assert run()[0] == after
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_text("no folder")
    assert run()[0] == after


def test_a_cached_model_is_not_found_after_an_edit_of_what_trains_it(tmp_path, monkeypatch):
    bed = Path(tether_lab.worlds.biased_scenes.__file__)
    assert Path(tether.losses.infonce.__file__) in source_index.sources().closure([bed])
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))

    def get(facts: list[int | str]) -> Path:
        return model_cache.cached_model("x", made_by=bed, facts=facts, make=lambda folder: folder.mkdir())

    first = get([1])
    assert get([1]) == first
    assert get([2]) != first
    seen = []
    monkeypatch.setattr(
        SourceTrees, "fingerprint", lambda self, files, *, words: seen.append((files, words)) or "other"
    )
    assert get([1]) != first
    assert seen == [([bed], [])]
    get(["align_clip", 2])
    assert seen[1] == ([bed], ["align_clip"])


PACKAGE = Path(tether.__file__).parent
MODULES = {
    ".".join(("tether", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
SHARED = {"ClippingCallback": "the same part for Lightning and for transformers, imported from its trainer's module"}

BY_WORDS = {
    "tether.cli": "torch raises a bare RuntimeError where the CPU's memory is used up",
    "tether.models.encoders.wrapped": "torch raises a bare RuntimeError where a meta tensor is read",
}


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def _imported(tree: ast.Module) -> set[str]:
    """Modules of the package that a module imports anywhere: at its top, in functions; not for type checking."""
    found = set()
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for one in node.body
        for inner in ast.walk(one)
    }
    for node in set(ast.walk(tree)) - for_types:
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
    assert where["Clip"] == ["tether.models.towers.clip"]
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


def test_members_of_a_method_toml_count_where_they_are_named(package):
    (package / "methods/mine").mkdir(parents=True)
    (package / "methods/mine/method.toml").write_text('[register.clippers]\nmine = ".part:Mine"\n')
    (package / "methods/mine/part.py").write_text("class Mine: ...\n")
    (package / "run.py").write_text("from pkg.registry import CLIPPERS\ndef run(part): CLIPPERS[part]\n")

    def get(*words: str) -> str:
        return SourceTrees(package).fingerprint([package / "run.py"], words=words)

    before = get("mine"), get("other")
    (package / "methods/mine/part.py").write_text("class Mine:\n    x = 1\n")
    assert get("mine") != before[0]
    assert get("other") == before[1]
