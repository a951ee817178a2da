"""Where views lie in their images: pixels, boxes and masks move together."""

import itertools

import numpy as np
import pytest
import torch

from tether.core.types import ImageSpec
from tether.data.augment import AUGMENTATIONS
from tether.data.crops import Crop
from tether.data.images import fitted, resize_and_crop
from tether.data.placement import MaskMover, Placement

WHOLE = Placement()


def coded(height: int, width: int) -> torch.Tensor:
    """An image whose first two channels say where a pixel lies, across and down, 0 to 255."""
    across = np.broadcast_to(np.linspace(0, 255, width)[None], (height, width))
    down = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return torch.from_numpy(np.stack([across, down, np.zeros((height, width))]).round().astype(np.uint8))


def assert_shows(
    view: torch.Tensor, placement: Placement, *, of: tuple[int, int], within: float, known: Placement = WHOLE
) -> None:
    """The pixels of a view of ``coded`` are those that its placement says, away from the border of what is known."""
    rows, columns = view.shape[1:]
    x0, y0, x1, y1 = placement.box
    across, down = (np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows
    across = x0 + (1 - across if placement.flipped else across) * (x1 - x0)
    down = y0 + down * (y1 - y0)
    inner = []
    for place, low, high in ((down, *known.box[1::2]), (across, *known.box[0::2])):
        margin = 0.05 * (high - low)
        inner.append(np.flatnonzero((place > low + margin) & (place < high - margin)))
    here = np.ix_(*inner)
    assert here[0].size * here[1].size > 0.1 * rows * columns
    for channel, place, side in ((0, across[None], of[1]), (1, down[:, None], of[0])):
        expected = np.broadcast_to((place * side - 0.5) / (side - 1) * 255, (rows, columns))
        assert np.abs(view[channel].numpy()[here] - expected[here]).max(initial=0) < within


SIZES = [(100, 300), (301, 97), (64, 64), (500, 480), (30, 40)]


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("resized", [None, (70, 75)])
def test_fitted_says_what_fit_shows(resize, resized):
    for size, to in itertools.product(SIZES, [(64, 64), (48, 80)]):
        spec = ImageSpec(to, resize=resize, resized=resized, interpolation="bilinear")
        assert_shows(resize_and_crop(coded(*size), spec), fitted(*size, spec), of=size, within=2.0)


def test_fitted_of_a_very_long_image_is_its_middle():
    spec = ImageSpec((8, 8))
    x0, y0, x1, y1 = fitted(10, 3000, spec).box
    assert (y0, y1) == (0, 1)
    assert (x0 + x1) / 2 == pytest.approx(0.5, abs=1e-3)
    assert x1 - x0 == pytest.approx(10 / 3000, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": (0.2, 0.6), "flip": 0.5},
        {"scale": (0.05, 1.0), "ratio": (0.3, 3.0), "size": (40, 72)},
        {"flip": 1.0, "size": 50},
        {"scale": (0.3, 0.9), "augment": {"name": "chain", "parts": ["flip", "shift_scale", "flip"]}},
    ],
)
def test_the_box_of_a_crop_is_where_its_pixels_come_from(settings):
    crop = Crop(**settings)
    spec = crop.spec(ImageSpec((64, 64), interpolation="bilinear"))
    for draw, size in itertools.product(range(12), SIZES[:4]):
        place = crop.draw("view", draw=draw, height=size[0], width=size[1], spec=spec, others={})
        view = crop.changed("view", [crop.cut(coded(*size), place, spec)], draws=np.array([draw], np.uint64))[0]
        small = min(place.box[2] - place.box[0], place.box[3] - place.box[1])
        assert view.shape == (3, *spec.size)
        moved, within = crop.moved("view", place, draw=draw, spec=spec), 2.0 if small > 0.2 else 3.0
        assert_shows(view, moved, of=size, within=within, known=place if settings.get("augment") else WHOLE)


def test_windows_are_drawn_within_scale_and_ratio():
    crop = Crop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = np.array(
        [
            crop.draw(
                "v", draw=hash((d, 7)) & (2**63 - 1), height=400, width=600, spec=ImageSpec((64, 64)), others={}
            ).box
            for d in range(400)
        ]
    )
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, ratio = wide * high, wide * 600 / (high * 400)
    assert 0.19 < area.min() < 0.22
    assert 0.48 < area.max() < 0.51
    assert 0.49 < ratio.min() < 0.56
    assert 1.8 < ratio.max() < 2.02
    assert abs(np.log(ratio).mean()) < 0.1
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    assert boxes[:, 0].min() < 0.02
    assert boxes[:, 2].max() > 0.98


def test_what_never_fits_is_the_largest_window_of_the_nearest_aspect():
    crop = Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    place = crop.draw("v", draw=1, height=10, width=40, spec=ImageSpec((8, 8)), others={})
    assert place.box == (0.375, 0.0, 0.625, 1.0)
    tiny = Crop(scale=(0.01, 0.01)).draw("v", draw=1, height=1, width=1, spec=ImageSpec((8, 8)), others={})
    assert tiny.box == (0, 0, 1, 1)


def test_a_view_around_others_holds_them_and_stays_inside():
    part, whole = Crop(scale=(0.1, 0.5)), Crop(around=["a", "b"])
    spec, areas = ImageSpec((8, 8)), []
    for draw in range(60):
        size = {"height": 120, "width": 90}
        others = {name: part.draw(name, draw=draw, spec=spec, others={}, **size) for name in "ab"}
        x0, y0, x1, y1 = whole.draw("c", draw=draw, spec=spec, others=others, **size).box
        for other in others.values():
            assert x0 <= other.box[0] + 1e-9
            assert y0 <= other.box[1] + 1e-9
            assert x1 >= other.box[2] - 1e-9
            assert y1 >= other.box[3] - 1e-9
        assert min(x0, y0) >= 0
        assert max(x1, y1) <= 1
        areas.append((x1 - x0) * (y1 - y0))
    assert np.std(areas) > 0.05


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_say_where_they_move_pixels(name):
    spec = {"name": name, "parts": ["flip", "shift_scale", "flip"]} if name == "chain" else name
    part = AUGMENTATIONS[name](**({"parts": spec["parts"]} if isinstance(spec, dict) else {}))
    image = coded(60, 80)
    draws = np.random.default_rng(0).integers(0, 2**63, 24).astype(np.uint64)
    out = part(image.expand(24, -1, -1, -1).contiguous(), draws=draws)
    placements = part.placements(draws, size=(60, 80))
    assert len(placements) == 24
    if name in ("colour", "hue", "grey", "blur", "solarise", "sometimes"):
        assert set(placements) == {Placement()}
        return
    for view, placement in zip(out, placements, strict=True):
        assert_shows(view, placement, of=(60, 80), within=3.0)


def warped(mask: np.ndarray, placement: Placement, size: tuple[int, int], finer: int = 16) -> np.ndarray:
    """The share of every pixel of a view that a mask covers, counted point by point."""
    x0, y0, x1, y1 = placement.box
    across = x0 + (np.arange(size[1] * finer) + 0.5) / (size[1] * finer) * (x1 - x0)
    down = y0 + (np.arange(size[0] * finer) + 0.5) / (size[0] * finer) * (y1 - y0)
    if placement.flipped:
        across = across[::-1]
    rows, columns = np.floor(down * mask.shape[0]).astype(int), np.floor(across * mask.shape[1]).astype(int)
    inside = np.ix_((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    points = np.zeros((len(rows), len(columns)))
    points[inside] = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))][inside]
    return points.reshape(size[0], finer, size[1], finer).mean((1, 3))


def test_masks_and_boxes_move_as_a_brute_force_warp_does():
    rng = np.random.default_rng(1)
    for _ in range(25):
        height, width = rng.integers(5, 60, 2)
        mask = np.zeros((height, width), bool)
        left, top = rng.integers(0, width), rng.integers(0, height)
        right, bottom = rng.integers(left + 1, width + 1), rng.integers(top + 1, height + 1)
        mask[top:bottom, left:right] = True
        x0, y0 = rng.uniform(-0.2, 0.6, 2)
        placement = Placement((x0, y0, x0 + rng.uniform(0.2, 0.9), y0 + rng.uniform(0.2, 0.9)), bool(rng.integers(2)))
        size = (int(rng.integers(4, 40)), int(rng.integers(4, 40)))
        share = warped(mask, placement, size)
        found = MaskMover(mask).seen(placement, size=size)
        clear = np.abs(share - 0.5) > 0.1
        assert (found == (share >= 0.5))[clear].all()
        boxes, left_over = placement.moved(np.array([[left / width, top / height, right / width, bottom / height]]))
        pixels = size[0] * size[1]
        area = (boxes[0, 2] - boxes[0, 0]) * (boxes[0, 3] - boxes[0, 1])
        assert area * pixels == pytest.approx(share.sum(), abs=0.06 * pixels**0.5 + 0.05)
        view = (placement.box[2] - placement.box[0]) * (placement.box[3] - placement.box[1])
        assert left_over[0] == pytest.approx(area * view / ((right - left) * (bottom - top) / (height * width)))
        if share.sum() > 1:
            rows, columns = np.nonzero(share > 0)
            outer = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(boxes[0] * [size[1], size[0], size[1], size[0]] - outer).max() <= 1.01


def test_views_of_views():
    whole, part = Placement((0.1, 0.2, 0.6, 1.0), True), Placement((0.0, 0.5, 0.25, 1.5), True)
    both = whole.then(part)
    box = np.array([[0.45, 0.55, 0.62, 0.7]])
    inner, _ = whole.moved(box)
    assert np.allclose(part.moved(inner)[0], both.moved(box)[0])
    assert both.flipped is False
    assert whole.then(Placement()) == whole
