"""A model whose scale, bias or curvature is no finite number is refused by name, and inspected with an alarm."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from test_embed import Pictures, row

import tether
from tether.core.errors import InputError
from tether.evaluate import evaluate
from tether.evaluate.inspect.runner import inspect_model
from tether.methods.medical_survey.prompt_pairs import PromptPairZeroShot
from tether.models import create
from tether.models.towers.clip import Clip


def damaged(value: float) -> Clip:
    model = create("tiny").eval()
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "logit_scale" in name or "log_scale" in name).fill_(value)
    return model


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_is_measured_or_named_with_a_scale_that_is_not_finite(tmp_path: Path, value: float) -> None:
    model, pictures = damaged(value), Pictures([row(number) for number in range(4)])
    with pytest.raises(InputError, match=r"its logit_scale is (nan|inf), not a finite number; the weights are damaged"):
        tether.classify(pictures, ["cat", "dog"], model=model, bad_rows=tmp_path / "bad.jsonl")
    with pytest.raises(InputError, match="its logit_scale is"):
        evaluate(model, pictures)
    with pytest.raises(InputError, match="its logit_scale is"):
        PromptPairZeroShot().prepare(model, ["a"])
    assert not list(tmp_path.iterdir())
    (about,) = inspect_model(model, pictures, out=tmp_path, model_name="m", probes=["about"]).sections
    assert about.finding is not None
    assert (about.level, "its logit_scale is" in about.finding.sentence) == ("alarm", True)
