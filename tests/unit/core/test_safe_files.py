import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tether.core.atomic_io import (
    atomic_path,
    is_temporary,
    parse_json,
    read_bytes,
    read_json,
    remove_leftovers,
    write_text,
)
from tether.core.errors import InputError, LockedError, WriteError
from tether.core.locks import locked
from tether.core.model_digest import file_digest
from tether.core.printable import csv_cell, printable
from tether.core.yaml_files import parse_yaml, read_yaml

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
        with pytest.raises(InputError, match="not a regular file"):
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
