"""Mined pairs of masked crops and nouns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.ovseg.mask_pairs import examples_of, mine_pairs, nouns_of
from tether.models import create
from tether.tasks.classify.zero_shot import class_weights


def world() -> tuple[list[Tensor], list[str], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=generator) for _ in range(3)]
    masks = torch.zeros(3, 40, 50, dtype=torch.bool)
    masks[0, :20], masks[2, 20:, 10:30] = True, True  # the second is empty
    return images, ["a dog and a star", "the dog", "on in at"], [masks, masks.float(), masks]


def test_each_noun_gets_its_best_mask() -> None:
    model = create("tiny").eval()
    images, captions, masks = world()
    found = list(mine_pairs(images, captions, masks, model=model))
    assert [(one.row, one.noun) for one in found] == [(0, "dog"), (0, "star"), (1, "dog")]
    words = class_weights(model, ["dog", "star"], templates=None)
    for one in found:
        assert one.proposal in (0, 2)
        assert one.crop.shape == (3, 32, 32)
        row = model.encode_image(one.crop[None]).unit[0].detach()
        assert one.score == pytest.approx(float(row @ words[0 if one.noun == "dog" else 1]), abs=1e-5)
    assert list(mine_pairs(images, captions, masks, model=model, least=1.0)) == []
    examples = examples_of(found)
    assert (examples.phrases, examples.labels.tolist()) == (("dog", "star"), [0, 1, 0])
    assert examples.crops.shape == (3, 3, 32, 32)
    said = list(mine_pairs(images, captions, masks, model=model, nouns=lambda caption: [caption, caption]))
    assert [one.noun for one in said] == captions


def test_bad_input() -> None:
    model = create("tiny").eval()
    images, captions, masks = world()
    with pytest.raises(InputError, match="that end after 2"):
        list(mine_pairs(images, captions[:2], masks, model=model))
    with pytest.raises(InputError, match="mask: expected bool"):
        list(mine_pairs(images, captions, [masks[0][:, :9]], model=model))
    assert nouns_of("") == ()
    with pytest.raises(InputError, match="expected one at least"):
        examples_of([])
