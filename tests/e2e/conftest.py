"""The command line in this process, for torch and the other libraries take seconds to import in another."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tether import cli


class Said(NamedTuple):
    """What a verb printed."""

    out: str
    err: str


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``call(*arguments, code=0)``: run a verb that ends with this code and shows no traceback."""
    return _caller(cli.main, capfd)


@pytest.fixture
def lab(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """The same for the verbs of ``tether-lab``."""
    import tether_lab.cli

    return _caller(tether_lab.cli.main, capfd)


def _caller(main: Callable[[list[str]], None], capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*arguments: object, code: int = 0) -> Said:
        capfd.readouterr()
        with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:  # main replaces showwarning
            main(list(map(str, arguments)))
        said = Said(*capfd.readouterr())
        assert (ended.value.code or 0) == code, said
        assert "Traceback" not in said.err
        return said

    return run
