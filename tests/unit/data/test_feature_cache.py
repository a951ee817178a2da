"""The feature cache: written once, read by any number of processes, and whole whatever happens to its files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from tether.core.errors import InputError, WriteError
from tether.data.features.cache import ABOUT, KEYS, ROWS, FeatureCache, feature_key

pytestmark = pytest.mark.slow

WIDTH = 5


def rows(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def keys(count: int, *, first: int = 0) -> list[bytes]:
    return [feature_key(str(number)) for number in range(first, first + count)]


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "rows", digest="a", width=WIDTH)


def again(cache: FeatureCache) -> FeatureCache:
    return FeatureCache(cache.folder, digest=cache.digest, width=cache.width)


def test_rows_come_back_bit_for_bit_in_any_order(cache):
    cache.put(keys(7), rows(7))
    for seen in (cache, again(cache)):
        found, there = seen.get([*reversed(keys(7)), feature_key("other")])
        assert np.array_equal(found[:7], rows(7)[::-1])
        assert there.tolist() == [True] * 7 + [False]
        assert not found[7].any()


def test_a_key_is_written_once(cache):
    cache.put(keys(3), rows(3))
    cache.put([*keys(2), *keys(2)], rows(4, seed=1))
    assert (cache.folder / ROWS).stat().st_size == 3 * WIDTH * 4
    assert np.array_equal(again(cache).get(keys(3))[0], rows(3))


def test_a_further_key_costs_no_row(cache):
    cache.put(keys(3), rows(3), names=[(feature_key("name"), keys(3)[1])])
    cache.put([], rows(0), names=[(feature_key("later"), keys(3)[2])])
    assert np.array_equal(again(cache).get([feature_key("name"), feature_key("later")])[0], rows(3)[1:])
    assert (cache.folder / ROWS).stat().st_size == 3 * WIDTH * 4


def test_a_further_key_needs_a_row(cache):
    with pytest.raises(InputError, match="a row that is not there"):
        cache.put([], rows(0), names=[(feature_key("name"), feature_key("nothing"))])


def test_rows_of_another_width_are_refused(cache):
    with pytest.raises(InputError, match=r"expected \(2, 5\) rows, got \(2, 4\)"):
        cache.put(keys(2), np.zeros((2, 4), np.float32))


def test_only_the_rows_asked_for_are_read(tmp_path):
    wide = FeatureCache(tmp_path, digest="a", width=4096)
    for first in range(0, 2048, 256):
        wide.put(keys(256, first=first), np.ones((256, 4096), np.float32))
    code = (
        "import sys; from pathlib import Path; from tether.data.features.cache import FeatureCache, feature_key\n"
        "def resident(): return int(Path('/proc/self/statm').read_text().split()[2]) * 4096\n"
        "cache = FeatureCache(sys.argv[1], digest='a', width=4096); before = resident()\n"
        "assert cache.get([feature_key('2000')])[1].all(); print(resident() - before)"
    )
    seen = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(seen.stdout) < 2**23  # of 32 MB


@pytest.mark.parametrize("lost", [1, 4 * WIDTH, 4 * WIDTH + 3])
def test_rows_cut_short_are_not_found_and_made_again(cache, lost):
    cache.put(keys(4), rows(4))
    os.truncate(cache.folder / ROWS, 4 * 4 * WIDTH - lost)
    seen = again(cache)
    whole = (4 * 4 * WIDTH - lost) // (4 * WIDTH)
    assert seen.get(keys(4))[1].tolist() == [number < whole for number in range(4)]
    seen.put(keys(4), rows(4))
    assert np.array_equal(again(cache).get(keys(4))[0], rows(4))


def test_a_table_cut_short_loses_its_last_keys_alone(cache):
    cache.put(keys(4), rows(4))
    os.truncate(cache.folder / KEYS, (cache.folder / KEYS).stat().st_size - 5)
    seen = again(cache)
    assert seen.get(keys(4))[1].tolist() == [True, True, True, False]
    seen.put(keys(5), rows(5))
    assert np.array_equal(again(cache).get(keys(5))[0], rows(5))


@pytest.mark.parametrize("name", [ROWS, KEYS])
def test_damage_is_found_row_by_row(cache, name):
    cache.put(keys(4), rows(4))
    path = cache.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2 - 1] ^= 1
    path.write_bytes(data)
    seen = again(cache)
    found, there = seen.get(keys(4))
    assert there.sum() == 3
    assert np.array_equal(found[there], rows(4)[there])
    seen.put(keys(4), rows(4))
    assert np.array_equal(again(cache).get(keys(4))[0], rows(4))


def test_a_cache_of_another_model_is_left_alone_until_written_to_and_then_made_anew(cache):
    cache.put(keys(4), rows(4))
    other = FeatureCache(cache.folder, digest="b", width=WIDTH)
    assert not other.get(keys(4))[1].any()
    assert again(cache).get(keys(4))[1].all()
    with pytest.warns(UserWarning, match="of another model"):
        other.put(keys(1), rows(1, seed=1))
    assert np.array_equal(FeatureCache(cache.folder, digest="b", width=WIDTH).get(keys(2))[0][0], rows(1, seed=1)[0])
    assert not again(cache).get(keys(4))[1].any()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "tether-features-1"}'])
def test_a_description_that_says_something_else_is_of_another(cache, text):
    cache.put(keys(2), rows(2))
    (cache.folder / ABOUT).write_text(text)
    seen = again(cache)
    assert len(seen) == 0
    with pytest.warns(UserWarning, match="of another model"):
        seen.put(keys(2), rows(2, seed=3))
    assert np.array_equal(again(cache).get(keys(2))[0], rows(2, seed=3))


def test_files_without_a_description_are_nobodys(cache):
    cache.put(keys(2), rows(2))
    (cache.folder / ABOUT).unlink()
    seen = again(cache)
    assert not seen.get(keys(2))[1].any()
    seen.put(keys(2), rows(2, seed=3))
    assert np.array_equal(again(cache).get(keys(2))[0], rows(2, seed=3))


def test_what_another_object_added_is_not_written_twice(cache):
    other = again(cache)
    other.put(keys(3), rows(3))
    cache.put(keys(4), rows(4))
    assert (cache.folder / ROWS).stat().st_size == 4 * WIDTH * 4
    other.refresh()
    assert np.array_equal(other.get(keys(4))[0], cache.get(keys(4))[0])


def test_several_processes_write_at_once(cache):
    code = (
        "import sys, numpy as np; from tether.data.features.cache import FeatureCache, feature_key\n"
        f"cache = FeatureCache(sys.argv[1], digest='a', width={WIDTH})\n"
        "for first in range(0, 60, 5):\n"
        "    numbers = range(first, first + 10)\n"
        f"    rows = np.array([[n] * {WIDTH} for n in numbers], np.float32)\n"
        "    cache.put([feature_key(str(n)) for n in numbers], rows)"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(cache.folder)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    found, there = again(cache).get(keys(65))
    assert there.all()
    assert np.array_equal(found[:, 0], np.arange(65))
    assert (cache.folder / ROWS).stat().st_size == 65 * WIDTH * 4


def test_a_full_disk_leaves_nothing_half(tmp_path):
    code = (
        "import sys, numpy as np; from tether.core.errors import WriteError\n"
        "from tether.data.features.cache import FeatureCache, feature_key\n"
        "cache = FeatureCache(sys.argv[1], digest='a', width=1024)\n"
        "try:\n"
        "    for n in range(100): cache.put([feature_key(str(n))], np.full((1, 1024), n, np.float32))\n"
        "except WriteError as error: print(error)"
    )

    def small() -> None:  # files end at 10 kB, in the midst of a row
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, preexec_fn=small
    )
    assert "could not be written" in done.stdout
    assert "the rows that were kept before stay" in done.stdout
    cache = FeatureCache(tmp_path, digest="a", width=1024)
    assert (tmp_path / ROWS).stat().st_size == 2 * 4096
    assert cache.get(keys(100))[1].tolist() == [True, True] + [False] * 98


def test_no_permission_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file" / "rows", digest="a", width=WIDTH)
    with pytest.raises(WriteError):
        cache.check()
