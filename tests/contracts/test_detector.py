"""What every detector of defects promises."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from families import CLOSED, FAMILIES, SEALED
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.methods.adaptclip import AdaptclipDetector
from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
from tether.methods.clap import ClapDetector
from tether.methods.winclip import WinclipDetector
from tether.models import create
from tether.models.encoders.truncated import NarrowEncoder
from tether.models.refusals import EXCEPTIONS
from tether.models.towers.clip import Clip
from tether.tasks.anomaly import DETECTORS, AnomalyclipDetector, Detector, PatchesDetector

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


QUICK = {"clap": {"steps": 10, "side": 32}}


@pytest.fixture(params=sorted(DETECTORS))
def detector(request: pytest.FixtureRequest) -> Detector:
    if request.param == "adaptclip":
        return untrained(64)
    return DETECTORS[request.param](**QUICK.get(request.param, {}))


def untrained(dim: int) -> AdaptclipDetector:
    """Adapters as they are drawn, for one block."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AdaptclipDetector(head=TrainedAdapters(AdaptClip(torch.randn(2, dim), layers=1), layers=(-1,)))


def image(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


COMPARING = sorted(DETECTORS.keys() - {"anomalyclip"})
"""What compares with good images; anomalyclip takes only a threshold from them: ``test_good_images_change_no_map``."""


def smooth(*size: int, seed: int) -> torch.Tensor:
    """Broad spots, which a network learns to draw in a few steps."""
    coarse = image(3, 3, seed=seed)[None].float()
    return torch.nn.functional.interpolate(coarse, size, mode="bilinear")[0].to(torch.uint8)


GOOD = [smooth(32, 32, seed=7), smooth(50, 80, seed=8)]


def fitted(detector: Detector, model: Clip) -> Detector:
    return detector.prepare(model, " tile ").remember(detector.look(GOOD))


def test_it_is_one(detector: Detector) -> None:
    assert isinstance(detector, Detector)


def test_every_image_gets_a_map_of_its_own_size_whatever_its_neighbours(detector: Detector, model: Clip) -> None:
    images = [image(40, 90), image(32, 32, seed=1), image(75, 20, seed=2)]
    found = fitted(detector, model).predict(images)
    assert [one.size for one in found] == [(40, 90), (32, 32), (75, 20)]
    for one, alone in zip(found, (detector.predict([each])[0] for each in images), strict=True):
        assert one.name == "tile"
        assert one.pixels().shape == one.size
        assert abs(one.score - alone.score) < 1e-5
        assert np.abs(one.values - alone.values).max() < 1e-5
    assert detector.predict([]) == []


def test_good_images_change_no_map(model: Clip) -> None:
    """Of what does not compare."""
    for name in DETECTORS.keys() - set(COMPARING):
        detector = DETECTORS[name]().prepare(model, "tile")
        before = detector.predict([GOOD[1]])[0]
        after = detector.remember(detector.look(GOOD)).predict([GOOD[1]])[0]
        assert abs(before.score - after.score) < 1e-6
        assert np.abs(before.values - after.values).max() < 1e-6


@pytest.mark.parametrize("detector", COMPARING, indirect=True)
def test_good_images_are_less_unusual_than_others(detector: Detector, model: Clip) -> None:
    known, other = fitted(detector, model).predict([GOOD[1], image(50, 80, seed=3)])
    assert known.score < other.score
    assert known.values.mean() < other.values.mean()


def test_the_order_of_the_good_images_does_not_matter(detector: Detector, model: Clip) -> None:
    there = fitted(detector, model).predict([image(40, 40)])[0]
    back = detector.remember(detector.look(GOOD[::-1])).predict([image(40, 40)])[0]
    assert np.abs(there.values - back.values).max() < 1e-6


@pytest.mark.parametrize("detector", COMPARING, indirect=True)
def test_it_can_be_prepared_and_told_anew(detector: Detector, model: Clip) -> None:
    first = fitted(detector, model).predict([image(40, 40)])[0]
    detector.remember(detector.look(GOOD[:1]))
    detector.remember(detector.look(GOOD))
    assert np.array_equal(detector.predict([image(40, 40)])[0].values, first.values)
    detector.prepare(model, "tile")
    if detector.needs_good:
        with pytest.raises(InputError, match="expected good images to compare with, got none"):
            detector.predict([image(40, 40)])
    else:
        assert not np.array_equal(detector.predict([image(40, 40)])[0].values, first.values)


def test_equal_images_have_equal_scores(detector: Detector, model: Clip) -> None:
    flat = torch.full((3, 60, 60), 90, dtype=torch.uint8)
    detector.prepare(model, "tile").remember(detector.look([flat] * 3))
    found = detector.predict([flat] * 4)
    assert max(one.score for one in found) - min(one.score for one in found) < 1e-6
    assert all(np.isfinite(one.values).all() for one in found)


def test_bad_input_is_refused(detector: Detector, model: Clip) -> None:
    for call in (lambda: detector.predict([image(32, 32)]), lambda: detector.remember([])):
        with pytest.raises(InputError, match=r"prepare\(model, name\) comes before anything else"):
            call()
    detector.prepare(model, "tile")
    with pytest.raises(InputError, match=r"image 1: expected uint8 \(3, h, w\), got torch.float32 \(3, 8, 8\)"):
        detector.look([image(8, 8), image(8, 8).float()])
    with pytest.raises(UnsupportedModelError, match=r"NarrowEncoder: expected a model of tether\.load"):
        detector.prepare(NarrowEncoder(model, dims=32), "tile")


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")  # contexts of 16 tokens
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family(family: str, tmp_path) -> None:
    other, side = FAMILIES[family](tmp_path), (family, "image")
    every = (
        PatchesDetector(),
        WinclipDetector(scales=(1,)),
        AnomalyclipDetector(),
        ClapDetector(steps=1, side=32),
        untrained(other.dim),
    )
    ready = [detector for detector in every if can(detector, other, side)]
    for detector in ready:
        found = detector.remember(detector.look(GOOD)).predict([image(40, 100)])[0]
        assert found.size == (40, 100)
        assert re.search(r"score 0\.\d+", repr(found))
    assert len(ready) == (0 if side in CLOSED else 2 if side in SEALED else 5)


def can(detector: Detector, model: DualEncoder, side: tuple[str, str]) -> bool:
    """Prepare it; an encoder that is closed or sealed to it is refused with its reason."""
    try:
        detector.prepare(model, "tile")
    except UnsupportedModelError as error:
        return EXCEPTIONS[SEALED[side]] not in str(error)
    return True
