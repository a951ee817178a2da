"""Where caches go, also where the home cannot be written."""

import os
import stat
import tempfile

import pytest

from tether.core import cache_folder
from tether.core.cache_folder import cache_dir


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """A user's cache folder that cannot be made, not even by root, and an empty temporary folder."""
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.delenv("TETHER_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    cache_folder._writable.cache_clear()
    yield tmp_path / "temporary"
    cache_folder._writable.cache_clear()


def test_the_cache_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("TETHER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert cache_dir().name == "tether"


def test_without_a_home_caches_go_to_a_private_temporary_folder(no_home):
    with pytest.warns(UserWarning, match=r"cannot be written; caches go to .*TETHER_CACHE=FOLDER"):
        folder = cache_dir()
    assert folder.parent == no_home
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert cache_dir() == folder  # without a second warning, which would be an error here


@pytest.mark.parametrize("taken", ["open", "link", "file"])
def test_a_folder_that_others_can_write_is_not_used(no_home, taken):
    name = no_home / f"tether-{os.getuid()}"
    if taken == "open":
        name.mkdir()
        name.chmod(0o777)
    elif taken == "link":
        (no_home / "elsewhere").mkdir(mode=0o700)
        name.symlink_to(no_home / "elsewhere")
    else:
        name.write_text("")
    with pytest.warns(UserWarning, match="caches go to"):
        folder = cache_dir()
    assert folder != name
    assert not folder.is_symlink()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
