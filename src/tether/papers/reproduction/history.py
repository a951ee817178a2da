"""Whether a claim stood in the repository before the stored run: read from git, never typed."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.papers.reproduction import source_index

CHANGED_SOURCE = "+"
"""Ends a commit's name where files of the source had changed since."""


def is_commit(name: str) -> bool:
    """Whether this names a commit, as ``commit`` gives it for source without changes."""
    return re.fullmatch(r"[0-9a-f]{12}", name) is not None


def commit(*folders: str) -> str:
    """The checkout's commit, with ``+`` if files of src or the folders are changed or new; ``unknown`` without git."""
    root = source_index.checkout()
    if root is None:
        return "unknown"
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=normal", "--", "src", *folders).strip()
        return name + (CHANGED_SOURCE if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def fixed_before(slug: str, result: Mapping[str, Any]) -> bool:
    """Whether every seed, the fresh ones too, was measured from a commit whose card makes today's claim, word for word.

    False where the source had changed since that commit, where the commit is not in this repository, and outside a
    checkout.

    Args:
        slug: of the paper.
        result: as ``results/<slug>.json`` holds it.
    """
    root, card = source_index.checkout(), source_index.card_path(slug)
    if root is None or not card.is_file():
        return False
    today = _claim_in(card.read_text(encoding="utf-8"))
    name = card.relative_to(root).as_posix()
    runs = [*result["seeds"], *(result["fresh"] or {"seeds": []})["seeds"]]
    return all(_claim_at(root, commit, name) == today for commit in {run["commit"] for run in runs})


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
