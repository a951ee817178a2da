"""The skeleton of a new paper: it is valid code in the right places, and nothing is written when anything is amiss."""

from __future__ import annotations

import ast
import runpy
import shutil

import pytest

from tether.papers.reproduction import source_index

GIVEN = ["--slug", "gate-norm", "--package", "optim", "--mapping", "CLIPPERS"]
WRITTEN = {
    "src/tether/optim/clip/gate_norm.py",
    "src/tether/optim/clip/__init__.py",
    "src/tether/papers/cards/gate_norm.py",
    "tests/golden/test_gate_norm.py",
}


@pytest.fixture
def root(tmp_path):
    here = source_index.need_checkout("this test")
    shutil.copytree(here / "src/tether/optim", tmp_path / "src/tether/optim", ignore=shutil.ignore_patterns("*.pyc"))
    for folder in ("src/tether/papers/cards", "tests/golden"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(source_index.need_checkout("this test") / "scripts/new_paper"))["main"]


def texts(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_it_writes_four_files_and_says_what_is_to_come(main, root, capsys):
    before = texts(root)
    main(GIVEN, root=root)
    after = texts(root)
    assert {name for name in after if after[name] != before.get(name)} == WRITTEN
    said = capsys.readouterr().out
    for name in WRITTEN:
        ast.parse(after[name])
        assert f"wrote {name}\n" in said
    assert "tests/golden/vectors/gate-norm.npz" in said
    registry = set(after["src/tether/optim/clip/__init__.py"].splitlines())
    assert registry - set(before["src/tether/optim/clip/__init__.py"].splitlines()) == {
        "from tether.optim.clip.gate_norm import GateNorm",
        '    "gate_norm": GateNorm,',
    }
    assert all("TO FILL IN" in after[name] for name in WRITTEN if not name.endswith("__init__.py"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--slug": "Gate_Norm"}, "expected lower-case words joined by hyphens"),
        ({"--slug": "zclip"}, "zclip.py exists already"),
        ({"--mapping": "NOTHING"}, "expected one NOTHING with an entry a line"),
        ({"--package": "nowhere"}, "expected one CLIPPERS with an entry a line"),
    ],
)
def test_nothing_is_written_when_anything_is_amiss(main, root, capsys, change, said):
    before = texts(root)
    wanted = dict(zip(GIVEN[::2], GIVEN[1::2], strict=True)) | change
    with pytest.raises(SystemExit):
        main([word for pair in wanted.items() for word in pair], root=root)
    assert said in capsys.readouterr().err
    assert texts(root) == before
