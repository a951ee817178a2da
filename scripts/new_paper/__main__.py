"""Write a new paper's folders: ``python scripts/new_paper gate-norm --kind clipper``.

Its part is a simple one of the kind and runs at once, in training and in its study; TO FILL IN stands where a person
must write, and ``make paper SLUG=gate-norm`` lists what is missing.
"""

from __future__ import annotations

import argparse
import keyword
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from string import Template

HERE = Path(__file__).parent
LONGEST = 40
"""Characters of a slug: it names folders, modules and a class."""
UP_TO_DATE = "import sys; from pathlib import Path; from tether_lab.lab.docs import committed, write; \
root = Path(sys.argv[1]); write(root, committed(root))"
"""Brings the README's count and the method.toml up to date; run in a process that has not read the methods before."""


@dataclass(frozen=True)
class Kind:
    """A kind of part: where it is registered, what its names are like, and on what its first trial runs."""

    registry: str
    kinds: str
    module: str
    suffix: str
    guide: str
    needs: str
    metric: str
    baseline: str
    scale: str = "a tiny CLIP on 1,242 handwritten digits of 32 px, 200 steps of 64 pairs"
    better: str = "higher"


ACCURACY = "accuracy of naming held-out digits, percentage points"
KINDS = {
    "objective": Kind(
        "tether.losses.OBJECTIVES", "objectives", "loss", "Loss", "objectives.md", "pairs", ACCURACY, "CLIP's loss"
    ),
    "term": Kind(
        "tether.training.terms.TERMS", "terms", "term", "Term", "steps.md", "pairs", ACCURACY, "CLIP's loss alone"
    ),
    "view": Kind(
        "tether.training.steps.views.VIEWS", "views", "view", "View", "steps.md",
        "pairs", ACCURACY, "images as they are",
    ),
    "head": Kind(
        "tether.tasks.classify.CLASSIFIER_HEADS", "classifier_heads", "head", "Classifier", "classification.md",
        "a trained CLIP", ACCURACY, "the zero-shot classifier of the same model",
    ),
    "recipe": Kind(
        "tether.adaptation.recipes.RECIPES", "recipes", "recipe", "Recipe", "adaptation.md",
        "a trained CLIP", ACCURACY, "a linear probe of the same four images a class",
    ),
    "clipper": Kind(
        "tether.optim.clip.CLIPPERS", "clippers", "clipper", "Clipper", "stability.md", "gradients",
        "validation cross-entropy, nats per character", "the best of four constant limits on the global norm",
        "character model of 0.1 M parameters, 300 steps, loss times 0.01, five planted bad batches", "lower",
    ),
    "probe": Kind(
        "tether.evaluate.inspect.PROBES", "probes", "probe", "Probe", "inspection.md", "a trained CLIP",
        "the probe's first figure, TO FILL IN: its unit", "the same model with random weights",
    ),
}  # fmt: skip


