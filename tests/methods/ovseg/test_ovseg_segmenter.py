"""Pieces named by their masked crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.methods.ovseg import OvsegSegmenter
from tether.methods.ovseg.mask_prompts import add_mask_prompts_
from tether.models import create
from tether.tasks.segment import ValueSegmenter

CLASSES = ["road", "car", "sky"]


def image(*size: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def halves(picture: Tensor) -> Tensor:
    masks = torch.zeros(3, *picture.shape[1:], dtype=torch.bool)
    masks[0, : picture.shape[1] // 2], masks[1, picture.shape[1] // 2 :] = True, True  # the third is empty
    return masks


def test_without_weight_for_patches_a_piece_has_the_class_of_its_crop() -> None:
    model = create("tiny", seed=1).eval()
    segmenter = OvsegSegmenter(weight=1.0, proposer=halves).prepare(model, CLASSES)
    picture = image(64, 32)
    found = segmenter.predict([picture])[0]
    with torch.no_grad():
        rows = torch.cat([model.encode_image(part[None]).unit for part in (picture[:, :32], picture[:, 32:])])
    expected = (rows @ segmenter.rows.T).argmax(dim=1).tolist()
    assert [int(found.labels[0, 0]), int(found.labels[-1, -1])] == expected
    assert len(np.unique(found.labels[:30])) == 1
    np.testing.assert_allclose(np.exp(found.scores).sum(axis=0), 1, rtol=1e-4)


def test_with_all_weight_for_patches_pieces_keep_their_class() -> None:
    model = create("tiny", seed=1).eval()
    picture = image(50, 90)
    plain = ValueSegmenter().prepare(model, CLASSES).predict([picture])[0]
    same = OvsegSegmenter(piece=1.0).prepare(model, CLASSES).predict([picture])[0]
    assert np.mean(plain.labels != same.labels) < 0.01


def test_mask_prompts_are_asked() -> None:
    model = create("tiny", seed=1).eval()
    stem = add_mask_prompts_(model, depth=2, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(stem.prompts, generator=torch.Generator().manual_seed(1))
    picture = image(64, 64)

    def ring(one: Tensor) -> Tensor:
        mask = torch.ones(1, *one.shape[1:], dtype=torch.bool)
        mask[0, 8:-8, 8:-8] = False
        return mask

    own, none = (
        OvsegSegmenter(prompts=which, proposer=ring).prepare(model, CLASSES).predict([picture])[0]
        for which in ("own", "none")
    )
    assert not np.allclose(own.scores, none.scores)


def test_bad_input() -> None:
    model = create("tiny", seed=1).eval()
    for wrong in (lambda one: halves(one)[:, :9], lambda one: halves(one).float()):
        with pytest.raises(InputError, match="mask: expected bool"):
            OvsegSegmenter(proposer=wrong).prepare(model, CLASSES).predict([image(32, 32)])
    for name, value in (("weight", 1.5), ("pieces", 0), ("prompts", "some")):
        with pytest.raises(InputError, match=name):
            OvsegSegmenter(**{name: value})  # pyrefly: ignore
    large = OvsegSegmenter(proposer=halves).prepare(model, CLASSES).predict([image(600, 40)])[0]
    assert large.size == (600, 40)
    assert large.scores is not None
    assert max(large.scores.shape[1:]) == 512
