"""RandAugment and erasing: the same for the same draw, nothing of the global generators moved, the share erased."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.data.placement import Placement
from tether.methods.ft_clip.label_augment import LabelAugment

SPEC = ImageSpec(size=(24, 32))
DRAWS = np.random.default_rng(0).integers(0, 2**63, 400).astype(np.uint64)


def image(rows: int) -> torch.Tensor:
    one = torch.randint(0, 256, (3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return one.expand(rows, -1, -1, -1)


def test_a_row_depends_on_its_draw_alone() -> None:
    change, before = LabelAugment(SPEC, erase=0.5), (random.getstate(), torch.get_rng_state())
    whole = change(image(12), draws=DRAWS[:12])
    parts = torch.cat([change(image(4), draws=DRAWS[place : place + 4]) for place in (0, 4, 8)])
    assert torch.equal(whole, parts)
    assert len({row.numpy().tobytes() for row in whole}) > 10
    assert whole.shape == (12, 3, 24, 32)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_erasing_alone() -> None:
    pixels = image(400)
    erased = LabelAugment(SPEC, rand=None, erase=0.25)(pixels, draws=DRAWS) != pixels
    some = erased.flatten(1).any(1)
    assert 0.18 < some.float().mean() < 0.32
    area = erased.any(1).float().mean((1, 2))[some]
    assert area.min() > 0.015
    assert area.max() < 0.35
    noise = LabelAugment(SPEC, rand=None, erase=1.0)(torch.zeros_like(pixels), draws=DRAWS).float()
    inside = noise.permute(1, 0, 2, 3)[:, (noise > 0).any(1)]
    assert (inside.mean(1) / 255 - torch.tensor(SPEC.mean)).abs().max() < 0.02


def test_without_either_nothing_changes() -> None:
    assert torch.equal(LabelAugment(SPEC, rand=None, erase=0.0)(image(5), draws=DRAWS[:5]), image(5))


@pytest.mark.parametrize(
    ("settings", "said"), [({"rand": "rand-x9"}, "rand: expected words"), ({"erase": 1.5}, "erase")]
)
def test_refuses(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LabelAugment(SPEC, **settings)


@pytest.mark.parametrize("rand", ["rand-m10-n8-p1-inc1", "rand-m9-mstd2.0-n8", "rand-m0-n8-p1"])
def test_the_strongest_and_the_weakest_changes(rand: str) -> None:
    found = LabelAugment(SPEC, rand=rand, erase=0.0)(image(200), draws=DRAWS[:200])
    assert found.shape == (200, 3, 24, 32)
    assert found.dtype == torch.uint8
    assert (found != image(200)).flatten(1).any(1).float().mean() > 0.5


def test_the_frame_stays() -> None:
    assert LabelAugment(SPEC).placements(DRAWS[:2], size=(24, 32)) == [Placement(), Placement()]
