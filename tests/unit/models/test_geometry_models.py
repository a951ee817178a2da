"""Models that have a geometry: what is stored, what is learned, and what other libraries cannot have."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open

import tether
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.geometry import COSINE, GEOMETRIES, HasGeometry, geometry_of
from tether.core.types import Batch
from tether.methods.euclip import GeometryLoss
from tether.models import create
from tether.training.steps import ContrastiveStep, StepModule

CURVED = [name for name in GEOMETRIES if name.startswith("hyperbolic")]
every = pytest.mark.parametrize("name", GEOMETRIES)


@every
def test_a_model_keeps_its_geometry_in_its_folder(name: str, tmp_path) -> None:
    made = create("tiny", seed=1, geometry=name, final_layernorm="drop", logit_scale_range=[0.5, 50])
    if name in CURVED:
        with torch.no_grad():
            made.log_curvature.fill_(0.3)
            made.visual.point_scale.log_factor.sub_(0.2)
    again = tether.load(tether.save(made, tmp_path / "model"))
    assert isinstance(again, HasGeometry)
    assert again.geometry.name == name
    assert again.config == made.config
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    text = made.tokenizer(["red star", "blue ring"])
    before, after = made(pixels, text), again(pixels, text)
    assert torch.equal(before.image.pooled, after.image.pooled)
    similar = [
        out.geometry.similarity(out.geometry.points(out.image.pooled), out.geometry.points(out.text.pooled))
        for out in (before, after)
    ]
    assert torch.equal(*similar)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["model"]["geometry"] == name


def test_checkpoints_of_a_run_know_their_geometry(tmp_path) -> None:
    from tether.training import RunConfig, train

    config = {
        "size": "tiny",
        "data": "scenes:rows=8",
        "steps": 3,
        "save_every": 2,
        "batch_size": 4,
        "precision": "fp32",
        "objective": {"name": "geometry", "entailment_weight": 0.2, "final_min_radius": 0.3},
        "model": {"geometry": "hyperbolic", "final_layernorm": "drop", "image_size": 64, "context": 48},
    }
    train(RunConfig.model_validate(config), folder=tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "step-00000002"
    for folder in (tmp_path / "run", step):
        assert tether.load(folder).geometry.name == "hyperbolic"
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            assert file.metadata()["geometry"] == "hyperbolic"
            assert {"log_curvature", "visual.point_scale.log_factor", "text.point_scale.log_factor"} <= set(file.keys())


def test_a_description_that_was_changed_by_hand_is_refused(tmp_path) -> None:
    path = tether.save(create("tiny", geometry="euclidean-squared"), tmp_path / "model") / "model.json"
    path.write_text(path.read_text().replace("euclidean-squared", "euclidean"))
    with pytest.raises(InputError, match=r"geometry 'euclidean-squared', but .*model.json says 'euclidean'"):
        tether.load(path.parent)


def test_a_wrapper_passes_it_on() -> None:
    from tether.methods.positional_artefacts.clipped_encoder import ClippedDualEncoder

    model = create("tiny", geometry="euclidean-squared")
    clipped = ClippedDualEncoder(model)
    assert geometry_of(clipped).name == "euclidean-squared"
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(clipped.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
    assert clipped(pixels, model.tokenizer(["red star", "moon"])).geometry.name == "euclidean-squared"


def test_an_older_description_means_the_cosine(tmp_path) -> None:
    path = tether.save(create("tiny"), tmp_path / "model") / "model.json"
    values = json.loads(path.read_text())
    for key in ("geometry", "logit_scale_range"):
        values["model"].pop(key)
    for tower in ("vision", "text"):
        values["model"][tower].pop("final_layernorm")
    path.write_text(json.dumps(values))
    assert tether.load(path.parent).geometry == COSINE == geometry_of(object())


def test_what_a_run_learns_of_a_hyperbolic_space() -> None:
    model = create("tiny", geometry="hyperbolic", final_layernorm="drop")
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    text = model.tokenizer(["red star", "blue ring", "moon"])
    step = ContrastiveStep(GeometryLoss(entailment_weight=0.2), steps=2, seed=0)
    loss = step(StepModule(model), Batch(pixels, text), step=0, gather=LOCAL)
    loss.total.backward()
    for learned in (model.log_curvature, model.visual.point_scale.log_factor, model.text.point_scale.log_factor):
        assert learned.grad.abs() > 0
    assert model.visual.point_scale.log_factor.item() == pytest.approx(-0.5 * math.log(64))
    with torch.no_grad():
        model.log_curvature.fill_(9.0)
    assert model.geometry.curvature.item() == pytest.approx(10.0)
    model.clamp_logit_scale_()
    assert model.log_curvature.item() == pytest.approx(math.log(10.0))


def test_the_range_of_the_scale() -> None:
    for settings, low in (
        ({}, 1.0),
        ({"geometry": "euclidean-squared"}, math.exp(-2.0)),
        ({"logit_scale_range": [0.3, 9]}, 0.3),
    ):
        model = create("tiny", **settings)
        with torch.no_grad():
            model.log_logit_scale.fill_(-2.0)
        model.clamp_logit_scale_()
        assert model.logit_scale.item() == pytest.approx(low)
        with torch.no_grad():
            model.log_logit_scale.fill_(9.0)
        model.clamp_logit_scale_()
        assert model.logit_scale.item() == pytest.approx(settings.get("logit_scale_range", [0, 100])[1])


def test_without_the_final_norm_lengths_differ() -> None:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    kept, dropped = (create("tiny", final_layernorm=choice) for choice in ("keep", "drop"))
    assert isinstance(dropped.visual.norm_post, torch.nn.Identity)
    assert isinstance(dropped.text.norm_post, torch.nn.Identity)
    assert not any("norm_post" in name for name in dropped.state_dict())
    assert not torch.equal(kept.encode_image(pixels).pooled, dropped.encode_image(pixels).pooled)


@pytest.mark.parametrize("settings", [{"geometry": "euclidean-squared"}, {"final_layernorm": "drop"}])
def test_other_libraries_cannot_have_it(settings, tmp_path) -> None:
    from tether.models.export import export

    for library in ("open_clip", "transformers"):
        with pytest.raises(InputError, match=library):
            export(create("tiny", **settings), tmp_path / library, format=library)
