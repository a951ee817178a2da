"""Boxes that nobody drew, what they show, and phrases out of captions."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.data.captions.concepts import concept_pool
from tether.data.region_proposals import (
    cut_regions,
    enlarged,
    jittered,
    random_boxes,
    random_crops,
    random_grids,
    sized_boxes,
)
from tether.methods.cloc.phrase_regions import phrase_regions


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_grids_are_those_of_the_paper():
    boxes, valid = random_grids(400, generator=chance(), max_split=6, most=36)
    seen = set()
    for some, which in zip(boxes, valid, strict=True):
        cells = some[which]
        sides = cells[:, 2:] - cells[:, :2]
        columns, rows = (round(1 / float(side)) for side in sides[0])
        assert len(cells) == rows * columns
        assert torch.allclose(sides.prod(dim=1).sum(), torch.tensor(1.0), atol=1e-5)
        seen.add((rows, columns))
    assert seen == {(m, n) for m in range(1, 7) for n in range(1, 7) if m / 2 <= n <= 2 * m}
    few, which = random_grids(50, generator=chance(), most=20)
    assert few.shape == (50, 20, 4)
    assert not few[~which].any()
    assert which.sum(dim=1).max() == 20


def test_random_boxes_lie_on_their_grid():
    boxes = random_boxes(200, generator=chance(), size=(48, 64))
    pixels = boxes * torch.tensor([64, 48, 64, 48])
    assert torch.equal(pixels.round() % 8, torch.zeros_like(pixels))
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    with pytest.raises(InputError, match="at least 8 pixels"):
        random_boxes(1, generator=chance(), size=(4, 64))


def test_crops_have_their_area_and_ratio():
    boxes = random_crops(300, generator=chance(), size=(40, 60))
    sides = boxes[..., 2:] - boxes[..., :2]
    area = sides.prod(dim=2)
    assert (area >= 0.29).all()
    assert (area <= 0.701).all()
    free = (sides < 1 - 1e-6).all(dim=2)
    ratio = (sides[..., 0] * 60 / (sides[..., 1] * 40))[free]
    assert (ratio >= 0.74).all()
    assert (ratio <= 1.34).all()
    with pytest.raises(InputError, match="smaller number first"):
        random_crops(1, generator=chance(), size=(4, 4), scale=(0.5, 0.2))


def test_boxes_moved_enlarged_and_sized():
    boxes = torch.tensor([[[0.2, 0.2, 0.4, 0.6], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]])
    moved = jittered(boxes, share=0.1, noise=torch.rand(boxes.shape, generator=chance()))
    with pytest.raises(InputError, match="noise: expected"):
        jittered(boxes, share=0.1, noise=torch.rand(4))
    assert (moved - boxes)[0, 0].abs().max() <= 0.04 + 1e-6
    assert torch.equal(moved[0, 2], boxes[0, 2])
    assert (moved <= 1).all()
    torch.testing.assert_close(enlarged(boxes)[0, 0], torch.tensor([0.15, 0.1, 0.45, 0.7]))
    torch.testing.assert_close(enlarged(boxes)[0, 1], boxes[0, 1])
    valid = torch.tensor([[True, True, False]])
    found, kept = sized_boxes(boxes, valid=valid, size=(64, 64), least=8, most=40)
    assert kept.tolist() == [[True, False, False]]
    assert not found[~kept].any()
    corner, kept = sized_boxes(boxes, valid=torch.zeros_like(valid), size=(64, 64))
    assert kept.tolist() == [[True, False, False]]
    assert corner[0, 0].tolist() == [0.0, 0.0, 0.25, 0.25]


def test_cut_regions_show_the_pixels_inside():
    images = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(2, 3, 8, 8)
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]]]).expand(2, 2, 4)
    valid = torch.tensor([[True, False], [True, True]])
    found = cut_regions(images, boxes, valid=valid, size=(4, 4))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 3, 4, 4)
    assert torch.equal(found[0], images[0, :, 4:, 2:6])
    means = images[1].float().unflatten(2, (4, 2)).unflatten(1, (4, 2)).mean(dim=(2, 4))
    assert torch.equal(found[2], means.round().to(torch.uint8))
    none = cut_regions(images, boxes, valid=torch.zeros_like(valid), size=(4, 4))
    assert none.shape == (0, 3, 4, 4)
    with pytest.raises(InputError, match="expected images"):
        cut_regions(images, boxes[:1], valid=valid, size=(4, 4))


def test_concepts_are_counted_phrases():
    captions = ["A red star, and two small dogs.", "the red star runs", "a dog (small) near the red star"]
    pool = concept_pool(captions, min_count=1)
    assert pool[0] == "red star"
    assert "small dogs" in pool
    assert concept_pool(captions, min_count=1, most=2) == pool[:2]
    with pytest.raises(InputError, match="at least 2 phrases that stand 4 times"):
        concept_pool(captions, min_count=4)


def test_a_detector_finds_the_phrases_of_a_caption():
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    seen = []

    def detect(image, phrases):
        seen.append(list(phrases))
        return [((0.0, 0.0, 0.5, 0.5), 0.9, 1), ((0.0, 0.0, 0.05, 0.05), 0.9, 0), ((0.0, 0.0, 1.0, 1.0), 0.01, 0)]

    found = phrase_regions(pixels, "a dog, a red star and a dog", detect=detect, least_area=0.1)
    assert seen == [["dog", "red star"]]
    assert found.phrases == ["red star"]
    assert found.boxes.tolist() == [[0.0, 0.0, 0.5, 0.5]]
    assert phrase_regions(pixels, "of and the", detect=detect).boxes.shape == (0, 4)
    for bad, words in (([(5, 5, 60, 60), 0.9, 0], "in shares of the image"), ([(0, 0, 1, 1), 0.9, 7], "one of 2")):
        with pytest.raises(InputError, match=words):
            phrase_regions(pixels, "a dog and a star", detect=lambda *_, bad=bad: [bad])
