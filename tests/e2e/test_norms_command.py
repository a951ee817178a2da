"""``tether norms``: what an option that does nothing is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (("normbank", "bank.csv", "--trained", "head", "--head", "mlp"), "'--head': does nothing with --trained"),
        (("normbank", "bank.csv", "--trained", "head", "--test", 0.5), "'--test': does nothing with --trained"),
        (("egonormia", "made", "--head", "mlp"), "'--head': does nothing with egonormia"),
        (("egonormia", "made", "--trained", "head"), "'--trained': does nothing with egonormia"),
    ],
)
def test_options_that_do_nothing_are_refused(tmp_path: Path, call: Any, given: tuple[Any, ...], refused: str) -> None:
    said = call("norms", *given, "--out", tmp_path / "out", code=2).err
    assert refused in " ".join(said.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
