"""Only a log that Tether wrote may go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tether.core.errors import InputError
from tether.data.bad_rows import BadRows
from tether.data.bad_rows_log import check_log, kept_if_refused


@pytest.mark.parametrize("content", ["", '{"source": "x", "ke', '{"source": "x", "key": "a", "error": "b"}\n{"so'])
def test_ours(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.bad_rows.jsonl"
    check_log(path)
    path.write_text(content)
    check_log(path)
    BadRows("source", path=path).add("key", "why")
    check_log(path)


@pytest.mark.parametrize("content", ["a letter\n", '{"source": "x", "key": "a"}\n', "[1]\n", '{"sourc\n', "\xff\xfe"])
def test_others(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.bad_rows.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="is no log of bad rows that Tether wrote"):
        check_log(path)


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_no_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.bad_rows.jsonl"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        os.mkfifo(path)
    with pytest.raises(InputError, match="is no log"):
        check_log(path)


def test_a_refusal_leaves_the_log_of_the_run_before(tmp_path: Path) -> None:
    path = tmp_path / "x.bad_rows.jsonl"
    path.write_text("before")
    for error in (InputError, KeyError):
        with pytest.raises(error), kept_if_refused(path):  # noqa: PT012 (the block is what is tried)
            path.write_text("new")
            raise error("no")
        assert path.read_text() == ("before" if error is InputError else "new")
