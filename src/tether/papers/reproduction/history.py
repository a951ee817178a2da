"""Whether a claim stood in the repository before its seeds were measured: read from git, never typed."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.papers.reproduction import source_index

CHANGED_SOURCE = "+"
"""Ends a commit's name where files of the source had changed since."""


def commit() -> str:
    """The checkout's commit, with ``+`` when files are changed; ``unknown`` outside git."""
    root = source_index.checkout()
    if root is None:
        return "unknown"
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "src").strip()
        return name + (CHANGED_SOURCE if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def fixed_before(slug: str, result: Mapping[str, Any]) -> bool:
    """Whether every seed was measured from a commit whose card makes today's claim, word for word.

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
    return all(_claim_at(root, commit, name) == today for commit in {run["commit"] for run in result["seeds"]})


@functools.cache
def _claim_at(root: Path, commit: str, name: str) -> str | None:
    if commit.endswith(CHANGED_SOURCE):
        return None
    try:
        return _claim_in(_git(root, "show", f"{commit}:{name}"))
    except (OSError, subprocess.CalledProcessError):
        return None


def _claim_in(text: str) -> str:
    """What a card claims, and the constants of its module that the claim may name."""
    tree = ast.parse(text)
    claims = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "claim"]
    constants = [node for node in tree.body if isinstance(node, ast.Assign) and _plain(node.value)]
    return "\n".join(ast.dump(node) for node in (*claims, *constants))


def _plain(value: ast.expr) -> bool:
    return not any(isinstance(node, ast.Call) for node in ast.walk(value))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout
