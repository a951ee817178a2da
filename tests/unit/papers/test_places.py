"""Where parts stand, found without importing them; fingerprints of their source."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from tether.core import card as card_module
from tether.core.errors import InputError
from tether.papers.reproduction import source_index


@pytest.mark.parametrize("name", ["Card", "Claim", "Trial"])
def test_a_class_is_found_where_python_finds_it(name):
    # the decorator stands above the class line, which is what the syntax tree counts
    lines, first = inspect.getsourcelines(getattr(card_module, name))
    offset = next(i for i, line in enumerate(lines) if line.startswith("class "))
    place = source_index.part_place(f"tether.core.card.{name}")
    assert (place.path, place.line) == (Path(inspect.getfile(card_module)), first + offset)


def test_reexports_methods_constants_and_modules_are_found():
    assert source_index.part_place("tether.space.Whitener").path.name == "whiten.py"
    assert source_index.part_place("tether.space.ESTIMATORS").path.name == "__init__.py"
    assert source_index.part_place("tether.core.card").line == 1
    method = source_index.part_place("tether.core.types.Batch.to")
    assert method.path.read_text().splitlines()[method.line - 1].strip().startswith("def to(")


def test_lazy_reexports_are_found():
    assert source_index.shown(source_index.part_place("tether.load").path) == "src/tether/models/load.py"


@pytest.mark.parametrize(
    "part", ["tether.core.card.Kard", "tether.nowhere.X", "numpy.array", "tether.core.card.Card.nothing", ""]
)
def test_what_is_not_there_is_refused(part):
    with pytest.raises(InputError, match="no part"):
        source_index.part_place(part)


def test_finding_imports_nothing_heavy():
    code = (
        "import sys; from tether.papers.reproduction import source_index;"
        "source_index.part_place('tether.optim.clip.ZClip'); source_index.part_place('tether.space.Whitener');"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_digest_follows_content_and_name_not_order(tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("a = 1\n")
    two.write_text("b = 2\n")
    first = source_index.digest([one, two])
    assert source_index.digest([two, one]) == first
    two.write_bytes(b"b = 2\r\n")
    assert source_index.digest([one, two]) == first
    two.write_text("b = 3\n")
    assert source_index.digest([one, two]) != first
    one.write_text("b = 2\n")
    two.write_text("a = 1\n")
    assert source_index.digest([one, two]) != first


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "one.py"
    path.write_text("a = 1\n")
    assert len(source_index.tree(path).body) == 1
    path.write_text("a = 1\nb = 2\n")
    assert len(source_index.tree(path).body) == 2


def test_places_are_shown_from_the_checkout():
    assert str(source_index.Place(source_index.PACKAGE / "core" / "card.py", 7)) == "src/tether/core/card.py:7"
    assert source_index.shown(Path("/elsewhere/file.py")) == "/elsewhere/file.py"


def test_without_a_checkout_the_message_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(source_index, "PACKAGE", tmp_path / "site-packages" / "tether")
    assert source_index.checkout() is None
    with pytest.raises(InputError, match="storing needs a source checkout"):
        source_index.need_checkout("storing")


def test_the_fingerprint_covers_card_parts_and_toys(monkeypatch, tmp_path):
    card = card_module.Card(
        slug="made-up",
        title="",
        year=2024,
        arxiv="",
        room="space",
        parts=("tether.part.Part",),
        needs=(),
        gives="",
        claim=card_module.Claim("", "", "lower", 1.0, "", ""),
        minutes=1,
        guide="",
    )
    files = {
        "papers/cards/made_up.py": "CARD = 1\nfrom tether.papers.testbeds.spikes import train\n",
        "papers/testbeds/spikes.py": "def train(): ...\n",
        "papers/reproduction/lab.py": "class Lab: ...\n",
        "part.py": "class Part: ...\n",
    }
    monkeypatch.setattr(source_index, "PACKAGE", tmp_path / "tether")
    for name, text in files.items():
        path = tmp_path / "tether" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = source_index.fingerprint(card)
    for name, text in files.items():
        (tmp_path / "tether" / name).write_text(text + "# edited\n")
        assert (source_index.fingerprint(card) == before) == (name == "papers/reproduction/lab.py"), name
        (tmp_path / "tether" / name).write_text(text)
    assert source_index.fingerprint(card) == before
