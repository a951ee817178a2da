"""Atomic files and draws by key."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest

from tether.core.atomic_io import atomic_path, cache_dir, read_json, write_json, write_text
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int, hash_uniform


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


def test_nothing_is_visible_before_the_end(tmp_path):
    path = tmp_path / "value.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_an_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "value.txt"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize(
    ("content", "match"), [(b"{", "not valid JSON"), (b"\xff\xfe{", "not UTF-8 text"), (b"", "not valid JSON")]
)
def test_a_broken_json_file_is_named(tmp_path, content, match):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=match) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_json_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")


def test_a_value_json_cannot_hold_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        write_json(tmp_path / "value.json", {"a": object()})
    assert list(tmp_path.iterdir()) == []


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("TETHER_CACHE")
    assert cache_dir().name == "tether"


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
