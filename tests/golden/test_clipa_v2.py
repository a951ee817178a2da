"""CLIPA-v2's token counts and learning rates."""

from __future__ import annotations

import pytest
from loading import load

from tether.models.towers.cost import patch_grid
from tether.models.towers.patch_selection import kept_count
from tether.training.schedules import scaled_lr

V = load("clipa-v2")


@pytest.mark.parametrize("case", range(len(V["cfg"])))
def test_counts(case: int) -> None:
    size, patch, ratio = V["cfg"][case].tolist()
    down, across = patch_grid(int(size), patch=int(patch))
    kept = [kept_count(down * across, keep=1 - ratio, rule="truncate", least=least) for least in (1, 0)]
    assert [down * across, *kept] == pytest.approx(
        V["tokens_keep_torch_keep_jax"][case].tolist(), abs=V.meta["tolerance"]["counts"]
    )


@pytest.mark.parametrize("case", range(len(V["lr_value"])))
def test_learning_rates(case: int) -> None:
    batch, base = V["lr_batch_base"][case].tolist()
    assert scaled_lr(base, batch=int(batch)) == pytest.approx(V["lr_value"][case], rel=0, abs=V.meta["tolerance"]["lr"])
