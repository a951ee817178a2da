"""The segmenter that pools patches which are alike: with a head and without, and its background."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.masks import BACKGROUND
from tether.methods.clip_dinoiser import DinoiserSegmenter
from tether.methods.clip_dinoiser.segmenter import with_background
from tether.models import create
from tether.models.features.patch_grouping import DinoiserHead, inner_and_tokens
from tether.tasks.segment import ValueSegmenter

CLASSES = ["road", "car", "sky"]


def image(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def head() -> DinoiserHead:
    return DinoiserHead(features=64, dim=8, generator=torch.Generator().manual_seed(0))


def test_with_nothing_alike_but_itself_it_is_maskclip() -> None:
    model = create("tiny", seed=1).eval()
    found = DinoiserSegmenter(gamma=1.0).prepare(model, CLASSES).predict([image(32, 32)])[0]
    plain = ValueSegmenter().prepare(model, CLASSES).predict([image(32, 32)])[0]
    assert np.mean(np.abs(found.scores - plain.scores)) < 1e-3 + np.mean(np.abs(plain.scores))  # cosines round below 1
    apart = DinoiserSegmenter(gamma=0.999).prepare(model, CLASSES).predict([image(32, 32)])[0]
    np.testing.assert_allclose(apart.scores, plain.scores, atol=1e-3)


def test_the_background_is_that_of_the_rule() -> None:
    model = create("tiny", seed=1).eval()
    names = [BACKGROUND, *CLASSES]
    segmenter = DinoiserSegmenter(head=head(), delta=0.5, temperature=0.05).prepare(model, names)
    scores = segmenter.predict([image(32, 32)])[0].scores
    without = DinoiserSegmenter(head=head(), delta=0.5, temperature=0.05)
    without.background_scores = lambda: 0  # its texts alone
    inner = inner_and_tokens(model, image(32, 32)[None]).inner
    assert scores.shape == (4, 4, 4)
    with torch.no_grad():
        rows, _ = segmenter._pooled(model, image(32, 32)[None])
        found = segmenter.logits(rows).softmax(dim=2).transpose(1, 2).unflatten(2, (4, 4))
        expected = with_background(found, segmenter.head.things(inner), delta=0.5).argmax(dim=1)[0]
    np.testing.assert_array_equal(scores.argmax(axis=0), expected.numpy())
    assert 0 < (expected == 0).sum() < 16


def test_without_a_class_for_it_the_head_says_nothing_of_the_background() -> None:
    model = create("tiny", seed=1).eval()
    found = DinoiserSegmenter(head=head()).prepare(model, CLASSES).predict([image(40, 90)])[0]
    assert found.classes == tuple(CLASSES)
    words = DinoiserSegmenter(head=head(), background=["wall"]).prepare(model, CLASSES).predict([image(40, 90)])[0]
    assert words.classes == (*CLASSES, BACKGROUND)


def test_delta_is_calibrated_on_images() -> None:
    model = create("tiny", seed=1).eval()
    segmenter = DinoiserSegmenter(head=head()).prepare(model, [*CLASSES, BACKGROUND])
    before = segmenter.settings()
    delta = segmenter.calibrate([image(32, 32, seed=n) for n in range(3)], share=0.5)
    assert 0.25 < delta < 0.99
    assert segmenter.settings() == before | {"delta": delta}
    assert segmenter.calibrate([image(32, 32)], share=0.9) > segmenter.calibrate([image(32, 32)], share=0.1)
    with pytest.raises(InputError, match="finds a thing everywhere in 0 images"):
        segmenter.calibrate([])
    with pytest.raises(InputError, match="expected a segmenter with a head"):
        DinoiserSegmenter().calibrate([image(8, 8)])


def test_a_head_for_another_tower_is_refused() -> None:
    with pytest.raises(InputError, match=r"inner: expected \(b, 48, r, c\), got \(1, 64, 4, 4\)"):
        DinoiserSegmenter(head=DinoiserHead(features=48)).prepare(create("tiny").eval(), CLASSES)


def test_an_affinity_is_held_in_parts() -> None:
    model = create("tiny", seed=1).eval()
    whole, parts = (
        DinoiserSegmenter(at_once=count).prepare(model, CLASSES).predict([image(50, 70)])[0] for count in (2**20, 1)
    )
    np.testing.assert_allclose(whole.scores, parts.scores, atol=1e-5)
