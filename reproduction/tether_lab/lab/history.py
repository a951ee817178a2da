"""What git knows of results: today's commit, whether a claim stood before its seeds ran, fingerprints at a commit."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.core.errors import InputError
from tether.core.fingerprint import SourceTrees
from tether.core.method_files import FILE, read_method
from tether_lab.lab import source_index

CHANGED_SOURCE = "+"
"""Ends a commit's name where files of the source had changed since."""


def is_commit(name: str) -> bool:
    """Whether this names a commit, as ``commit`` gives it for source without changes."""
    return re.fullmatch(r"[0-9a-f]{12}", name) is not None


def commit(*folders: str) -> str:
    """The checkout's commit, with ``+`` if files of the source or the folders are changed; ``unknown`` without git."""
    root = source_index.checkout()
    if root is None:
        return "unknown"
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(
            root, "status", "--porcelain", "--untracked-files=normal", "--", *source_index.ROOTS, *folders
        ).strip()
        return name + (CHANGED_SOURCE if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def was_fixed_before(slug: str, result: Mapping[str, Any]) -> bool:
    """Whether every seed, the fresh ones too, was measured from a commit whose card makes today's claim, word for word.

    False where the source had changed since that commit, where the commit is not in this repository, and outside a
    checkout.

    Args:
        slug: of the paper.
        result: as a paper's ``result.json`` holds it.
    """
    root, card = source_index.checkout(), source_index.card_path(slug)
    if root is None or not card.is_file() or not card.is_relative_to(root):
        return False
    today = _claim_in(card.read_text(encoding="utf-8"))
    names = (card.relative_to(root).as_posix(), LAYOUTS[-1].card.format(stem=slug.replace("-", "_")))
    runs = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    return all(_claim_at(root, commit, names) == today for commit in {run["commit"] for run in runs})


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a commit has the cards.

    Attributes:
        packages: folders from the root.
        card: file of a paper, with ``{stem}`` for its slug.
        lab: file of the lab.
        leave_out: files that decide nothing, besides those of ``core``.
    """

    packages: tuple[str, ...]
    card: str
    lab: str
    leave_out: tuple[str, ...]


_LABORATORY = "reproduction/tether_lab"
_PAPERS = "src/tether/papers"
LAYOUTS = (
    Layout(
        ("src/tether", _LABORATORY), f"{_LABORATORY}/papers/{{stem}}/study.py", f"{_LABORATORY}/lab/lab.py",
        (f"{_LABORATORY}/lab/card.py", f"{_LABORATORY}/lab/model_cache.py"),
    ),
    Layout(
        ("src/tether",), f"{_PAPERS}/cards/{{stem}}.py", f"{_PAPERS}/reproduction/lab.py",
        ("src/tether/core/card.py", f"{_PAPERS}/reproduction/model_cache.py"),
    ),
)  # fmt: skip
"""Today's, then that of commits before the studies left the package."""


@contextlib.contextmanager
def fingerprints_at(name: str) -> Iterator[Callable[[str], str]]:
    """What gives the fingerprint of a paper by its slug, with the parts that it has there, as a commit has it.

    Raises:
        InputError: no such commit here.
    """
    root = source_index.need_checkout("reading a commit's source")
    try:
        there = _git(root, "ls-tree", "--name-only", name, "--", *source_index.ROOTS).split()
        done = subprocess.run(["git", "-C", str(root), "archive", name, *there], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputError(f"{name}: no such commit in {root}") from None
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
        layout = next(one for one in LAYOUTS if Path(folder, one.lab).is_file())
        sources = SourceTrees(
            *(Path(folder, package) for package in layout.packages),
            leave_out=[Path(folder, one) for one in (*layout.leave_out, *source_index.CORE_LEFT_OUT)],
            studies=[Path(folder, layout.lab).parents[1]],
        )

        def fingerprint(slug: str) -> str:
            stem = slug.replace("-", "_")
            card, method = Path(folder, layout.card.format(stem=stem)), Path(folder, "src/tether/methods", stem, FILE)
            if method.is_file():
                parts = list(read_method(method, package="").values["parts"])
            else:
                nodes = ast.walk(ast.parse(card.read_text(encoding="utf-8")))
                named = next(node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "parts")
                parts = ast.literal_eval(named)
            homes = filter(None, map(sources.home, parts))
            return sources.fingerprint([card, Path(folder, layout.lab), *homes])

        yield fingerprint


@functools.cache
def _claim_at(root: Path, commit: str, names: tuple[str, ...]) -> str | None:
    """Of the first of the names that the commit has."""
    for name in names if is_commit(commit) else ():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return _claim_in(_git(root, "show", f"{commit}:{name}"))
    return None


_DEFAULTS = (("ours", "ours"), ("better", "higher"))
"""Of ``Condition`` and ``Claim``, which cards spelt out before these had them."""


def _claim_in(text: str) -> str:
    """What a card claims, whether or not it spells out defaults, and the module's constants that it may name."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [one for one in node.keywords if (one.arg, _text(one.value)) not in _DEFAULTS]
    claims = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "claim"]
    constants = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and _plain(node)]
    return "\n".join(ast.dump(node) for node in (*claims, *constants))


def _text(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def _plain(assigned: ast.stmt) -> bool:
    return not any(isinstance(node, ast.Call) for node in ast.walk(assigned))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout
