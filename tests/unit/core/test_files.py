"""Files written atomically, read with limits and never through links; locks, draws by key, text safe to show."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from tether.core.atomic_io import (
    atomic_folder,
    atomic_path,
    check_file,
    is_temporary,
    open_append,
    parse_json,
    read_bytes,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)
from tether.core.errors import InputError, LockedError, WriteError
from tether.core.hash_rng import hash_int, hash_uniform
from tether.core.locks import OWNER, locked
from tether.core.model_digest import file_digest
from tether.core.printable import csv_cell, printable
from tether.core.tensor_file import sort_metadata
from tether.core.yaml_files import parse_yaml, read_yaml
from tether.data.bad_rows import BadRows
from tether.training.metrics_log import Logbook


def test_a_file_is_whole_or_the_old_one(tmp_path):
    path = tmp_path / "deep" / "value.json"
    write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
        fail(temporary)
    assert read_json(path) == {"a": 1}
    assert [item.name for item in path.parent.iterdir()] == ["value.json"]


def test_nothing_is_visible_before_the_end_and_nothing_stays_of_what_stops(tmp_path):
    path = tmp_path / "value.txt"
    with pytest.raises(KeyboardInterrupt), atomic_path(path):
        raise KeyboardInterrupt
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert list(tmp_path.iterdir()) == []
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "value.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "value.txt").stat().st_mode) == 0o640


def test_text_is_utf_8_and_json_ends_with_a_newline(tmp_path):
    write_json(tmp_path / "value.json", {"name": "Äpfel 🍎"})
    raw = (tmp_path / "value.json").read_bytes()
    assert "Äpfel 🍎".encode() in raw
    assert raw.endswith(b"}\n")


def test_draws_are_the_published_hash():
    # BLAKE2b-64 of b"0\0\0row-1", little-endian: must never change, kept rows depend on it
    import hashlib

    expected = int.from_bytes(hashlib.blake2b(b"0\x00\x00row-1", digest_size=8).digest(), "little")
    assert hash_int("row-1") == expected
    assert hash_uniform(["row-1"])[0] == (expected >> 11) / 2**53


def test_draws_depend_on_key_seed_and_salt_only():
    keys = [f"row-{i}" for i in range(1000)]
    whole = hash_uniform(keys, seed=3, salt="keep")
    shuffled = np.random.default_rng(0).permutation(1000)
    assert np.array_equal(hash_uniform([keys[i] for i in shuffled], seed=3, salt="keep"), whole[shuffled])
    assert not np.array_equal(hash_uniform(keys, seed=4, salt="keep"), whole)
    assert not np.array_equal(hash_uniform(keys, seed=3, salt="drop"), whole)


def test_draws_are_uniform():
    draws = np.sort(hash_uniform([str(i) for i in range(20_000)]))
    assert draws[0] >= 0
    assert draws[-1] < 1
    distance = np.abs(draws - (np.arange(20_000) + 0.5) / 20_000).max()
    assert distance < 1.95 / np.sqrt(20_000)  # Kolmogorov-Smirnov at 0.1 %
    assert hash_uniform([]).shape == (0,)


def test_keys_do_not_run_into_seeds_and_salts():
    assert hash_int("b", salt="a") != hash_int("ab", salt="")
    assert hash_int("1", seed=1) != hash_int("", seed=11)
    assert 0 <= hash_int("汉字 🍎") < 2**64


HOLDS = """
import sys, time
from pathlib import Path
from tether.core.atomic_io import atomic_path
from tether.core.locks import locked
with locked(Path(sys.argv[1]), purpose="tether test"), atomic_path(Path(sys.argv[1]) / "out.txt") as path:
    path.write_text("half")
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


class TestKilledWriters:
    def test_the_second_is_refused_with_the_first_ones_process_and_may_follow_its_death(self, tmp_path):
        with holder(tmp_path) as process:
            with (
                pytest.raises(LockedError, match=rf"process {process.pid} on .* \(tether test\)"),
                locked(tmp_path, purpose="second"),
            ):
                pass
            process.kill()
            process.wait()
            with locked(tmp_path, purpose="third"):
                pass

    def test_a_link_to_nothing_is_no_folder_to_lock(self, tmp_path):
        out = tmp_path / "out"
        out.symlink_to("gone")
        with pytest.raises(InputError, match="out: a link to gone, which is missing"), locked(out, purpose="test"):
            pass

    def test_the_temporary_file_of_a_dead_writer_goes_and_that_of_a_living_one_stays(self, tmp_path):
        with holder(tmp_path) as process:
            remove_leftovers(tmp_path)
            assert len([path for path in tmp_path.iterdir() if is_temporary(path)]) == 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            write_text(tmp_path / "other.txt", "of another name")
            assert any(map(is_temporary, tmp_path.iterdir()))
            write_text(tmp_path / "out.txt", "whole")
        assert not any(map(is_temporary, tmp_path.iterdir()))
        assert (tmp_path / "out.txt").read_text() == "whole"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
    def test_a_full_disk_is_one_error_that_names_the_file(self, tmp_path):
        write_text(tmp_path / "a", "before")

        def fill() -> None:
            with atomic_path(tmp_path / "a") as temporary:
                temporary.unlink()
                temporary.symlink_to("/dev/full")
                temporary.write_text("x" * 100_000)

        with pytest.raises(WriteError, match=r"a: could not be written: No space left .* is unchanged"):
            fill()
        assert (tmp_path / "a").read_text() == "before"
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def test_a_device_is_never_replaced(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file, so nothing is written there"):
            write_text(tmp_path / "pipe", "x")
        assert (tmp_path / "pipe").is_fifo()


class TestReading:
    @pytest.mark.parametrize("name", ["nul\0", "x" * 5000, "missing", ".", "\ud800"])
    def test_names_that_no_file_has(self, tmp_path, name):
        with pytest.raises(InputError):
            read_bytes(str(tmp_path) + "/" + name, limit=10)

    def test_pipes_and_devices_are_refused_and_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path / "pipe", Path("/dev/zero")):
            with pytest.raises(InputError, match="not a regular file"):
                read_bytes(path, limit=10)
            with pytest.raises(InputError, match="not a regular one"):
                file_digest(path)

    def test_a_file_over_the_limit_is_refused(self, tmp_path):
        (tmp_path / "a").write_bytes(b"12345")
        assert read_bytes(tmp_path / "a", limit=5) == read_bytes(tmp_path / "a", limit=2**60) == b"12345"
        with pytest.raises(InputError, match="5 bytes; at most 4"):
            read_bytes(tmp_path / "a", limit=4)

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, "9" * 5000, '{"a": "\\ud800"}', "{", "", '{"a": ' * 100_000, b"\xff\xfe\x00"]
    )
    def test_json_that_is_none(self, text):
        with pytest.raises(InputError, match="here"):
            parse_json(text, where="here")

    @pytest.mark.parametrize(
        ("content", "match"),
        [(b"{", "not valid JSON"), (b"\xff\xfe{", "not UTF-8 text"), (b"", "not valid JSON"), (None, "no such file")],
    )
    def test_a_json_file_that_is_none_is_named(self, tmp_path, content, match):
        if content is not None:
            (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.json: {match}"):
            read_json(tmp_path / "a.json")

    def test_json_keeps_what_is_sound(self, tmp_path):
        (tmp_path / "a.json").write_text('{"a": "\\ud83d\\ude00", "b": 1e3}')
        assert read_json(tmp_path / "a.json") == {"a": "\U0001f600", "b": 1000.0}


class TestYaml:
    @pytest.mark.parametrize(
        "text",
        [
            "!!int x",
            "!!python/object/apply:os.system [true]",
            "a: &a [*a]",
            "[" * 50_000,
            "9" * 5000,
            "a: b: c",
            "? [1, 2]\n: 3",
            "\x00",
            "!!binary aGVsbG8=",
            "!!set {a, b}",
            "!!timestamp 2020-01-01",
            '"\\ud800"',
            '"\\0"',
            "0x" + "f" * 9000,
            "[" * 65 + "]" * 65,
        ],
    )
    def test_is_refused(self, text):
        with pytest.raises(InputError, match="here"):
            parse_yaml(text, where="here")

    def test_aliases_that_multiply_are_refused(self):
        levels = ["l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
        levels += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 10)]
        with pytest.raises(InputError, match="every alias written out"):
            parse_yaml("\n".join(levels), where="here")

    def test_a_date_stays_text_and_an_alias_works(self, tmp_path):
        (tmp_path / "a.yaml").write_text("day: 2020-01-01\na: &a {lr: 1.0e-3}\nb: *a\n")
        assert read_yaml(tmp_path / "a.yaml") == {"day": "2020-01-01", "a": {"lr": 1e-3}, "b": {"lr": 1e-3}}


