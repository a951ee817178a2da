"""Encoders whose rows are kept: the same rows, computed once, by any object around the same weights."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.core.geometry import geometry_of
from tether.core.model_digest import model_digest
from tether.data import in_order, open_source
from tether.methods.stable_spam import FourBits
from tether.models import create
from tether.models.compose import compose
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.save import save
from tether.tasks.safety import PromptClassifier


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save(create("tiny", seed=0).eval(), folder)
    return str(folder)


def pixels(rows=6, seed=0, size=32):
    return torch.randint(
        0, 256, (rows, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def words(model):
    return model.tokenizer(["a cat", "a dog on a long beach", "the sun", "a cat"])


@pytest.fixture(params=["own", "composed"])
def model(request, folder):
    if request.param == "own":
        return tether.load(folder)
    return compose(image=folder, text=folder, join="linear", dim=24).eval()


def test_rows_are_those_of_the_model_and_computed_once(model):
    kept = CachedEncoder(model)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(
                kept.encode_image(pixels()).pooled, model.encode_image(pixels()).pooled, atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(
                kept.encode_text(words(model)).pooled, model.encode_text(words(model)).pooled, atol=1e-5, rtol=1e-5
            )
    assert kept.computed == {"image": 6, "text": 3}
    other = CachedEncoder(copy.deepcopy(model))
    assert torch.equal(other.encode_image(pixels().flip(0)).pooled, kept.encode_image(pixels()).pooled.flip(0))
    assert other.computed == {"image": 0, "text": 0}


def test_texts_are_found_however_they_are_padded(model):
    kept = CachedEncoder(model)
    kept.encode_text(words(model))
    wider = torch.nn.functional.pad(words(model), (0, 2))
    kept.encode_text(wider)
    assert kept.computed["text"] == 3


def test_pixels_and_floats_are_two_things(model):
    kept = CachedEncoder(model)
    kept.encode_image(pixels())
    kept.encode_image(model.image_spec.normalise(pixels(), dtype=torch.float32))
    assert kept.computed["image"] == 12


def test_other_weights_have_other_rows(folder):
    model = tether.load(folder)
    kept = CachedEncoder(model)
    before = kept.encode_image(pixels()).pooled.clone()
    with torch.no_grad():
        model.visual.projection.weight.mul_(-1)
    after = CachedEncoder(model)
    assert torch.allclose(after.encode_image(pixels()).pooled, -before, atol=1e-5)
    after.encode_text(words(model))
    kept.encode_text(words(model))
    assert (after.computed, kept.computed["text"]) == ({"image": 6, "text": 3}, 0)


def test_a_side_goes_by_the_models_make_too(folder):
    model, heads = tether.load(folder), create("tiny", seed=0, vision={"heads": 1})
    heads.load_state_dict(model.state_dict())
    assert model_digest(heads) == model_digest(model)  # the weights do not tell
    assert side_digest(heads, "image") != side_digest(model, "image")


def test_the_maps_of_a_composed_encoder_are_no_part_of_what_is_kept_and_learn(folder):
    first, second = (compose(image=folder, text=folder, join=join, dim=24).eval() for join in ("linear", "mlp"))
    CachedEncoder(first).encode_image(pixels())
    kept = CachedEncoder(second)
    kept.encode_image(pixels()).pooled.sum().backward()
    assert kept.computed["image"] == 0
    assert all(one.grad is not None for one in second.parts.image_map.parameters())
    assert all(one.grad is None for one in second.parts.image.parameters())


def test_a_side_that_is_not_kept_learns(folder):
    model = tether.load(folder)
    kept = CachedEncoder(model, sides=["image"])
    (kept.encode_image(pixels()).pooled.sum() + kept.encode_text(words(model)).pooled.sum()).backward()
    assert model.text.projection.weight.grad is not None
    assert model.visual.projection.weight.grad is None


def test_it_computes_in_evaluation_mode_and_full_precision_and_leaves_the_mode(folder):
    model = tether.load(folder).train()
    model.visual.eval()
    modes = [module.training for module in model.modules()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = CachedEncoder(model).encode_image(pixels()).pooled
    assert torch.allclose(rows, tether.load(folder).encode_image(pixels()).pooled, atol=1e-5)
    assert [module.training for module in model.modules()] == modes


def test_rows_that_are_not_finite_are_given_and_not_kept(folder):
    model = tether.load(folder)
    with torch.no_grad():
        model.visual.projection.weight.fill_(torch.nan)
    kept = CachedEncoder(model)
    for computed in (6, 12):
        assert kept.encode_image(pixels()).pooled.isnan().all()
        assert kept.computed["image"] == computed


def test_images_of_a_source_are_opened_once(model, monkeypatch):
    source = open_source("scenes:rows=12,size=64")
    opened, load = [], in_order.load
    monkeypatch.setattr(
        in_order, "load", lambda image, *more, **named: opened.append(image) or load(image, *more, **named)
    )
    found = []
    for computed in (12, 0):
        kept = CachedEncoder(model)
        opened.clear()
        batches = list(kept.rows_of(source, batch_size=5))
        found.append(
            ([(row.key, row.texts) for rows, _ in batches for row in rows], torch.cat([rows for _, rows in batches]))
        )
        assert kept.computed["image"] == computed
    assert all(not image.any() for image in opened)  # blank ones of the model's size
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def kept_rows(model, spec):
    kept = CachedEncoder(model)
    batches = list(kept.rows_of(open_source(spec), batch_size=5))
    return torch.cat([rows for _, rows in batches]), kept.computed["image"]


def asked_rows(model, spec):
    with torch.no_grad():
        batches = in_order.ordered(open_source(spec), image_spec=model.image_spec, batch_size=64)
        return torch.cat([model.encode_image(images).pooled for _, images in batches])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("scenes:rows=6,size=64", "scenes:rows=6,size=64,lettering=word"),
        ("scenes:rows=6,size=64", "scenes:rows=6,size=128"),
        ("digits:split=test,size=32", "digits:split=test,size=40"),
    ],
)
def test_a_set_with_other_settings_has_other_images_under_the_same_keys(folder, one, other):
    model = compose(image=folder, text=folder, join="linear", dim=24).eval()
    before, _ = kept_rows(model, one)
    rows, computed = kept_rows(model, other)
    assert computed
    torch.testing.assert_close(rows, asked_rows(model, other), atol=1e-5, rtol=1e-5)
    assert torch.equal(kept_rows(model, one)[0], before)


@pytest.mark.parametrize("kind", ["csv", "folder"])
def test_an_image_that_was_replaced_is_not_taken_for_what_it_was(folder, tmp_path, kind):
    model, place = tether.load(folder), tmp_path / "photos"
    place.mkdir()
    images_of_levels = [np.full((40, 40, 3), level, np.uint8) for level in (10, 90, 200)]
    for number, image in enumerate(images_of_levels):
        Image.fromarray(image).save(place / f"{number}.bmp")  # all of one size
    spec = str(place)
    if kind == "csv":
        (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"photos/{n}.bmp,a\n" for n in range(3)))
        spec = str(tmp_path / "pairs.csv")
    kept_rows(model, spec)
    was = (place / "1.bmp").stat()
    Image.fromarray(images_of_levels[1][::-1] // 2).save(place / "new.bmp")
    (place / "new.bmp").replace(place / "1.bmp")
    os.utime(place / "1.bmp", ns=(was.st_atime_ns, was.st_mtime_ns))
    rows, computed = kept_rows(model, spec)
    assert computed == 1
    torch.testing.assert_close(rows, asked_rows(model, spec), atol=1e-5, rtol=1e-5)


def test_rows_come_back_as_the_source_has_them(folder):
    model, source = tether.load(folder), open_source("scenes:rows=6,size=64")
    for _ in range(2):
        ((rows, _),) = CachedEncoder(model).rows_of(source, batch_size=8)
        wanted = [row for block in source.blocks() for row in source.read(block)]
        assert [list(row.meta) for row in rows] == [list(row.meta) for row in wanted]
        assert all(np.array_equal(row.image, other.image) for row, other in zip(rows, wanted, strict=True))


@pytest.mark.parametrize("change", ["rounded", "rounded otherwise", "norm"])
def test_layers_that_compute_otherwise_with_the_same_weights_have_other_rows(model, change):
    other = copy.deepcopy(model)
    for one in [model, other] if change == "rounded otherwise" else [other]:
        if change == "norm":
            for module in one.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = 0.5
        else:
            FourBits(group=64 if one is other else 32).apply_(one)
    CachedEncoder(model).encode_image(pixels())
    CachedEncoder(model).encode_text(words(model))
    kept = CachedEncoder(other)
    with torch.no_grad():
        torch.testing.assert_close(kept.encode_image(pixels()).pooled, other.encode_image(pixels()).pooled)
        torch.testing.assert_close(kept.encode_text(words(model)).pooled, other.encode_text(words(model)).pooled)
    assert kept.computed == {"image": 6, "text": 3}


def test_it_is_the_model_for_whatever_takes_one(folder):
    model = tether.load(folder)
    kept = CachedEncoder(model)
    assert torch.allclose(kept.embed(["a cat"]), model.embed(["a cat"]), atol=1e-5)
    assert kept.logit_scale == model.logit_scale
    assert kept.dim == model.dim
    assert model_digest(kept) == model_digest(model)


def test_a_head_that_was_fitted_on_kept_rows_opens_with_the_model(model, tmp_path):
    head = PromptClassifier(encoder=CachedEncoder(model), epochs=2).fit(pixels(), [0, 1] * 3)
    head.save(tmp_path / "head.safetensors")
    opened = PromptClassifier.load(tmp_path / "head.safetensors", encoder=model)
    assert opened.predict(pixels()).tolist() == head.predict(pixels()).tolist()


def test_what_the_model_says_of_itself_is_said(folder):
    curved = create("tiny", geometry="euclidean-squared")
    assert geometry_of(CachedEncoder(curved)).name == "euclidean-squared"
    composed = compose(image=folder, text=folder, join="linear", dim=24)
    assert CachedEncoder(composed).templates == composed.templates
    assert not hasattr(CachedEncoder(curved), "templates")
