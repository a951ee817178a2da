"""A place where nothing can be written is refused before the work; a lost output ends in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tether import cli
from tether.core.atomic_io import write_text
from tether.core.errors import InputError
from tether.core.outputs import check_file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "expected the name of a file"),
        ("folder", "expected the name of a file"),
        ("pipe", "expected the name of a file"),
        ("file/x.csv", "is a file, not a folder"),
        ("file/deep/x.csv", "is a file, not a folder|not a directory"),
        ("a" * 300, "name too long"),
        ("half\ud800", "surrogates not allowed"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=f"--out: .*({message})"):
        check_file(tmp_path / name, where="--out")
    check_file(tmp_path / "new" / "x.csv", where="--out")
    check_file(tmp_path / "file", where="--out")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_device_or_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file, so nothing is written there"):
        write_text(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()


def tether(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tether", *arguments], stderr=subprocess.PIPE, text=True, check=False, **options
    )


@pytest.mark.parametrize("arguments", [("--help",), ("where", "zclip")])
def test_an_output_that_takes_no_more_is_one_line(arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()  # the end that is read from takes nothing
    done = tether(*arguments, stdout=read)
    os.close(read)
    os.close(write)
    assert done.returncode == 2
    assert re.fullmatch(r"tether: (standard output: )?Bad file descriptor\n", done.stderr)


def test_letters_that_a_terminal_does_not_know_are_escaped() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1"}
    done = tether("where", "a 😀 paper", stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 2
    assert "a \\U0001f600 paper" in done.stderr
    code = "from tether.cli import main; import tether.cli.where as w; w.command = lambda: w.say('😀'); main(['where'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "\\U0001f600\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("half a file"), "tether: half a file\n"),
        (OSError(5, "Input/output error"), "tether: Input/output error\n"),
        (MemoryError("Unable to allocate 9 TiB"), "tether: out of memory: Unable to allocate 9 TiB\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory\nmore"), "tether: out of memory: DefaultCPUAllo"),
    ],
)
def test_what_a_machine_lacks_is_one_line(error: Exception, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(cli.typer.Exit) as ended, cli._one_message():
        raise error
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err.startswith(message)
