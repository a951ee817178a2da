"""Regions are counted and compared over the whole batch however it is split."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

from tether.training.metrics_log import read_metrics

SETTINGS = [
    "data={name: scenes, rows: 128, things: [1, 3]}",
    "model={image_size: 64}",
    "contents={regions: {most: 3, phrases: phrases, unit: pixel}}",
    "step={views: {image: {want: states}, text: {}, region_text: {}}, terms: [objective, {name: region_text, "
    "head: prompter}], heads: {prompter: {name: prompter, heads: 4, saved: kept}}}",
    "clipper=global_norm",
    "vocabulary=used",
    "steps=3",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("regions") / "run", *SETTINGS)


@pytest.mark.parametrize(("sharding", "stop_after"), [pytest.param("ddp", 2, marks=pytest.mark.nightly), ("fsdp2", 0)])
def test_two_processes_equal_one(tmp_path, alone, sharding, stop_after):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *SETTINGS, stop_after=stop_after)
    if stop_after:
        run(2, folder, f"sharding={sharding}", *SETTINGS)
    assert_same_path(folder, alone)
    for mine, theirs in zip(*(read_metrics(one / "metrics.jsonl") for one in (folder, alone)), strict=True):
        for part in ("regions", "boxes"):
            assert mine[part] == pytest.approx(theirs[part], rel=2e-5), part
