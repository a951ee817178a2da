"""Errors of maps over valid places, weights of seams, and roughness."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.methods.featsharp.loss import map_error, seam_weights, squared_variation, total_variation


def test_errors_count_where_views_show_something() -> None:
    predicted, target = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    valid = torch.ones(1, 1, 2, 2)
    assert map_error(predicted, target, valid=valid) == 1
    valid[..., 0] = 0
    assert map_error(predicted, target, valid=valid) == 1
    valid[..., 0, :] = 0  # a quarter, of which half is the least that is divided by
    assert map_error(predicted, target, valid=valid) == 0.5
    assert map_error(predicted, target, valid=0 * valid) == 0
    assert map_error(predicted, target, valid=valid, weights=2 * valid) == 1
    for name, given in (("predicted", {"predicted": target[:, :1]}), ("valid", {"valid": valid[..., :1]})):
        with pytest.raises(InputError, match=name):
            map_error(**{"predicted": predicted, "target": target, "valid": valid, **given})


def test_seams() -> None:
    found = seam_weights(size=(9, 6), factor=3)
    assert found.mean() == pytest.approx(1)
    assert (found[0, 0, 0] / found.min()).tolist() == [1, 2, 2, 2, 2, 1]
    with pytest.raises(InputError, match="multiples of 2"):
        seam_weights(size=(4, 5), factor=2)


def test_variation() -> None:
    flat, step = torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 2, 4)
    step[..., 2:] = 3.0
    assert total_variation(flat) == squared_variation(flat) == 0
    assert total_variation(step) == pytest.approx(2.5 / 3)
    assert squared_variation(step) == pytest.approx(18 / 8)
    assert total_variation(step, valid=torch.zeros(1, 1, 2, 4)) == 0
