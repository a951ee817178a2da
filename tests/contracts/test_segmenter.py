"""What every segmenter promises, and what those promise that compare patches with texts."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from encoders import ENCODERS
from families import CLOSED, FAMILIES, PLAIN, SEALED, open_clip_tower
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.masks import BACKGROUND
from tether.models import create
from tether.models.encoders.truncated import NarrowEncoder
from tether.models.features.windows import Windows
from tether.models.heads.content_transfer import RegionNamer
from tether.models.heads.mask_decoder import MaskHead
from tether.models.heads.mask_models import NamedMasks, PromptMasks, TrainedMasks
from tether.models.refusals import EXCEPTIONS
from tether.models.towers.clip import Clip
from tether.tasks.segment import SEGMENTERS, DenseSegmenter, Segmenter, TokenSegmenter

pytestmark = pytest.mark.slow

CLASSES = ["road", "car", "sky"]


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


def mask_head(name: str) -> TrainedMasks:
    """An untrained head for the model above."""
    torch.manual_seed(0)
    if name == "maft":
        head = MaskHead(64, dim=16, heads=4, layers=1, queries=5, text_dim=64)
        return TrainedMasks(NamedMasks(head, RegionNamer(64, heads=4)).eval(), tuple(CLASSES))
    head = MaskHead(64, dim=16, heads=4, layers=1, queries=5, text_dim=64, classes=3)
    texts = torch.nn.functional.normalize(torch.randn(3, 2, 64), dim=2)
    return TrainedMasks(PromptMasks(head, texts).eval(), tuple(sorted(CLASSES)))


SETTINGS = {name: lambda name=name: {"head": mask_head(name)} for name in ("mta", "maft")}
"""Of methods that need something trained."""


@pytest.fixture(params=sorted(SEGMENTERS))
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    return SEGMENTERS[request.param](**SETTINGS.get(request.param, dict)())


def image(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_it_is_one(segmenter: Segmenter) -> None:
    assert isinstance(segmenter, Segmenter)


def test_every_image_gets_masks_of_its_own_size(segmenter: Segmenter, model: Clip) -> None:
    images = [image(40, 90), image(32, 32, seed=1), image(75, 20, seed=2)]
    found = segmenter.prepare(model, CLASSES).predict(images)
    assert [one.size for one in found] == [(40, 90), (32, 32), (75, 20)]
    for one, alone in zip(found, (segmenter.predict([each])[0] for each in images), strict=True):
        assert one.classes == tuple(CLASSES)
        assert np.mean(one.labels != alone.labels) < 0.01  # sums in another order
    assert segmenter.predict([]) == []


def test_the_order_of_the_classes_only_renumbers(segmenter: Segmenter, model: Clip) -> None:
    there = segmenter.prepare(model, CLASSES).predict([image(50, 70)])[0]
    back = segmenter.prepare(model, CLASSES[::-1]).predict([image(50, 70)])[0]
    for name in CLASSES:
        assert np.mean(there.mask(name) != back.mask(name)) < 0.01


def test_bad_input_is_refused(segmenter: Segmenter, model: Clip) -> None:
    with pytest.raises(InputError, match="comes before predict"):
        segmenter.predict([image(32, 32)])
    with pytest.raises(InputError, match="class 'car' comes twice"):
        segmenter.prepare(model, ["car", "sky", "car"])
    with pytest.raises(InputError, match="'car' alone would be everywhere"):
        segmenter.prepare(model, ["car"])
    with pytest.raises(InputError, match=r"image 1: expected uint8 \(3, h, w\)"):
        segmenter.prepare(model, CLASSES).predict([image(8, 8), image(8, 8).float()])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_tokens_of_every_family(family: str, tmp_path) -> None:
    other = FAMILIES[family](tmp_path)
    if (family, "image") in CLOSED:
        with pytest.raises(UnsupportedModelError, match=re.escape(EXCEPTIONS[SEALED[family, "image"]])):
            TokenSegmenter(templates=["{}"]).prepare(other, CLASSES)
        return
    found = TokenSegmenter(templates=["{}"]).prepare(other, CLASSES).predict([image(40, 100)])[0]
    assert found.size == (40, 100)
    assert np.isfinite(found.scores).all()


def test_an_encoder_without_tokens_is_refused_with_its_reason(model: Clip) -> None:
    with pytest.raises(UnsupportedModelError, match=r"NarrowEncoder: expected a model of tether\.load"):
        TokenSegmenter().prepare(NarrowEncoder(model, dims=32), CLASSES)


def test_background_by_words_or_by_doubt(model: Clip) -> None:
    plain = TokenSegmenter().prepare(model, ["road", "car", "ground", "wall"]).predict([image(50, 70)])[0]
    words = TokenSegmenter(background=["ground", "wall"]).prepare(model, ["road", "car"]).predict([image(50, 70)])[0]
    assert words.classes == ("road", "car", BACKGROUND)
    assert np.allclose(words.scores, np.stack([*plain.scores[:2], plain.scores[2:].max(axis=0)]))
    first = TokenSegmenter(background=["ground", "wall"]).prepare(model, [BACKGROUND, "road", "car"])
    assert np.allclose(first.predict([image(50, 70)])[0].scores, words.scores[[2, 0, 1]])
    alone = TokenSegmenter(background=["ground"]).prepare(model, ["car"])
    assert alone.predict([image(32, 32)])[0].classes == ("car", BACKGROUND)
    sure = TokenSegmenter(temperature=0.05).prepare(model, CLASSES).predict([image(64, 64)])[0]
    weights = np.exp(sure.scores - sure.scores.max(0))
    best = (weights / weights.sum(0)).max(0)
    least = float(np.median(best))
    doubt = TokenSegmenter(temperature=0.05, least=least).prepare(model, CLASSES).predict([image(64, 64)])[0]
    assert np.array_equal(doubt.scores.argmax(0) == 3, best < least)


def test_maps_of_convolutions_at_other_scales(tmp_path) -> None:
    looked = Windows(fit="whole", scales=(1.0, 2.0, 1.5))
    segmenter = TokenSegmenter(templates=["{}"]).prepare(ENCODERS["open_clip"](tmp_path), CLASSES, windows=looked)
    assert segmenter.predict([image(40, 90)])[0].scores.shape[1:] == (2, 2)


def test_windows_of_another_size_need_positions_that_can_be_resized(model: Clip) -> None:
    found = TokenSegmenter().prepare(model, CLASSES, windows=Windows(window=64)).predict([image(64, 96)])[0]
    assert found.scores.shape == (3, 8, 12)
    whole = TokenSegmenter().prepare(model, CLASSES, windows=Windows(fit="whole", scales=(1, 0.5, 1.5), flip=True))
    assert whole.predict([image(40, 90)])[0].scores.shape == (3, 6, 6)


@pytest.mark.parametrize("pool", ["tok", "avg"])
def test_patches_at_another_size_are_open_clips_own(pool: str, tmp_path) -> None:
    vision = {**PLAIN, "layers": 3, "patch_size": 8, "pool_type": pool, "final_ln_after_pool": False}
    small = open_clip_tower(tmp_path, vision).eval()
    segmenter = TokenSegmenter(templates=["{}"], temperature=1.0)
    found = segmenter.prepare(small, CLASSES, windows=Windows(window=48)).predict([image(48, 48)])[0]
    large = small.resized(image_size=48)
    with torch.no_grad():
        pixels = large.pixels(image(48, 48)[None])
        states = large.model.visual.forward_intermediates(pixels, output_fmt="NLC")["image_intermediates"][-1]
        patches = large.model.visual.ln_post(states) @ large.model.visual.proj
    expected = torch.nn.functional.normalize(patches[0], dim=1) @ segmenter.rows.T
    theirs = expected.T.unflatten(1, (6, 6)).numpy()
    np.testing.assert_allclose(found.scores, theirs, rtol=0, atol=1e-5)


def test_what_each_method_may_change(model: Clip) -> None:
    class Doubled(TokenSegmenter):
        own_windows = Windows(size=64)

        def refine(self, scores, image):
            return torch.nn.functional.interpolate(scores[None], scale_factor=2)[0]

    assert issubclass(Doubled, DenseSegmenter)
    assert Doubled().prepare(model, CLASSES).predict([image(32, 32)])[0].scores.shape == (3, 16, 16)
