"""The folders of methods: what their maps name is there, what moved into them says so, and how large all may be."""

import importlib
import json
import pkgutil
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

import tether
from tether.core import moved
from tether.core.method_files import FOLDER, LISTED, method_files

PACKAGE = Path(tether.__file__).parent
OLD = json.loads(Path(moved.__file__).with_suffix(".json").read_text())
COUNTED = {tokenize.NAME, tokenize.OP, tokenize.NUMBER}
# Budgets fall and never rise: tokens of code (names, operators, numbers), lines of a file, files of a folder. That
# of the methods alone has room, for a new method brings what it is.
KERNEL, METHODS, METHOD, LINES, FILES = 839_600, 300_000, 11_000, 450, 40
MORE_FILES = {"workflows": 51, "core": 49, "data": 45}
"""Folders that are still to be divided, and what they may hold until then."""
OWN = [file for file in method_files() if file.path.is_relative_to(FOLDER)]


@pytest.mark.parametrize("method", OWN, ids=[file.slug for file in OWN])
def test_its_map_names_what_is_there(method):
    assert method.values["parts"]
    for name, what in method.values["parts"].items():
        assert what.strip()
        assert pkgutil.resolve_name(name) is not None
    for _, _, target in method.registered():
        assert isinstance(pkgutil.resolve_name(target), type)
        assert target.startswith(method.package), f"{target}: registered by another folder than its own"
    if (method.path.parent / "__init__.pyi").exists():
        package = importlib.import_module(method.package)
        assert all(getattr(package, name) is not None for name in package.__all__)


def test_the_list_of_methods_names_each():
    assert [file.slug for file in OWN] == LISTED.read_text().split()


@pytest.mark.parametrize(("old", "new"), OLD.items())
def test_an_import_from_an_old_place_names_the_new_one(old, new):
    package = new.rpartition(".")[0] or new  # all that is told below a package that has moved whole
    with pytest.raises(ImportError, match=rf"tether\.{old.partition('.')[0]}\S* has moved to .*tether\.{package}\b"):
        importlib.import_module(f"tether.{old}")
    assert importlib.import_module(f"tether.{new}")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tether.adapt.robust.typos", "tether.methods.leaf.robust"),  # two moves
        ("tether.adapt.finetune.lora", "tether.adaptation.finetune.lora"),  # its package's alone
        ("tether.models.vision.vocabulary", "tether.models.encoders.vision_vocabulary"),  # of a package that is gone
    ],
)
def test_a_module_below_an_old_package_is_named_itself(old, new):
    with pytest.raises(ImportError, match=f"^{re.escape(f'{old} has moved to {new};')}"):
        importlib.import_module(old)
    assert importlib.import_module(new)


def test_a_name_that_a_package_had_is_found_too():
    with pytest.raises(ImportError, match=r"tether\.methods\.alignclip\.AlignClipLoss; import it from there"):
        from tether.losses import AlignClipLoss  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        from tether.losses import Nothing  # noqa: F401


def test_nothing_grows():
    sizes = {path: tokens(path) for path in PACKAGE.rglob("*.py")}
    folders = Counter()
    for path, size in sizes.items():
        folders[path.parent.name if path.is_relative_to(FOLDER) else "kernel"] += size
    kernel = folders.pop("kernel")
    assert kernel <= KERNEL
    assert folders.total() <= METHODS
    assert {name: size for name, size in folders.items() if size > METHOD} == {}
    assert {str(path): n for path in sizes if (n := path.read_text(encoding="utf-8").count("\n")) > LINES} == {}
    files = {path.parent for path in sizes} - {FOLDER}
    counts = {folder.relative_to(PACKAGE).as_posix(): len(list(folder.glob("*.py"))) for folder in files}
    assert {name: n for name, n in counts.items() if n > MORE_FILES.get(name, FILES)} == {}


def tokens(path: Path) -> int:
    """Names, operators and numbers outside of strings; Python 3.12 and later look into f-strings, too."""
    start, end = getattr(tokenize, "FSTRING_START", None), getattr(tokenize, "FSTRING_END", None)
    count = inside = 0
    with path.open(encoding="utf-8") as file:
        for token in tokenize.generate_tokens(file.readline):
            inside += (token.type == start) - (token.type == end)
            count += token.type in COUNTED and not inside
    return count
