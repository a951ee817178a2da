"""FT-CLIP's settings, and its loss beside timm's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.methods.ft_clip import ClassifierRecipe, LabelLoss
from tether.methods.ft_clip.recipe import PUBLISHED


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_published_settings() -> None:
    made = {name: ClassifierRecipe.from_name(name) for name in PUBLISHED}
    table = {
        name: (one.learning_rate, one.layer_decay, one.epochs, one.warmup, one.patches) for name, one in made.items()
    }
    assert table == {
        "b16": (6e-4, 0.6, 50, 0.2, "frozen"),
        "b16_384": (7e-4, 0.6, 50, 0.2, "tuned"),
        "l14": (4e-4, 0.65, 30, 1 / 6, "tuned"),
    }
    assert {(one.batch_size, one.weight_decay, one.ema, one.mixup, one.cutmix) for one in made.values()} == {
        (2048, 0.05, 0.9998, 0.0, 0.0)
    }
    recipe = made["b16"]
    schedule, change = recipe.schedule(steps=100), recipe.augment(ImageSpec(size=(16, 16)))
    rates = [recipe.learning_rate * schedule.factor(step, steps=100) for step in range(100)]
    assert (rates[0], rates[19], rates[20]) == pytest.approx((1e-6, 6e-4, 6e-4))
    assert 1e-6 < rates[-1] < 3e-6
    assert [recipe.momentum(steps=steps) for steps in (1, 10)] == [0.0, 0.0]
    assert (change.rand, change.erase, recipe.least_crop) == ("rand-m9-mstd0.5-inc1", 0.25, 0.08)


def test_smoothed_labels_are_timm_s() -> None:
    logits, labels = drawn(6, 4), torch.arange(6) % 4
    loss = LabelLoss(classes=4, label_smoothing=0.1)
    image, target = loss.mixed(drawn(6, 3, 8, 8), labels, step=0)
    assert torch.equal(image, drawn(6, 3, 8, 8))
    found = loss(logits, target, labels=labels)
    torch.testing.assert_close(found.total, LabelSmoothingCrossEntropy(0.1)(logits, labels))
    assert found.terms["accuracy"] == (logits.argmax(1) == labels).float().mean()


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0}])
def test_images_are_mixed_by_the_step_alone(settings: dict[str, float]) -> None:
    logits, labels = drawn(6, 4), torch.arange(7) % 4
    pixels = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loss = LabelLoss(classes=4, label_smoothing=0.1, **settings)
    image, target = loss.mixed(pixels, labels, step=3)
    again, same = loss.mixed(pixels, labels, step=3)
    other, _ = loss.mixed(pixels, labels, step=4)
    assert torch.equal(image, again)
    assert torch.equal(target, same)
    assert not torch.equal(image, other)
    assert image.dtype == torch.uint8
    assert image.shape[0] == target.shape[0] == 6
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    found = loss(logits, target, labels=labels)
    torch.testing.assert_close(found.total, SoftTargetCrossEntropy()(logits, target))


def test_mixed_pixels_and_targets_have_one_share() -> None:
    pixels = torch.cat([torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 200.0)])
    image, target = LabelLoss(classes=2, mixup=1.0).mixed(pixels, torch.tensor([0, 1]), step=0)
    torch.testing.assert_close(image[0, 0, 0, 0] / 200, target[0, 1])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ClassifierRecipe(warmup_rate=1.0), "warmup_rate: expected at most the learning_rate"),
        (lambda: ClassifierRecipe(layer_decay=0.0), "layer_decay"),
        (lambda: ClassifierRecipe(layer_decay=1.1), "layer_decay"),
        (lambda: ClassifierRecipe(warmup=1.0), "warmup"),
        (lambda: ClassifierRecipe(rand_augment="strong"), "rand: expected words"),
        (lambda: ClassifierRecipe(ema=1.0), "ema"),
        (lambda: ClassifierRecipe.from_name("b17"), "none is called 'b17'; did you mean 'b16'"),
        (
            lambda: LabelLoss(classes=2).mixed(drawn(2, 3, 4, 4), torch.tensor([0, 2]), step=0),
            "labels: expected 0 to 1",
        ),
        (lambda: LabelLoss(classes=2).mixed(drawn(2, 3, 4, 4), torch.tensor([0.0, np.nan]), step=0), "integers"),
        (lambda: LabelLoss(classes=2, mixup=1.0).mixed(drawn(1, 3, 4, 4), torch.tensor([0]), step=0), "at least two"),
    ],
)
def test_refuses(call: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()
