"""One Ray cluster for all tests of curation that need one: to start it takes longer than most of them."""

from pathlib import Path

import pytest

import engine_steps


@pytest.fixture(scope="session")
def ray():
    found = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(engine_steps.__file__).parent), prepend=":")
        yield found
        found.shutdown()
