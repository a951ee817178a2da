from pathlib import Path

import pytest

import tether.losses.infonce
import tether.papers.testbeds.biased_scenes
from tether.core.fingerprint import closure, fingerprint
from tether.papers.reproduction import model_cache

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
    found = {path.relative_to(package).as_posix() for path in closure([package / "card.py"], package=package)}
    assert found == {"card.py", "parts/part.py", "base.py", "deep.py"}


@pytest.mark.parametrize(
    ("name", "text", "changes"),
    [
        ("base.py", "ONE = 2\n", True),
        ("base.py", '"""Doc."""\n# a comment\n\nONE = (1)\n', False),
        ("parts/part.py", 'from .. import base\nclass Part:\n    """Doc."""\n    value = base.ONE\n', False),
        ("card.py", FILES["card.py"].replace("return deep", "return None"), True),
        ("parts/other.py", "class Other:\n    x = 1\n", False),
        ("typed.py", "x = 1\n", False),
    ],
)
def test_what_changes_the_fingerprint(package, name, text, changes):
    before = fingerprint([package / "card.py"], package=package)
    (package / name).write_text(text)
    assert (fingerprint([package / "card.py"], package=package) != before) == changes


def test_a_cached_model_is_not_found_after_an_edit_of_what_trains_it(tmp_path, monkeypatch):
    bed = Path(tether.papers.testbeds.biased_scenes.__file__)
    assert Path(tether.losses.infonce.__file__) in closure([bed])
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))

    def get(facts: list[int]) -> Path:
        return model_cache.cached_model("x", made_by=bed, facts=facts, make=lambda folder: folder.mkdir())

    first = get([1])
    assert get([1]) == first
    assert get([2]) != first
    monkeypatch.setattr(model_cache, "fingerprint", lambda files: "another")
    assert get([1]) != first
