"""A new paper of each kind runs as it was made, and nothing is written when anything is amiss."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys

import pytest

from tether_lab.lab import source_index

pytestmark = pytest.mark.slow
KINDS = ("objective", "term", "head", "view", "recipe", "clipper", "probe")
COPIED = ("src", "reproduction", "scripts", "docs", "tests/contracts", "tests/helpers", "tests/methods/zclip")
FILES = ("README.md", "CHANGELOG.md", "pyproject.toml", "tests/conftest.py", "tests/lab/test_examples.py")


@pytest.fixture(scope="module")
def new_paper():
    return runpy.run_path(str(source_index.need_checkout("this test") / "scripts/new_paper"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A checkout of its own, to which papers are added."""
    here, root = source_index.need_checkout("this test"), tmp_path_factory.mktemp("checkout")
    for folder in filter(lambda name: (here / name).is_dir(), COPIED):
        shutil.copytree(here / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "gen", "_build"))
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(here / name, root / name)
    return root


def run(root, *words):
    path = os.pathsep.join(map(str, (root / "src", root / "reproduction")))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_kind_is_tried_here(new_paper):
    assert new_paper["KINDS"].keys() == set(KINDS)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.nightly] if kind != "objective" else []) for kind in KINDS]
)
def test_it_runs_as_it_was_made(root, kind):
    slug, stem = f"trial-{kind}", f"trial_{kind}"
    said = run(root, "scripts/new_paper", slug, "--kind", kind, "--title", 'A "new" way')
    written = [line.removeprefix("wrote ") for line in said.splitlines() if line.startswith("wrote ")]
    assert len(written) == 7
    assert "updated README.md" in said
    assert "title = \"A 'new' way\"" in (root / f"src/tether/methods/{stem}/method.toml").read_text()
    assert slug in (root / "src/tether/methods/slugs.txt").read_text().split()
    run(root, "-m", "ruff", "check", ".")
    run(root, "-m", "ruff", "format", "--check", ".")
    run(root, "-m", "tether_lab", "docs", "--check")
    run(root, "-m", "pytest", "-q", f"tests/methods/{stem}")
    run(root, "-m", "pytest", "-q", "--paper", slug, "tests/contracts", "tests/lab/test_examples.py")
    assert "smoke run ended" in run(root, "-m", "tether_lab", "reproduce", slug, "--smoke")
    lacks = run(root, "-m", "tether_lab", "missing", slug)
    for what in (*(name for name in written if name.endswith((".py", ".toml")) and "__init__" not in name), "result"):
        assert what in lacks
    assert ("bench stability" in lacks) == (kind == "clipper")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["Gate_Norm", "--kind", "term"], "expected lower-case words joined by hyphens"),
        (["new-way", "--kind", "garden"], "invalid choice: 'garden'"),
        (["new-way"], "required: --kind"),
        (["zclip", "--kind", "clipper"], "zclip exists already; choose another slug"),
        (["new-way", "--kind", "clipper", "--class", "ZClip"], "has a class ZClip already"),
        (["new-way", "--kind", "clipper", "--class", "zClip"], "expected a name such as GateNorm"),
        (["global-norm", "--kind", "clipper"], "CLIPPERS has a 'global_norm' already"),
        (["lambda", "--kind", "clipper"], "'lambda' is a word of Python"),
        (["new-way", "--kind", "clipper", "--class", "None"], "expected a name such as GateNorm"),
        (["a" * 41, "--kind", "clipper"], "expected at most 40 characters, got 41"),
        (["new-way", "--kind", "clipper", "--title", "One\nTwo"], "--title: expected one line"),
        (["new-way", "--kind", "clipper", "--title", "A \x1b[1m title"], "--title: expected one line"),
        (["new-way", "--kind", "clipper", "--title", "On \\alpha"], "--title: expected one line"),
    ],
)
def test_nothing_is_written_when_anything_is_amiss(new_paper, capsys, given, said):
    listed = source_index.PACKAGE / "methods" / "slugs.txt"
    before = listed.read_bytes(), sorted(source_index.PACKAGE.glob("methods/*"))
    with pytest.raises(SystemExit):
        new_paper["main"](given)
    assert said in capsys.readouterr().err
    assert (listed.read_bytes(), sorted(source_index.PACKAGE.glob("methods/*"))) == before


@pytest.mark.parametrize(("error", "code"), [(OSError("the disk is full"), 1), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize("failing", [0, 2])
def test_what_was_written_is_taken_back(root, monkeypatch, capsys, error, code, failing):
    """Before anything else is brought up to date, and after it was, at the last step."""
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    script = runpy.run_path(str(root / "scripts/new_paper"))
    main = script["main"]
    steps = []

    def fails(*given, **options):
        steps.append(given)
        if len(steps) > failing:
            raise error
        (root / "README.md").write_text("changed")
        (root / "src/tether/methods/new_way/__pycache__").mkdir(exist_ok=True)

    monkeypatch.setattr(main.__globals__["subprocess"], "run", fails)
    monkeypatch.setitem(main.__globals__, "_problem", lambda *given: "")  # this tether is another checkout's
    with pytest.raises(SystemExit) as stopped:
        main(["new-way", "--kind", "clipper"])
    assert stopped.value.code == code
    assert "all that was written has been taken back" in capsys.readouterr().err
    assert not (root / "src/tether/methods/new_way").exists()
    assert {
        path: path.read_bytes() for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    } == files
