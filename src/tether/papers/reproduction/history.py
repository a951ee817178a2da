"""Whether a claim stood in the repository before the stored run: read from git, never typed."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tether.core.errors import InputError
from tether.core.fingerprint import PACKAGE, SourceTrees
from tether.papers.reproduction import source_index

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
        result: as ``results/<slug>.json`` holds it.
    """
    root, card = source_index.checkout(), source_index.card_path(slug)
    if root is None or not card.is_file() or not card.is_relative_to(root):
        return False
    today = _claim_in(card.read_text(encoding="utf-8"))
    name = card.relative_to(root).as_posix()
    runs = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    return all(_claim_at(root, commit, name) == today for commit in {run["commit"] for run in runs})


@contextlib.contextmanager
def sources_at(name: str) -> Iterator[SourceTrees]:
    """The package as a commit of the checkout has it, for ``fingerprint_at``.

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
        yield source_index.sources(Path(folder, "src", PACKAGE.name))


def fingerprint_at(slug: str, *, sources: SourceTrees) -> str:
    """The fingerprint of a card, with the parts it names there, in the source that ``sources_at`` gives."""
    card = sources.packages["tether"] / source_index.card_path(slug).relative_to(PACKAGE)
    nodes = ast.walk(ast.parse(card.read_text(encoding="utf-8")))
    parts = next(node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "parts")
    return source_index.fingerprint_of(card, ast.literal_eval(parts), sources=sources)


@functools.cache
def _claim_at(root: Path, commit: str, name: str) -> str | None:
    if not is_commit(commit):
        return None
    try:
        return _claim_in(_git(root, "show", f"{commit}:{name}"))
    except (OSError, subprocess.CalledProcessError):
        return None


def _claim_in(text: str) -> str:
    """What a card claims, and the constants of its module that the claim may name."""
    tree = ast.parse(text)
    claims = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "claim"]
    constants = [node for node in tree.body if isinstance(node, (ast.Assign, ast.AnnAssign)) and _plain(node)]
    return "\n".join(ast.dump(node) for node in (*claims, *constants))


def _plain(assigned: ast.stmt) -> bool:
    return not any(isinstance(node, ast.Call) for node in ast.walk(assigned))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout
