"""bfloat16 is chosen where the machine is made for it, the model is large, and its embeddings stay."""

from __future__ import annotations

import pytest
import torch

from tether.models import create, precision
from tether.models.embed import encode_images


@pytest.fixture
def model():
    return create("tiny", seed=0).eval()


@pytest.mark.parametrize(
    ("made_for_it", "least", "cosine", "expected"),
    [(True, 1, 0.9, "bfloat16"), (False, 1, 0.9, "float32"), (True, 10**9, 0.9, "float32"), (True, 1, 1.1, "float32")],
)
def test_what_auto_is(model, monkeypatch, made_for_it, least, cosine, expected):
    monkeypatch.setattr(precision, "_made_for_bfloat16", lambda device: made_for_it)
    monkeypatch.setattr(precision, "LEAST_WEIGHTS", least)
    monkeypatch.setattr(precision, "COSINE", cosine)
    assert precision.chosen_precision(model) == expected


def test_what_is_given_stays(model):
    assert precision.chosen_precision(model, "bfloat16") == "bfloat16"
    assert precision.chosen_precision(model, "float32") == "float32"


def test_small_models_stay_exact_on_any_cpu(model):
    assert precision.chosen_precision(model) == "float32"
    noise = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(encode_images(model, [noise]), encode_images(model, [noise]))
