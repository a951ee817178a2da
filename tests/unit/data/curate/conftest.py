"""A pool in five pieces, and one Ray cluster for all tests that need one: to start it takes longer than most."""

from pathlib import Path

import pytest

import engine_steps
from tether.data.curate.pools.opening import open_pool
from tether.data.curate.pools.pool import group


@pytest.fixture(scope="session")
def ray():
    found = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(engine_steps.__file__).parent), prepend=":")
        yield found
        found.shutdown()


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "__kwdefaults__", {"rows": 40})
    return open_pool(engine_steps.write_pool(tmp_path / "pool.parquet", engine_steps.texts_of(200)))
