"""What was saved before methods moved to folders of their own is opened and used, and gives what it gave."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from older_files import USES, dated

NEAR = {"sharpener_head": 0.15}
"""Absolute error where images are resized on the way, whose bytes another processor rounds otherwise."""


@pytest.fixture(scope="module")
def place(repository, tmp_path_factory):
    kept = repository / "tests/data/before_methods"
    place = shutil.copytree(kept, tmp_path_factory.mktemp("older") / "kept")
    dated(place / "pairs")  # a checkout gives them its own
    return place


@pytest.mark.parametrize("name", USES)
def test_an_older_file_gives_what_it_gave(name, place):
    with np.load(place / "given.npz") as given:
        expected = {key: given[key] for key in given.files if key.startswith(f"{name}/")}
    found = {f"{name}/{key}": np.asarray(value) for key, value in USES[name](place, name).items()}
    assert found.keys() == expected.keys() != set()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=NEAR.get(name, 1e-4), err_msg=key)


def test_all_that_is_kept_is_used(place):
    beside = {"key", "pairs", "restored"}
    assert {path.name for path in place.iterdir() if path.is_dir()} - beside == set(USES)
