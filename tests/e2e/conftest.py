"""The command line in this process, for torch and the other libraries take seconds to import in another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tether.cli import main


class Said(NamedTuple):
    """What a verb printed."""

    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``call(*arguments, code=0)``: run a verb that ends with this code and shows no traceback."""

    def run(*arguments: object, code: int = 0) -> Said:
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:  # main replaces showwarning
            main(list(map(str, arguments)))
        said = Said(*capfd.readouterr())
        assert (ended.value.code or 0) == code, said
        assert "Traceback" not in said.err
        return said

    return run
