"""The skeleton of a new paper: it imports at once, and nothing about it passes before it is filled in."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tether.core.errors import InputError
from tether.papers import scaffold
from tether.papers.insert import add_import, add_to_mapping
from tether.papers.reproduction import source_index


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A process in a copy of the checkout, which imports the copy's package."""
    path = {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=os.environ | path, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of the checkout with a new clipper written into it by the command line."""
    here, root = source_index.need_checkout("this test"), tmp_path_factory.mktemp("checkout")
    skip = shutil.ignore_patterns("__pycache__", "*.npz")
    for folder in ("src", "tests/unit", "tests/papers"):
        shutil.copytree(here / folder, root / folder, ignore=skip)
    shutil.copy(here / "pyproject.toml", root)
    done = run(root, "-m", "tether", "new-paper", "gate-norm", "--room", "optim", "--mapping", "CLIPPERS")
    assert done.returncode == 0, done.stderr
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()[:4]] == [
        "src/tether/optim/clip/gate_norm.py",
        "src/tether/optim/clip/__init__.py",
        "src/tether/papers/cards/gate_norm.py",
        "tests/unit/test_gate_norm.py",
    ]
    return root


def test_the_skeleton_imports_and_is_in_the_mapping(copied):
    code = (
        "from tether.optim.clip import CLIPPERS; from tether.papers.cards import card;"
        "print(CLIPPERS['gate_norm'].__name__, card('gate-norm').room, list(CLIPPERS)[-1])"
    )
    done = run(copied, "-c", code)
    assert done.stdout.split() == ["GateNorm", "optim", "gate_norm"], done.stderr


def test_the_skeleton_keeps_the_form_of_its_protocol(copied):
    code = (
        "from tether.optim.clip import CLIPPERS; from tether.core.protocols import GradClipper;"
        "assert isinstance(CLIPPERS['gate_norm'](), GradClipper)"
    )
    assert run(copied, "-c", code).returncode == 0


def test_the_skeleton_is_clean_code(copied):
    files = ["src/tether/optim/clip", "src/tether/papers/cards/gate_norm.py", "tests/unit/test_gate_norm.py"]
    done = run(copied, "-m", "ruff", "check", "--no-cache", *files)
    assert done.returncode == 0, done.stdout


def test_where_shows_the_new_files(copied):
    done = run(copied, "-m", "tether", "where", "gate-norm")
    assert "src/tether/optim/clip/gate_norm.py:" in done.stdout, done.stderr
    assert "tests/unit/test_gate_norm.py" in done.stdout


def test_every_test_of_the_skeleton_fails(copied):
    done = run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_gate_norm.py")
    assert "2 failed" in done.stdout, done.stdout
    assert "passed" not in done.stdout


def test_the_card_contract_fails_for_the_skeleton(copied):
    done = run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/papers/test_cards.py", "-k", "gate-norm")
    assert " failed" in done.stdout, done.stdout + done.stderr
    done = run(copied, "-m", "tether", "reproduce", "gate-norm", "--smoke")
    assert "NotImplementedError" in done.stderr


def test_deleting_the_reminders_is_not_enough(copied):
    path = copied / "tests" / "unit" / "test_gate_norm.py"
    before = path.read_text()
    path.write_text(before.replace("TO FILL IN", "a case"))
    try:
        done = run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path), "-k", "follows_the_paper")
    finally:
        path.write_text(before)
    assert "1 failed" in done.stdout, done.stdout


def test_a_second_time_is_refused(copied):
    done = run(copied, "-m", "tether", "new-paper", "gate-norm", "--room", "optim", "--mapping", "CLIPPERS")
    assert done.returncode == 2
    assert "exists already" in done.stderr


def test_a_dry_run_writes_nothing(copied):
    done = run(copied, "-m", "tether", "new-paper", "other-norm", "--room", "space", "--dry-run")
    assert "would write src/tether/space/other_norm.py" in done.stdout
    assert not (copied / "src/tether/space/other_norm.py").exists()


@pytest.mark.parametrize(
    ("slug", "room", "mapping", "match"),
    [
        ("Gate_Norm", "optim", None, "slug: expected lower-case words"),
        ("4norm", "optim", None, "slug: expected lower-case words"),
        ("gate-", "optim", None, "slug: expected lower-case words"),
        ("gate-norm", "garden", None, "room: 'garden' has no mapping of parts; known: adapt, compress, data, "),
        ("gate-norm", "optim", "CLIPERS", "mapping: room 'optim' has no 'CLIPERS'; known: OPTIMIZERS, CLIPPERS"),
        ("whiten", "space", None, "exists already"),
        ("gate-norm", "train", "SCHEDULES", "stands in the file of its base class Schedule"),
    ],
)
def test_bad_requests_are_refused(slug, room, mapping, match):
    with pytest.raises(InputError, match=match):
        scaffold.plan(source_index.need_checkout("this test"), slug=slug, room=room, mapping=mapping)


def test_a_mapping_of_modules_gets_a_line_of_its_kind():
    root = source_index.need_checkout("this test")
    files = scaffold.plan(root, slug="gate-norm", room="data", mapping="SOURCES")
    text = files[root / "src/tether/data/opening.py"]
    assert '    "gate_norm": "tether.data.' in text
    assert "import GateNorm" not in text


@pytest.mark.parametrize(
    "before",
    [
        'PARTS = {"a": A}\n',
        'PARTS = {\n    "a": A,  # kept\n}\n',
        'x = "ä"; PARTS = {"a": A}; y = 1\n',
        'if True:\n    pass\nPARTS: dict = {\n    "a": A,\n    "b": f(\n        1,\n    ),\n}\nrest = 1\n',
        "PARTS = {}\n",
    ],
)
def test_a_line_is_added_and_the_rest_is_kept(before):
    found = next(node for node in ast.walk(ast.parse(before)) if isinstance(node, ast.Dict))
    after = add_to_mapping(before, found, key="new", value="New")
    changed = next(node for node in ast.walk(ast.parse(after)) if isinstance(node, ast.Dict))
    assert [ast.unparse(key) for key in changed.keys if key] == [ast.unparse(k) for k in found.keys if k] + ["'new'"]
    assert ast.unparse(changed.values[-1]) == "New"
    removed = ast.parse(after)
    node = next(node for node in ast.walk(removed) if isinstance(node, ast.Dict))
    node.keys.pop()
    node.values.pop()
    assert ast.unparse(removed) == ast.unparse(ast.parse(before))
    assert "# kept" in after or "# kept" not in before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '"""x"""\n\nimport os\n\nfrom tether.a import A\nfrom tether.c import C\n',
            '"""x"""\n\nimport os\n\nfrom tether.a import A\nfrom tether.b import B\nfrom tether.c import C\n',
        ),
        (
            "from tether.a import (\n    A,\n)\nx = 1\n",
            "from tether.a import (\n    A,\n)\nfrom tether.b import B\nx = 1\n",
        ),
        ("import os\nx = 1\n", "import os\n\nfrom tether.b import B\nx = 1\n"),
        ('"""x"""\nx = 1\n', '"""x"""\n\nfrom tether.b import B\nx = 1\n'),
    ],
)
def test_an_import_goes_where_it_belongs(before, after):
    assert add_import(before, module="tether.b", name="B") == after
