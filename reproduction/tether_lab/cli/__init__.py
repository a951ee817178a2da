"""``tether-lab``: find papers, measure their claims again, write what is said of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from tether.cli import TRACEBACK, Verbs, root, run


class LabVerbs(Verbs):
    """The verbs of the laboratory."""

    package = "tether_lab.cli"
    folder = Path(__file__).parent
    order: ClassVar = {"Papers": ("list", "where", "missing", "reproduce", "bench", "docs")}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line; ends as ``tether.cli.main`` does."""
    run(root(LabVerbs, _about), argv, name="tether-lab")


def _about(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    """Find the papers that Tether holds, and check on this machine whether what they claim holds here."""
    if traceback:
        os.environ[TRACEBACK] = "1"
