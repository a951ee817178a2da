"""Quality scores: by pairs of prompts, in parts of native size, the same whatever is beside; sharpness; bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.methods.qualiclip import degrade
from tether.models import create
from tether.models.embed import encode_images
from tether.models.texts.prompt_quality import PROMPTS, prompt_quality
from tether.tasks.quality import QualityScorer, native_windows, sharpness


def photo(height: int, width: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 8, generator=generator)
    fine = 0.2 * torch.rand(3, height, width, generator=generator)
    return (255 * (0.8 * F.interpolate(coarse, (height, width), mode="bicubic")[0].clamp(0, 1) + fine)).byte()


@pytest.fixture(scope="module")
def scorer() -> QualityScorer:
    return QualityScorer(create("tiny", seed=3).eval())


def test_pairs_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(5, 8, generator=generator), torch.randn(6, 8, generator=generator)
    cosine = F.cosine_similarity(image[:, None], text[None], dim=2)
    expected = F.softmax(10 / 2 * cosine.unflatten(1, (3, 2)), dim=2)[..., 0].mean(dim=1)
    torch.testing.assert_close(prompt_quality(image, text, scale=10.0, temperature=2.0), expected)


def test_prompts_are_fourteen() -> None:
    assert len(PROMPTS) == 14
    assert PROMPTS[8:10] == ("Noise-free image.", "Noisy image.")


def test_a_photo_of_the_model_s_size_is_read_as_it_is(scorer: QualityScorer) -> None:
    size = scorer.encoder.image_spec.size[0]
    photos = torch.stack([photo(size, size, seed=seed) for seed in range(3)])
    torch.testing.assert_close(scorer.score(photos), scorer.scores(encode_images(scorer.encoder, [photos])))


def test_a_photo_s_score_does_not_hang_on_the_others(scorer: QualityScorer) -> None:
    photos = [photo(20, 90), photo(100, 70, seed=1), photo(100, 70, seed=1), photo(5, 5)]
    together = scorer.score(photos)
    torch.testing.assert_close(together, torch.cat([scorer.score([one]) for one in photos]), rtol=0, atol=1e-5)
    assert together[1] == together[2]
    assert ((together >= 0) & (together <= 1)).all()


def test_images_that_are_all_equal_have_one_score(scorer: QualityScorer) -> None:
    for value in (0, 255):
        assert len(scorer.score([torch.full((3, 50, 50), value, dtype=torch.uint8)] * 3).unique()) == 1


def test_windows() -> None:
    assert native_windows((64, 64), of=(64, 64), grid=3) == [(0, 0, 64, 64)]
    found = native_windows((300, 200), of=(64, 64), grid=3)
    assert len(found) == 9
    assert {(right - left, bottom - top) for left, top, right, bottom in found} == {(64, 64)}
    assert {left for left, *_ in found} == {0, 68, 136}
    assert native_windows((1, 1), of=(64, 64), grid=2) == [(0, 0, 1, 1)]
    assert native_windows((30, 100), of=(60, 40), grid=1) == [(40, 0, 60, 30)]  # the model's aspect


def test_sharpness_falls_with_blur_and_rises_with_noise() -> None:
    image = photo(64, 64)
    found = [sharpness(image)]
    for level in range(2, 6):
        blurred = degrade(image / 255, "gaublur", level)
        found.append(sharpness((255 * blurred).round().byte()))
    assert found == sorted(found, reverse=True)
    noisy = degrade(image / 255, "whitenoise", 5)
    assert sharpness((255 * noisy).round().byte()) > found[0]
    assert sharpness(torch.full((3, 1, 1), 7, dtype=torch.uint8)) == 0


def test_sharpness_is_opencv_s_inside_of_the_border() -> None:
    image = photo(12, 15)
    grey = np.array([0.299, 0.587, 0.114]) @ image.numpy().reshape(3, -1)
    grey = np.round(grey).reshape(12, 15)
    padded = np.pad(grey, 1, mode="edge")
    laplacian = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * grey
    assert sharpness(image) == pytest.approx(laplacian.var(), rel=1e-5)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (("Good photo.",), "good and bad ones in turn"),
        (("Good photo.", "Bad photo.", "Sharp photo."), "as many of each"),
        ((), "in turn"),
        ("Good photo.", "a list"),
        (("Good photo.", " "), "number 2 of 2 has none"),
    ],
)
def test_prompts_refused(prompts: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        QualityScorer(create("tiny").eval(), prompts)


def test_refused(scorer: QualityScorer) -> None:
    with pytest.raises(InputError, match="at least one"):
        scorer.score([])
    with pytest.raises(InputError, match="uint8"):
        scorer.score([torch.rand(3, 8, 8)])
    with pytest.raises(InputError, match="text: expected"):
        QualityScorer(scorer.encoder, text=torch.zeros(14, 3))
    with pytest.raises(InputError, match="temperature"):
        QualityScorer(scorer.encoder, temperature=0.0)
    with pytest.raises(InputError, match="finite"):
        scorer.scores(torch.full((1, scorer.encoder.dim), torch.nan))
    with pytest.raises(InputError, match="even number"):
        prompt_quality(torch.ones(1, 4), torch.ones(3, 4))
    with pytest.raises(InputError, match="uint8 pixels"):
        sharpness(torch.zeros(1, 4, 4, dtype=torch.uint8))
    with pytest.raises(UnsupportedModelError, match="by cosines"):
        QualityScorer(create("tiny", geometry="euclidean").eval())
