"""``tether norms``: columns of other names, and what an option that does nothing is answered with."""

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
        (("egonormia", "made", "--columns", "a=b"), "'--columns': does nothing with egonormia"),
        (("normdial", "made", "--columns", "a=b"), "--columns: only a file of normbank has columns"),
        (("normbank", "bank.csv", "--columns", "setting"), "'--columns': expected ours=theirs, each of ours once"),
        (("normbank", "made", "--judged-by", "me"), "--judged-by: sentences of ours have their labels by a grammar"),
        (("egonormia", "made", "--trained", "head"), "'--trained': does nothing with egonormia"),
    ],
)
def test_options_that_do_nothing_are_refused(tmp_path: Path, call: Any, given: tuple[Any, ...], refused: str) -> None:
    said = call("norms", *given, "--out", tmp_path / "out", code=2).err
    assert refused in " ".join(said.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_table_of_other_columns_with_who_judged(tmp_path: Path, call: Any) -> None:
    file = tmp_path / "mine.csv"
    lines = [f"{place},{what},,{label}" for place in "abcdefgh" for what, label in (("sing", 0), ("hum", 1))]
    file.write_text("place,What,context,1\n" + "\n".join(lines) + "\n")
    columns = "setting=place, behavior=What,constraints=context,norm=1"
    said = call("norms", "normbank", file, "--columns", columns, "--judged-by", "my aunt", "--out", tmp_path / "out")
    assert "who judged: my aunt" in said.err
    assert "| who judged | my aunt |" in (tmp_path / "out" / "report.md").read_text()
