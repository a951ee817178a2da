"""The linear probe of patches: on a tower that shows what it is asked for it is exact, and it tells models apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

import tether
from memory_rows import MemoryRows
from tether.core.errors import InputError
from tether.core.types import Row
from tether.data import open_source
from tether.methods.cliptex.dense_probe import _iou, dense_probe
from tether.workflows.label import label

TRAIN, TEST = "scenes:rows=40,ground=relief", "scenes:rows=16,ground=relief,split=test"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    columns = {"seg": "column:classes", "depth": "column:depth", "normal": "column:normals", "classes": 11}
    return [label(spec, out=tmp_path_factory.mktemp("labels"), **columns).folder for spec in (TRAIN, TEST)]


def test_it_measures_all_tasks_on_other_images(stores):
    model = tether.load("tiny", random_weights=True)
    train, test = (open_source(spec, where="data") for spec in (TRAIN, TEST))
    found = dense_probe(model, train=train, test=test, labels=stores[0], test_labels=stores[1])
    assert found.images == (40, 16)
    assert found.accuracy > 0.5
    assert 0 < found.miou < 1
    assert 0 < found.depth_error < 0.3
    assert 0 < found.normal_degrees < 45
    assert found == dense_probe(model, train=train, test=test, labels=stores[0], test_labels=stores[1])


def test_columns_of_brightness_are_known_exactly(tmp_path):
    """Grey halves: depth is a linear function of what a patch shows."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(8):
        halves = np.repeat(rng.integers(0, 2, 2), 32)
        depth = np.tile(halves, (64, 1)).astype(np.float32)
        pixels = np.repeat((depth * 200 + 20).astype(np.uint8)[..., None], 3, axis=2)
        rows.append(Row(str(number), pixels, ("grey",), {"depth": depth, "classes": depth.astype(np.uint8)}))
    source = MemoryRows(rows)
    label(source, out=tmp_path, depth="column:depth", seg="column:classes", classes=2)
    model = tether.load("tiny", random_weights=True)
    found = dense_probe(model, train=source, test=source, labels=tmp_path, ridge=1e-6)
    assert found.depth_error < 0.06  # the rim between the halves is enlarged bilinearly
    assert found.miou > 0.9


def test_intersection_over_union_is_that_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    there, said = torch.randint(0, 4, (2, 500), generator=generator)
    table = torch.bincount(there * 4 + said, minlength=16).view(4, 4)
    expected = multiclass_jaccard_index(said, there, num_classes=4, average=None)
    torch.testing.assert_close(torch.tensor(list(_iou(table).values())), expected)


def test_bad_probes_are_refused(stores, tmp_path):
    model = tether.load("tiny", random_weights=True)
    train, test = (open_source(spec, where="data") for spec in (TRAIN, TEST))
    with pytest.raises(InputError, match="no image has a label"):
        dense_probe(model, train=test, test=test, labels=stores[0])
    other = label(TEST, out=tmp_path, seg="column:classes", classes=12).folder
    with pytest.raises(InputError, match="test_labels: expected the tasks and classes"):
        dense_probe(model, train=train, test=test, labels=stores[0], test_labels=other)
