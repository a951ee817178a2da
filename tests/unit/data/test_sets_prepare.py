"""A prepared set is whole or absent, whoever prepares it at the same time."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tether.data.sets.prepare import prepared


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    return tmp_path


def leftovers(cache: Path) -> list[Path]:
    return list(cache.rglob(".building-*"))


def test_it_is_built_once_and_then_found(cache: Path):
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "a.txt").write_text("whole")

    first = prepared("toy", key="v1", build=build)
    assert prepared("toy", key="v1", build=build) == first
    assert (first / "a.txt").read_text() == "whole"
    assert len(calls) == 1
    assert calls[0] != first
    assert not leftovers(cache)


def test_another_key_is_another_folder():
    folders = {
        prepared("toy", key=key, build=lambda folder: (folder / "a").write_text("x") and None) for key in ("1", "2")
    }
    assert len(folders) == 2


def test_a_failing_build_leaves_nothing_and_can_be_repeated(cache: Path):
    def fails(folder: Path) -> None:
        (folder / "half.npy").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        prepared("toy", key="v1", build=fails)
    assert not list((cache / "sets" / "toy").iterdir())
    assert prepared("toy", key="v1", build=lambda folder: (folder / "a").touch()).is_dir()


def test_a_key_cannot_leave_the_cache(cache: Path):
    folder = prepared("toy", key="../../outside", build=lambda folder: (folder / "a").touch())
    assert folder.parent == cache / "sets" / "toy"


def test_two_at_once_both_get_a_whole_folder(cache: Path):
    gate = threading.Barrier(2)
    found: list[tuple[Path, str]] = []

    def prepare(who: str) -> None:
        def build(folder: Path) -> None:
            gate.wait(10)  # both are building before either is done
            for part in "abc":
                (folder / part).write_text(who)

        folder = prepared("toy", key="v1", build=build)
        found.append((folder, "".join((folder / part).read_text() for part in "abc")))

    threads = [threading.Thread(target=prepare, args=(who,)) for who in ("1", "2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert found[0] == found[1]
    assert found[0][1] in ("111", "222")
    assert not leftovers(cache)


def test_what_a_killed_process_left_is_no_set_and_is_swept_after_a_day(cache: Path):
    script = (
        "import os, pathlib, signal\n"
        "from tether.data.sets.prepare import prepared\n"
        "def build(folder):\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepared('toy', key='v1', build=build)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], env={**os.environ, "TETHER_CACHE": str(cache)}, check=False)
    assert run.returncode == -9
    (left,) = leftovers(cache)
    assert prepared("toy", key="v1", build=lambda folder: (folder / "a").touch()).is_dir()
    assert left.exists()  # it may belong to somebody who is still at work
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    prepared("toy", key="v2", build=lambda folder: (folder / "a").touch())
    assert not left.exists()
