"""Windows over images of any size: every patch counted, means of overlaps, scales, flips, and bounded memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.models.features.windows import Windows, label_map, window_maps

pytestmark = pytest.mark.slow

SPEC = ImageSpec(size=(32, 32), interpolation="bilinear")


def brightness(pixels):
    """Mean of each patch of 8 pixels."""
    return F.avg_pool2d(pixels.float().mean(1, keepdim=True), 8)


def maps_of(images, *, dense=brightness, grid=(4, 4), **settings):
    return list(window_maps(dense, images, spec=SPEC, grid=grid, windows=Windows(**settings)))


def noise(*size, seed=0):
    return torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("settings", [{}, {"stride": 1.0}, {"stride": 0.3, "flip": True}, {"batch_size": 3}])
def test_a_function_of_each_patch_alone_gives_the_same_through_windows(settings):
    image = noise(64, 168)
    (found,) = maps_of([image], size=64, **settings)
    torch.testing.assert_close(found, brightness(image[None])[0])


def test_images_of_any_size_share_batches_and_come_out_in_order():
    images = [noise(h, w, seed=h) for h, w in ((32, 32), (5, 400), (100, 33), (64, 64))]
    seen = []

    def counted(pixels):
        seen.append(len(pixels))
        return brightness(pixels)

    together = maps_of(images, dense=counted, batch_size=4)
    assert set(seen[:-1]) == {4}
    for image, found in zip(images, together, strict=True):
        torch.testing.assert_close(found, maps_of([image])[0])
    assert [tuple(one.shape[1:]) for one in together] == [(4, 4), (4, 320), (12, 4), (4, 4)]


def test_overlaps_are_averaged():
    calls = iter(range(100))

    def numbered(pixels):
        return torch.stack([torch.full((1, 4, 4), float(next(calls))) for _ in pixels])

    (found,) = maps_of([noise(32, 48)], dense=numbered)  # two windows, 4 and 4 of 6 columns
    assert found[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_scales_below_a_window_are_padded_and_the_padding_is_not_counted():
    image = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    (found,) = maps_of([image], scales=(0.5, 1.0, 1.5))
    assert found.shape == (1, 6, 6)
    torch.testing.assert_close(found, torch.full((1, 6, 6), 90.0))


def test_a_mirrored_window_is_mirrored_back():
    (found,) = maps_of([noise(32, 32)], dense=lambda pixels: torch.arange(4.0).expand(len(pixels), 1, 4, 4), flip=True)
    assert torch.equal(found, torch.full((1, 4, 4), 1.5))


def test_the_whole_image_is_squashed_to_one_window_of_each_scale():
    sizes = []

    def kept(pixels):
        sizes.append(tuple(pixels.shape[2:]))
        return brightness(pixels)

    (found,) = maps_of([noise(50, 200)], dense=kept, fit="whole", scales=(1.0, 0.5, 1.5))
    assert sizes == [(32, 32), (16, 16), (48, 48)]
    assert found.shape == (1, 6, 6)


def test_windows_whose_patches_are_no_whole_pixels():
    image = torch.full((3, 70, 90), 9, dtype=torch.uint8)
    (found,) = maps_of([image], grid=(3, 3), dense=lambda pixels: F.adaptive_avg_pool2d(pixels.float()[:, :1], 3))
    assert found.shape == (1, 3, 4)
    assert (found == 9).all()


HUGE = """
import re, pathlib, torch
from tether.models import create
from tether.models.features.windows import Windows
from tether.tasks.segment import ValueSegmenter
def most():  # in MB; getrusage would count what the parent process held
    return int(re.findall(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[0]) // 1024
before = most()
segmenter = ValueSegmenter().prepare(create("tiny").eval(), ["road", "car"], windows=Windows(size=128))
masks = segmenter.predict([torch.zeros(3, 6000, 8000, dtype=torch.uint8)])[0]
assert masks.size == (6000, 8000)
print(before, most())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
@pytest.mark.nightly
def test_memory_is_bounded_for_an_image_of_48_million_pixels():
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < 1500
    assert after - before < 700


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(InputError, match="would be looked at as 9600000 x 32, more than 67,108,864 pixels"):
        maps_of([noise(1, 300_000)])
    with pytest.raises(InputError, match=r"expected maps \(b, k, 5, 5\), got \(1, 1, 4, 4\)"):
        maps_of([noise(32, 32)], grid=(5, 5), fit="windows")


@pytest.mark.parametrize("size", [(64, 70), (7, 9), (5, 3), (33, 1)])
def test_the_label_map_is_the_best_class_of_the_enlarged_scores(size):
    scores = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))
    whole = F.interpolate(scores[None], size, mode="bilinear")[0].argmax(0)
    for most in (1, 2**10, 2**22):
        found = label_map(scores, size=size, most=most)
        assert found.dtype == torch.uint8
        assert np.mean(found.numpy() != whole.numpy()) < 0.01


def test_ties_go_to_the_first_class():
    assert label_map(torch.zeros(3, 2, 2), size=(4, 4)).sum() == 0
