"""The skeleton of a new paper: it is valid code in the right places, and nothing is written when anything is amiss."""

from __future__ import annotations

import ast
import runpy
import shutil

import pytest

from tether_lab.lab import source_index

GIVEN = {"--slug": "gate-norm", "--part": "optim.clip.gate_norm.GateNorm", "--guide": "stability.md"}
LAB = "reproduction/tether_lab/papers"
METHODS = "src/tether/methods"
LISTED, STUDY, METHOD = f"{METHODS}/slugs.txt", f"{LAB}/gate_norm/study.py", f"{METHODS}/gate_norm/method.toml"
SHARED = {STUDY, METHOD, "tests/golden/test_gate_norm.py", LISTED}
"""Written for every paper."""


@pytest.fixture
def root(tmp_path):
    here = source_index.need_checkout("this test")
    for package in ("optim", "adapt", "compress", "train", "data"):
        folder = f"src/tether/{package}"
        shutil.copytree(here / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.pyc"))
    for folder in (LAB, METHODS, "tests/golden", "docs/guides"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / LISTED).write_text("adagc\nzclip\n")
    shutil.copy(here / "docs/guides/stability.md", tmp_path / "docs/guides")
    return tmp_path


@pytest.fixture(scope="module")
def main():
    return runpy.run_path(str(source_index.need_checkout("this test") / "scripts/new_paper"))["main"]


@pytest.fixture
def written(main, root):
    """Write a paper with these changes: the texts of the new or changed files, and the lines that each has more."""

    def write(**change):
        before = texts(root)
        given = GIVEN | {f"--{key}": value for key, value in change.items()}
        main([word for pair in given.items() for word in pair], root=root)
        after = {name: text for name, text in texts(root).items() if text != before.get(name)}
        for name, text in after.items():
            assert name in (LISTED, METHOD) or ast.parse(text)
        more = {name: set(text.splitlines()) - set(before.get(name, "").splitlines()) for name, text in after.items()}
        return after, more

    return write


def texts(root):
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_it_writes_its_files_and_says_what_is_to_come(written, capsys):
    after, more = written(mapping="CLIPPERS")
    registry, part = "src/tether/optim/clip/registry.py", "src/tether/optim/clip/gate_norm.py"
    assert after.keys() == SHARED | {registry, part}
    said = capsys.readouterr().out
    assert all(f"wrote {name}\n" in said for name in after)
    assert "tests/golden/vectors/gate-norm.npz" in said
    assert "docs/guides/stability.md" in said
    assert "tether-lab bench stability --publish" in said
    assert more[registry] == {'        "gate_norm": "tether.optim.clip.gate_norm:GateNorm",'}
    assert all("TO FILL IN" in text for name, text in after.items() if name not in (registry, LISTED))
    assert after[LISTED] == "adagc\ngate-norm\nzclip\n"
    assert "promise of GradClipper" in after[part]
    assert 'guide = "stability.md"' in after[METHOD]
    assert "from tether.optim.clip.gate_norm import GateNorm" in after["tests/golden/test_gate_norm.py"]


@pytest.mark.parametrize(
    ("mapping", "module", "registry", "names"),
    [
        ("DEBIASERS", "adapt.debias.new", "adapt/debias/registry.py", []),
        ("COMPRESSORS", "compress.new", "compress/registry.py", []),
        ("SCHEDULES", "train.new", "train/schedules.py", ["cosine", "constant", "trapezoid"]),
        ("SOURCES", "data.sources.new", "data/opening.py", None),
    ],
)
def test_a_registry_gets_one_line(written, mapping, module, registry, names):
    after, more = written(mapping=mapping, part=f"{module}.New")
    registry = f"src/tether/{registry}"
    (line,) = more[registry]
    assert f'"gate_norm": "tether.{module}:New"' in line
    literal = next(
        node.value.args[1]
        for node in ast.parse(after[registry]).body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == mapping
    )
    keys = list(ast.literal_eval(literal))
    assert keys[-1] == "gate_norm"
    assert names is None or keys[:-1] == names


def test_a_part_needs_no_mapping(written, capsys):
    after, _ = written(part="adapt.new.New")
    assert after.keys() == SHARED | {"src/tether/adapt/new.py"}
    assert "promise" not in after["src/tether/adapt/new.py"]
    assert "bench" not in capsys.readouterr().out


def test_a_part_that_is_there_is_left_as_it_is(written):
    after, _ = written(part="optim.clip.global_norm.GlobalNorm")
    assert after.keys() == SHARED
    assert '"tether.optim.clip.global_norm.GlobalNorm"' in after[METHOD]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slug": "Gate_Norm"}, "expected lower-case words joined by hyphens"),
        ({"part": "GateNorm"}, "--part: expected module.Class below tether"),
        ({"part": "nowhere.gate_norm.GateNorm"}, "--part: no folder"),
        ({"part": "optim.clip.global_norm.GateNorm"}, "global_norm.py exists already and defines no GateNorm"),
        ({"mapping": "NOTHING"}, "expected one registry NOTHING below"),
        ({"guide": "gate-norm.md"}, "no 'gate-norm.md' in"),
    ],
)
def test_nothing_is_written_when_anything_is_amiss(written, root, capsys, change, said):
    before = texts(root)
    with pytest.raises(SystemExit):
        written(**change)
    assert said in capsys.readouterr().err
    assert texts(root) == before


def test_a_slug_that_is_taken_is_refused(written, root, capsys):
    written()
    before = texts(root)
    with pytest.raises(SystemExit):
        written(part="optim.clip.other.Other")
    assert "exists already; choose another slug" in capsys.readouterr().err
    assert texts(root) == before
