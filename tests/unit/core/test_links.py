"""Links and pipes under known names in somebody else's folder, which lead writes elsewhere or make them wait."""

import contextlib
import os

import pytest

from tether.core.atomic_io import open_append, remove_leftovers, write_text
from tether.core.errors import InputError
from tether.core.locks import OWNER, locked
from tether.data.bad_rows import BadRows
from tether.train.metrics_log import Logbook


@pytest.fixture
def precious(tmp_path):
    path = tmp_path / "outside" / "precious"
    path.parent.mkdir()
    path.write_text("no newline")
    return path


@pytest.mark.parametrize("name", [OWNER, "checkpoints", "metrics.jsonl", "anything"])
def test_an_output_with_a_link_in_it_is_refused(tmp_path, precious, name):
    out = tmp_path / "run"
    out.mkdir()
    (out / name).symlink_to(precious.parent if name == "checkpoints" else precious)
    with pytest.raises(InputError, match=rf"{name}: a link"), locked(out, purpose="tether train"):
        pass
    assert precious.read_text() == "no newline"


def test_the_output_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    with locked(tmp_path / "out", purpose="tether train"):
        (tmp_path / "out" / "x").write_text("")
    assert (tmp_path / "real" / "x").exists()


@pytest.mark.parametrize("kind", ["link", "dangling", "pipe"])
def test_records_are_appended_to_regular_files_alone(tmp_path, precious, kind):
    path = tmp_path / "records.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(precious if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(InputError, match="a link, a pipe or a device"):
        open_append(path)
    with pytest.raises(InputError):
        BadRows("s", path=path).add("key", "why")
    with contextlib.suppress(InputError):  # a link may be replaced, but is not followed
        Logbook(path, steps_done=0).write({"step": 0})
    assert precious.read_text() == "no newline"
    assert not (tmp_path / "nowhere").exists()


def test_a_pipe_named_like_a_leftover_does_not_stop_a_write(tmp_path):
    os.mkfifo(tmp_path / ".a.txt.abcdefgh.tmp")
    os.mkfifo(tmp_path / OWNER)
    remove_leftovers(tmp_path)
    write_text(tmp_path / "a.txt", "written")
    assert (tmp_path / "a.txt").read_text() == "written"
    with pytest.raises(InputError, match="a pipe"), locked(tmp_path, purpose="tether train"):
        pass
