"""Where parts stand, found without importing them; what marks a card as changed."""

from __future__ import annotations

import contextlib
import inspect
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tether.core.errors import InputError
from tether_lab.lab import card as card_module
from tether_lab.lab import source_index
from tether_lab.papers import CARDS

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["Card", "Claim", "Trial"])
def test_a_class_is_found_where_python_finds_it(name):
    # the decorator stands above the class line, which is what the syntax tree counts
    lines, first = inspect.getsourcelines(getattr(card_module, name))
    offset = next(i for i, line in enumerate(lines) if line.startswith("class "))
    place = source_index.part_place(f"tether_lab.lab.card.{name}")
    assert (place.path, place.line) == (Path(inspect.getfile(card_module)), first + offset)


def test_reexports_methods_constants_and_modules_are_found():
    assert source_index.part_place("tether.space.Whitener").path.name == "whiten.py"
    assert source_index.part_place("tether.space.ESTIMATORS").path.name == "registry.py"
    assert source_index.part_place("tether_lab.lab.card").line == 1
    method = source_index.part_place("tether.core.types.Batch.to")
    assert method.path.read_text().splitlines()[method.line - 1].strip().startswith("def to(")


def test_lazy_reexports_are_found():
    assert source_index.shown(source_index.part_place("tether.load").path) == "src/tether/models/load.py"


@pytest.mark.parametrize(
    "part", ["tether_lab.lab.card.Kard", "tether.nowhere.X", "numpy.array", "tether_lab.lab.card.Card.nothing", ""]
)
def test_what_is_not_there_is_refused(part):
    with pytest.raises(InputError, match="no part"):
        source_index.part_place(part)


def test_finding_imports_nothing_heavy():
    code = (
        "import sys; from tether_lab.lab.source_index import part_place;"
        "part_place('tether.methods.zclip.ZClip'); part_place('tether.space.Whitener');"
        "assert not {'torch', 'numpy', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
    with pytest.raises(InputError, match="storing needs both packages from one checkout"):
        source_index.need_checkout("storing")


CARDS_TO_EDIT = ("zclip", "adagc", "w-clip", "troll", "nalaformer", "clip-in", "laclip", "fairpivara")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of both packages to edit, and some cards' fingerprints in it by slug."""
    root = tmp_path_factory.mktemp("source")
    for package in (source_index.PACKAGE, source_index.LAB):
        shutil.copytree(package, root / package.name, ignore=shutil.ignore_patterns("__pycache__"))

    def prints() -> dict[str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(source_index, "PACKAGE", root / "tether")
            patch.setattr(source_index, "LAB", root / "tether_lab")
            patch.setenv("TETHER_CACHE", str(root / "cache"))
            sources = source_index.sources()
            found = {slug: source_index.fingerprint(CARDS[slug], sources=sources) for slug in CARDS_TO_EDIT}
            sources.save()
            return found

    return root, prints


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    yield
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "old", "new", "marked"),
    [
        ("tether/losses/infonce.py", "return ", "return 0 + ", set(CARDS_TO_EDIT)),
        ("tether_lab/worlds/char_lm_spikes.py", "LAYERS = 2", "LAYERS = 3", {"zclip", "adagc"}),
        ("tether_lab/worlds/small_clip.py", "size=32", "size=64", {"w-clip"}),
        ("tether/models/towers/blocks/rope.py", "return ", "return 0 + ", set(CARDS_TO_EDIT)),
        ("tether_lab/papers/zclip/study.py", "limit_trial(ZClip, lab)", "limit_trial(ZClip, lab) or 0", {"zclip"}),
        ("tether_lab/lab/lab.py", "hash_int(name", 'hash_int(name + "_"', set(CARDS_TO_EDIT)),
        ("tether/losses/infonce.py", '"""', '"""Edited. ', set()),
        ("tether_lab/worlds/char_lm_spikes.py", "= 20, 40", "= (\n    20,  # a comment\n    40,\n)\n\n\n", set()),
        ("tether/methods/zclip/method.toml", 'gives = "', 'gives = "Edited. ', set()),
        ("tether_lab/papers/zclip/study.py", 'says="', 'says="Edited. ', set()),
        ("tether_lab/lab/card.py", "class Trial", "class More: ...\n\n\nclass Trial", set()),
    ],
)
def test_what_marks_a_card_as_changed(source, name, old, new, marked):
    package, prints = source
    before = prints()
    with edited(package / name, old, new):
        after = prints()
    assert {slug for slug in CARDS_TO_EDIT if after[slug] != before[slug]} == marked


def test_the_move_of_a_file_marks_no_card(source):
    root, prints = source
    before = prints()
    (root / "tether_lab/worlds/char_lm_spikes.py").rename(root / "tether_lab/character_model.py")
    (root / "tether/losses/infonce.py").rename(root / "tether/losses/tiled.py")
    for path in root.rglob("*.py"):
        text = path.read_text()
        moved = text.replace("tether_lab.worlds.char_lm_spikes", "tether_lab.character_model")
        moved = moved.replace("tether.losses.infonce", "tether.losses.tiled")
        if moved != text:
            path.write_text(moved)
    assert prints() == before