def main(given: list[str] | None = None) -> None:
    """Write the files of one paper into this checkout; nothing stays written when anything is amiss."""
    parser = argparse.ArgumentParser(prog="new_paper", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("slug", help="lower-case words with hyphens, such as gate-norm")
    parser.add_argument("--kind", required=True, choices=KINDS, help="what its one new idea is; see CONTRIBUTING.md")
    parser.add_argument("--title", default="TO FILL IN", help="of the paper, as published")
    parser.add_argument("--class", dest="name", help="of the part; otherwise made of the slug")
    parser.add_argument("--golden", action="store_true", help="also a test that reads figures of the official code")
    args = parser.parse_args(given)
    root, kind, stem = HERE.parents[1], KINDS[args.kind], args.slug.replace("-", "_")
    name = args.name or "".join(word.capitalize() for word in args.slug.split("-")) + kind.suffix
    code = root / "src" / "tether"
    if problem := _problem(args.slug, name, kind, code) or _problem_of_title(args.title):
        parser.error(problem)
    home, _, registry = kind.registry.rpartition(".")
    part = f"tether.methods.{stem}.{kind.module}.{name}"
    words = vars(kind) | {"slug": args.slug, "stem": stem, "key": stem, "name": name, "kind": args.kind, "part": part}
    words |= {"home": home, "registry": registry, "title": args.title.replace('"', "'")}
    folder, papers = code / "methods" / stem, root / "reproduction" / "tether_lab" / "papers"
    templates = {
        folder / f"{kind.module}.py": f"parts/{args.kind}.py",
        folder / "method.toml": "method.toml",
        folder / "__init__.py": "init.py",
        root / "tests" / "methods" / stem / f"test_{stem}_{kind.module}.py": "test.py",
        papers / stem / "study.py": "study.py",
    }
    if args.golden:
        templates[root / "tests" / "golden" / f"test_{stem}.py"] = "golden.py"
    files = {path: _filled(f"{template}.template", words) for path, template in templates.items()}
    files[folder / "__init__.pyi"] = f"from .{kind.module} import {name} as {name}\n"
    listed = code / "methods" / "slugs.txt"
    slugs = {*listed.read_text(encoding="utf-8").split(), args.slug}
    files[listed] = "".join(f"{slug}\n" for slug in sorted(slugs))
    for path in files.keys() - {listed}:
        if path.exists():
            parser.error(f"{path} exists already; choose another slug or remove it")
    with _taken_back_unless_all_is_well([*files, root / "README.md"]):
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(f"wrote {path.relative_to(root).as_posix()}")
        subprocess.run([sys.executable, "-c", UP_TO_DATE, root], check=True)
        print("updated README.md, which counts the papers")
        python = [path for path in files if path.suffix == ".py"]  # a long name breaks a line, or changes an order
        for task in (["check", "--fix", "--select", "I"], ["format"]):
            subprocess.run([sys.executable, "-m", "ruff", *task, "--quiet", *python], check=True, cwd=root)
    print(f"it runs: tether-lab reproduce {args.slug} --smoke\nand what it lacks: make paper SLUG={args.slug}")


@contextmanager
def _taken_back_unless_all_is_well(paths: list[Path]) -> Iterator[None]:
    """Whatever goes wrong, Ctrl-C too, leaves these files, and the folders that are made for them, as they were."""
    before = {path: path.read_bytes() if path.exists() else None for path in paths}
    made = {folder for path in paths for folder in path.parents if not folder.exists()}
    try:
        yield
    except BaseException as error:
        for path, content in before.items():
            if content is not None:
                path.write_bytes(content)
            else:
                path.unlink(missing_ok=True)
        for folder in sorted(made):  # with what Python compiled there
            shutil.rmtree(folder, ignore_errors=True)
        said = str(error) or type(error).__name__
        print(f"new_paper: {said}\nall that was written has been taken back", file=sys.stderr)
        raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from error


def _problem_of_title(title: str) -> str:
    """Why a title cannot stand in a method.toml, or nothing."""
    if not title.strip() or not title.isprintable() or "\\" in title:
        return f"--title: expected one line without control characters and backslashes, got {title!r}"
    return ""


def _problem(slug: str, name: str, kind: Kind, code: Path) -> str:
    """Why a paper of these names cannot be made, or nothing."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug):
        return f"slug: expected lower-case words joined by hyphens, such as gate-norm, got {slug!r}"
    if len(slug) > LONGEST:
        return f"slug: expected at most {LONGEST} characters, got {len(slug)}"
    if keyword.iskeyword(slug):
        return f"slug: {slug!r} is a word of Python, which names no folder of code; choose another"
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        return f"--class: expected a name such as GateNorm, got {name!r}"
    spec = find_spec("tether")
    if spec is None or not spec.origin or Path(spec.origin).parent != code:
        return f"tether is imported from {spec and spec.origin}, not from {code}; take this checkout's .venv/bin/python"
    if (folder := code / "methods" / slug.replace("-", "_")).exists():
        return f"{folder} exists already; choose another slug or remove it"
    for path in sorted(code.rglob("*.py")):
        if re.search(rf"^class {name}\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            return f"{path} has a class {name} already, and a name stands for one; give another with --class"
    if slug.replace("-", "_") in resolve_name(kind.registry):
        return f"{kind.registry} has a {slug.replace('-', '_')!r} already; choose another slug"
    return ""


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((HERE / template).read_text(encoding="utf-8")).substitute(words)


if __name__ == "__main__":
    main()
