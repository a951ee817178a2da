"""Does Tether do without a method? Copy the checkout, remove ``src/tether/methods/<slug>``, see what fails.

python scripts/without_method.py zclip leaf           these
python scripts/without_method.py --draw 10 --seed 0   ten that the seed draws
python scripts/without_method.py zclip --whole        with what `make quick` runs, not contracts and unit/core alone

Each alone: every module is imported, ``tether methods`` names it beside all others, and the help, a training and a
classification run. Then the tests run without all that are given; files that name one of them are left out and listed,
and three tests that look at the checkout as a whole. Exit code 1 where something fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tether.core.method_files import FILE, MethodFile, read_method

ROOT = Path(__file__).parents[1]
METHODS = Path("src/tether/methods")
TESTS = ["tests/unit/core", "tests/contracts"]
WHOLE = ["tests/unit", "tests/contracts", "tests/property"]
OF_THE_WHOLE = [
    "tests/unit/core/test_dotted_names.py::test_every_dotted_name_resolves",  # the documents' names
    "tests/unit/lab/test_docs.py::TestMarkers::test_the_readme_the_guides_and_the_methods_are_committed",
    "tests/unit/core/test_methods.py::test_the_list_of_methods_names_each",
]
"""Tests that must fail without a method."""
MOVED = "tests/unit/core/test_methods.py::test_an_import_from_an_old_place_names_the_new_one"
MARKS = "not slow and not distributed and not nightly"
MODULES = """
import importlib, pkgutil, warnings
import tether
warnings.simplefilter("ignore")
for found in pkgutil.walk_packages(tether.__path__, "tether.", onerror=lambda name: None):
    if found.name.rpartition(".")[2] != "__main__":
        try:
            importlib.import_module(found.name)
        except BaseException as error:
            print(f"{found.name}: {type(error).__name__}: {error}")
"""
VERBS = {
    "help": ["--help"],
    "train": [
        "train",
        "digits",
        "size=tiny",
        "steps=1",
        "batch_size=8",
        "clipper=none",
        "--recipe",
        "demo",
        "--out",
        "{run}",
    ],
    "classify": ["classify", "digits", "--classes", "zero,one", "--model", "{run}", "--out", "{run}.csv"],
}


def main() -> None:
    """Remove, run, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    known = (ROOT / METHODS / "slugs.txt").read_text(encoding="utf-8").split()
    parser.add_argument("slugs", nargs="*", metavar="SLUG")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="that many more, drawn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", action="store_true", help="the tests of `make quick`")
    asked = parser.parse_args()
    slugs = sorted({*asked.slugs, *random.Random(asked.seed).sample(known, asked.draw)})
    if not slugs or (unknown := sorted({*slugs} - {*known})):
        parser.error(f"no method {unknown[0]!r}" if slugs else "expected a SLUG, or --draw")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tether"
        for path in _tracked():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, copy / path, follow_symlinks=False)
        before = _imports(copy)
        failed = [f"{slug}: {said}" for slug in slugs for said in _alone(slug, copy, before, known=len(known))]
        failed += _tests(slugs, copy, WHOLE if asked.whole else TESTS)
    print(*failed or ["nothing fails"], sep="\n")
    raise SystemExit(bool(failed))


def _alone(slug: str, copy: Path, before: set[str], *, known: int) -> Iterator[str]:
    """What fails without one method."""
    folder, away = copy / _folder(slug), copy.parent / "away"
    print(f"without {slug}", flush=True)
    folder.rename(away)
    try:
        yield from sorted(_imports(copy) - before)
        listed = _run(copy, ["-m", "tether", "methods"])
        rows = listed.stdout.splitlines()
        if listed.returncode != 2 or len(rows) != known or f"names {slug}, of which" not in listed.stderr:
            yield f"tether methods: {len(rows) - 1} methods, exit code {listed.returncode}: {listed.stderr[-500:]}"
        for name, words in VERBS.items():
            done = _run(copy, ["-m", "tether", *(word.format(run=copy.parent / "run") for word in words)])
            if done.returncode:
                yield f"tether {name}: {done.stderr[-500:]}"
        for path in copy.parent.glob("run*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        away.rename(folder)


def _tests(slugs: list[str], copy: Path, chosen: list[str]) -> list[str]:
    """The tests that fail without all of these, with the first line of each error."""
    naming = [path for slug in slugs for path in _naming(slug, copy, chosen)]
    print(*(f"left out, for it names {slug}: {path}" for slug, path in naming), sep="\n", flush=True)
    for slug in slugs:
        shutil.rmtree(copy / _folder(slug))
    ignored = [f"--ignore={path}" for path in sorted({path for _, path in naming})]
    old = json.loads((copy / "src/tether/core/moved.json").read_text(encoding="utf-8"))
    away = {_folder(slug).name for slug in slugs}
    gone = [f"{MOVED}[{name}-{new}]" for name, new in old.items() if {*new.split(".")[1:2]} & away]
    ignored += [f"--deselect={test}" for test in [*OF_THE_WHOLE, *gone]]
    done = _run(copy, ["-m", "pytest", "-q", "-n", "2", "-rfE", "-m", MARKS, *ignored, *chosen])
    print(done.stdout.strip().rpartition("\n")[2])
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines or ([f"pytest: {done.stdout[-2000:]}{done.stderr[-2000:]}"] if done.returncode else [])


def _naming(slug: str, copy: Path, chosen: list[str]) -> Iterator[tuple[str, Path]]:
    """Test files that name a method: its slug, its package, or what it registers."""
    method = read_method(ROOT / _folder(slug) / FILE, package=f"tether.methods.{slug.replace('-', '_')}")
    wanted = re.compile(
        "|".join([rf"(?<![\w-]){re.escape(slug)}(?![\w-])", rf"\b{slug.replace('-', '_')}\b", *_quoted(method)])
    )
    for place in chosen:
        for path in sorted((copy / place).rglob("test_*.py")):
            if wanted.search(path.read_text(encoding="utf-8")):
                yield slug, path.relative_to(copy)


def _quoted(method: MethodFile) -> Iterator[str]:
    """How tests write what a method registers, which is often a word of the language, too."""
    for _, name, target in method.registered():
        yield rf"""["'=]{name.replace("_", "[_-]")}["',]"""
        yield rf"\b{target.rpartition(':')[2]}\b"


def _imports(copy: Path) -> set[str]:
    """Modules that cannot be imported, and why."""
    return set(_run(copy, ["-c", MODULES]).stdout.splitlines())


def _run(copy: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    own = {"PYTHONPATH": os.pathsep.join(map(str, (copy / "src", copy / "reproduction"))), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=copy, env=os.environ | own, capture_output=True, text=True, check=False
    )


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and os.path.lexists(ROOT / name)]


def _folder(slug: str) -> Path:
    return METHODS / slug.replace("-", "_")


if __name__ == "__main__":
    main()