class TestPrintable:
    def test_control_characters_are_escaped_and_emoji_stay(self):
        assert printable("\x1b]0;x\x07a\u202eb\nc\ud800") == "\\x1b]0;x\\x07a\\u202eb\\nc\\ud800"
        assert printable("line\nnext", keep="\n") == "line\nnext"
        assert printable("\U0001f468\u200d\U0001f692") == "\U0001f468\u200d\U0001f692"

    @pytest.mark.parametrize("text", ["=1+1", "+A1", "-A1", "@SUM(A1)", "\t=1", "\uff1d1", " =1", "-1+2"])
    def test_formulas_are_guarded(self, text):
        assert csv_cell(text) == f"'{text}"

    @pytest.mark.parametrize("text", ["", "a=b", "-5", "+1.5e3", "3", json.dumps({"a": 1})])
    def test_other_cells_stay(self, text):
        assert csv_cell(text) == text


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
def test_a_file_that_cannot_be(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=f"--out: .*({message})"):
        check_file(tmp_path / name, where="--out")
    check_file(tmp_path / "new" / "x.csv", where="--out")
    check_file(tmp_path / "file", where="--out")
    assert len(list(tmp_path.iterdir())) == 3


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path):
    path, written = tmp_path / "a.safetensors", set()
    said = {name: f'{name}: "\u00e4\n"' for name in "gfedcba"}
    for _ in range(10):
        save_file({"b": np.arange(3.0), "a": np.ones((2, 2))}, path, metadata=said)
        sort_metadata(path)
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == said
        assert file.get_tensor("b").tolist() == [0, 1, 2]


def test_errors_show_names_of_files_escaped(tmp_path):
    path = tmp_path / "a\x1b[2J\u202eb.json"
    path.write_text("{")
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert r"a\x1b[2J\u202eb.json" in str(caught.value)
    for error in (WriteError(path, OSError(28, "No space")), LockedError(f"{path}: held")):
        assert "\x1b" not in str(error)
        assert "\u202e" not in f"{error} {error!r}"


def test_a_folder_is_replaced_whole(tmp_path):
    target = tmp_path / "words[1]"
    for text in ("first", "second"):
        with atomic_folder(target, replace=True) as new:
            (new / "a.txt").write_text(text)
        assert (target / "a.txt").read_text() == text
    with contextlib.suppress(KeyError), atomic_folder(target, replace=True) as new:
        (new / "a.txt").write_text("third")
        raise KeyError
    assert (target / "a.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["words[1]"]


def test_a_folder_of_somebody_elses_is_only_replaced_when_asked(tmp_path, monkeypatch):
    full, empty, link = (tmp_path / name for name in ("full", "empty", "link"))
    full.mkdir()
    (full / "precious").write_text("x")
    empty.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(empty)
    for folder, said in ((full, "is there already"), (full / "precious", "is there already"), (link, "is a link"),
                         (Path(), "this runs in"), (full / "precious" / "a", "could not be written"),
                         (tmp_path / ("a" * 300), "could not be written|no such file")):  # fmt: skip
        with pytest.raises((InputError, WriteError), match=said), atomic_folder(folder):
            pass
    assert [path.name for path in full.iterdir()] == ["precious"]
    monkeypatch.chdir(tmp_path)
    with atomic_folder(empty) as new:
        (new / "a.txt").write_text("a")
    assert (empty / "a.txt").read_text() == "a"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full", "link"]
    with pytest.raises(InputError, match="is there already"), atomic_folder(tmp_path / "slow"):
        (tmp_path / "slow" / "others").mkdir(parents=True)
    assert (tmp_path / "slow" / "others").exists()
    with pytest.raises(WriteError, match="No space"), atomic_folder(tmp_path / "new"):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("name", "inside"), [(".words-server", "a"), (".words-abcdefgh", "a"), (".words-2-abcdefgh", "new")]
)
def test_a_hidden_neighbour_of_a_like_name_stays(tmp_path, name, inside):
    (tmp_path / name / inside).mkdir(parents=True)
    with atomic_folder(tmp_path / "words"):
        pass
    assert (tmp_path / name / inside).is_dir()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_whose_write_was_killed_is_as_before_or_after(tmp_path, renames):
    """After no rename, the first or both of them; the next write cleans up and fails without a loss."""
    target = tmp_path / "words"
    target.mkdir()
    (target / "a.txt").write_text("before")
    script = f"""
import os
from pathlib import Path
from tether.core.atomic_io import atomic_folder
rename, done = Path.rename, []
def killed(self, other):
    if len(done) == {renames}:
        os._exit(9)
    done.append(1)
    return rename(self, other)
Path.rename = killed
with atomic_folder(Path({str(target)!r}), replace=True) as new:
    (new / "a.txt").write_text("after")
    if {renames} == 2:
        import shutil
        shutil.rmtree = lambda *a, **k: os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2 - (renames == 1)
    with pytest.raises(KeyError), atomic_folder(target, replace=True):
        raise KeyError
    assert (target / "a.txt").read_text() == ("after" if renames == 2 else "before")
    assert [path.name for path in tmp_path.iterdir()] == ["words"]
