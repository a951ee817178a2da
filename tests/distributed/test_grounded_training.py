"""Regions are matched and counted, and phrases compared, over the whole batch however it is split."""

from __future__ import annotations

import pytest
from test_training import assert_same_path, run

from tether.training.metrics_log import read_metrics

SETTINGS = [
    "data={name: scenes, rows: 128, things: [1, 2]}",
    "model={image_size: 64}",
    "contents={regions: {most: 3, phrases: phrases, unit: pixel}}",
    "step={views: {image: {want: states}, text: {}, region_text: {}}, terms: [{name: grounding, aux: true, "
    "duplicates: positives, captions: positives, among: processes}], heads: {grounding: {name: grounding, queries: 3, "
    "layers: 2, width: 32, heads: 4, inner: 32, dropout: 0.0, saved: kept}}}",
    "clipper=global_norm",
    "vocabulary=used",
    "steps=3",
]

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return run(1, tmp_path_factory.mktemp("grounded") / "run", *SETTINGS)


@pytest.mark.parametrize(("sharding", "stop_after"), [("ddp", 2), pytest.param("fsdp2", 0, marks=pytest.mark.nightly)])
def test_two_processes_equal_one(tmp_path, alone, sharding, stop_after):
    folder = run(2, tmp_path / "run", f"sharding={sharding}", *SETTINGS, stop_after=stop_after)
    if stop_after:
        run(2, folder, f"sharding={sharding}", *SETTINGS)
    assert_same_path(folder, alone)
    for mine, theirs in zip(*(read_metrics(one / "metrics.jsonl") for one in (folder, alone)), strict=True):
        for part in ("clip", "l1", "giou", "desc"):
            assert mine[part] == pytest.approx(theirs[part], rel=2e-5), part


def test_two_processes_with_rows_of_their_own_go_on_where_one_has_no_region(tmp_path):
    cut = (
        "contents={crops: {image: {scale: [0.05, 0.1]}}, regions: {most: 1, phrases: phrases, unit: pixel, least: 1.0}}"
    )
    few = [*SETTINGS, cut, "batch_size=4"]
    folder = run(2, tmp_path / "run", "sharding=ddp", *few)
    assert len(list(read_metrics(folder / "metrics.jsonl"))) == 3
