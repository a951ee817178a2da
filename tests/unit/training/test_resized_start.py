"""Runs that begin with a trained model at another size."""

from __future__ import annotations

import pytest

import tether
from tether.core.errors import InputError
from tether.models import create
from tether.training import RunConfig, train

TAKEN = {"data": "emoji", "steps": 2, "batch_size": 4, "precision": "fp32", "threads": 1}


@pytest.fixture
def start(tmp_path):
    return str(tether.save(create("tiny", context=16), tmp_path / "start"))


def test_a_run_keeps_the_size_that_it_began_with(start, tmp_path):
    sizes = {"image_size": 48, "context": 30, "how": "linear"}
    settings = RunConfig(model={"load": start, "resized": sizes}, **TAKEN)
    train(settings, folder=tmp_path / "run")
    model = tether.load(tmp_path / "run")
    assert [model.image_spec.size, model.tokenizer.context_length] == [(48, 48), 30]
    assert model.embed(["a cat " * 10]).isfinite().all()
    assert train(settings, folder=tmp_path / "run", resume=True).steps == 2


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"resized": {"size": 48}}, "model: resized: unknown key 'size'; .*known: context, how, image_size, patch"),
        ({"resized": {"image_size": 50}}, "model: resized: image_size: expected multiples of 8"),
        ({"resized": [48]}, "model: resized: expected a mapping"),
        (
            {"resized": {}, "context": 20},
            "'resized', 'upcycle', 'codec', got also context",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_named(model, reason, start, tmp_path):
    with pytest.raises(InputError, match=reason):
        train(RunConfig(model={"load": start, **model}, **TAKEN), folder=tmp_path / "run")


def test_a_new_model_has_its_size_already(tmp_path):
    with pytest.raises(InputError, match="resized: a new model has its size by"):
        train(RunConfig(model={"resized": {"image_size": 64}}, **TAKEN), folder=tmp_path / "run")
