"""What several detectors say of the same images with masks, against scikit-learn's AUROC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from torch import Tensor

from memory_rows import MemoryRows, damaged
from tether.core.anomaly_map import AnomalyMap
from tether.core.protocols import DualEncoder
from tether.data.defect_truths import DefectTruths
from tether.evaluate.adaptation.defects import ask_defects
from tether.models import create
from tether.tasks.anomaly import Detector, ImageFeatures


class Dark:
    """Scores what is dark; the other way round where it is told so."""

    needs_good: ClassVar[bool] = False
    name = ""

    def __init__(self, *, light: bool = False) -> None:
        self.light = light

    def prepare(self, model: DualEncoder, name: str) -> Dark:
        self.name = name
        return self

    def look(self, images: Sequence[Tensor]) -> list[ImageFeatures]:
        return [ImageFeatures((0, 0), (0, 0), (image,)) for image in images]

    def remember(self, good: Sequence[ImageFeatures]) -> Dark:
        return self

    def judge(self, look: ImageFeatures) -> AnomalyMap:
        values = look.rows[0].float().mean(dim=0) / 255
        values = values if self.light else 1 - values
        return AnomalyMap(float(values.mean()), values.numpy(), (values.shape[0], values.shape[1]), self.name)

    def predict(self, images: Sequence[Tensor]) -> list[AnomalyMap]:
        return [self.judge(look) for look in self.look(images)]

    def settings(self) -> dict[str, Any]:
        return {}


@pytest.mark.filterwarnings("error")
def test_areas_are_scikit_learn_s() -> None:
    rows, ways = damaged(30), [Dark(), Dark(light=True)]
    assert all(isinstance(one, Detector) for one in ways)
    rows.rows[3] = replace(rows.rows[3], meta={"label": "crack"})  # no one knows where
    rows.rows[4] = replace(rows.rows[4], meta={})  # nothing is known
    found = ask_defects(rows, create("tiny").eval(), list(ways), truths=DefectTruths())
    assert found is not None
    assert (found.scores.shape, found.pixels.shape) == ((2, 29), (2, 14))
    areas = found.image_auroc()
    assert areas is not None
    for number in range(2):
        assert areas[0][number] == pytest.approx(roc_auc_score(found.defective, found.scores[number]))
    assert areas[0].sum() == pytest.approx(1)
    assert areas[1].shape == (1000, 2)
    image, mask = rows.rows[1].image, rows.rows[1].meta["mask"]
    assert found.pixels[0, 0] == pytest.approx(roc_auc_score(mask.ravel() > 0, -image.mean(axis=2).ravel()), abs=1e-6)
    np.testing.assert_allclose(found.pixels.sum(axis=0), 1)


def test_images_of_one_kind_have_no_area() -> None:
    model, normal = create("tiny").eval(), MemoryRows(damaged(12).rows[::2])
    found = ask_defects(normal, model, [Dark()], truths=DefectTruths())
    assert found is not None
    assert found.image_auroc() is None
    assert found.pixels.shape == (1, 0)
    nothing = MemoryRows([replace(row, meta={}) for row in normal.rows])
    assert ask_defects(nothing, model, [Dark()], truths=DefectTruths()) is None
