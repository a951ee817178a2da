"""Codes moved towards a text: the released loop step by step, images by themselves, maps given, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.generation import FICE_WEIGHTS, GuidedInversion, PartMaps, RandomViews, SegmenterParser
from tether.generation.edit.kept_parts import changed_outside, code_spread, pasted, stacked_maps
from tether.models import create
from tether.models.embed import encode_texts
from tether.models.latent.style import StyleCodec
from tether.tasks.segment.maskclip import TokenSegmenter, ValueSegmenter

CODEC = StyleCodec(size=16, dim=8, width=8).eval().requires_grad_(False)
MODEL = create("tiny", image_size=16).eval()
IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TEXTS = ["a red dress", "a blue shirt"]


def parser(image: Tensor) -> PartMaps:
    return PartMaps(image[:, :1].sigmoid(), image[:, 1:2].sigmoid(), image.softmax(dim=1))


def editor(**settings: Any) -> GuidedInversion:
    return GuidedInversion(CODEC, MODEL, settings.pop("parser", parser), **{"steps": 3, **settings})


def official(steps: int) -> tuple[Tensor, Tensor, list[float]]:
    """One step more than asked for, shown as it was before the last; written out from the paper."""
    text, parts = F.normalize(encode_texts(MODEL, TEXTS), dim=1), parser(IMAGE)
    w = CODEC.encode(IMAGE * 2 - 1).clone().requires_grad_()
    adam, totals = torch.optim.Adam([w], lr=5e-2), []
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in (MODEL.image_spec.mean, MODEL.image_spec.std))
    made = IMAGE
    for _ in range(steps + 1):
        made = (CODEC.decode(w) + 1) / 2
        image = F.normalize(MODEL.encode_image((made.clamp(0, 1) - mean) / std).pooled, dim=1)
        found, total = parser(made), torch.zeros(())
        for row in range(2):
            total = total + 1 - image[row] @ text[row]
            outside = 1 - parts.body[row]
            total = total + 30 * ((outside * made[row] - outside * IMAGE[row]) ** 2).mean()
            total = total + 10 * ((found.pose[row] - parts.pose[row]) ** 2).mean()
            total = total + ((found.head[row] - parts.head[row]) ** 2).mean()
            total = total + ((w[row, 1:] - w[row, 0]) ** 2).mean()
        adam.zero_grad()
        total.backward()
        adam.step()
        totals.append(total.item())
    return pasted(made, IMAGE, parts.head).detach(), made.detach(), totals


def test_it_is_the_released_loop() -> None:
    image, generated, totals = official(4)
    found = editor(steps=4).edit(IMAGE, TEXTS)
    torch.testing.assert_close(found.image, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.generated, generated, atol=1e-5, rtol=0)
    sums = [sum(FICE_WEIGHTS[name] * each[step] for name, each in found.losses.items()) for step in range(5)]
    torch.testing.assert_close(torch.tensor(sums), torch.tensor(totals))
    torch.testing.assert_close((CODEC.decode(found.w) + 1) / 2, found.generated)
    assert found.losses.keys() == FICE_WEIGHTS.keys()


def test_images_do_not_touch_each_other() -> None:
    both = editor().edit(IMAGE, TEXTS)
    for row, text in enumerate(TEXTS):
        alone = editor().edit(IMAGE[row : row + 1], text)
        torch.testing.assert_close(alone.w[0], both.w[row], atol=1e-4, rtol=0)


def test_views_are_drawn_alike_each_time_and_frames_kept() -> None:
    found = [editor(views=RandomViews(count=2)).edit(IMAGE, "a dress", frames=3) for _ in range(2)]
    assert torch.equal(found[0].w, found[1].w)
    assert [frame.step for frame in found[0].frames] == [0, 1, 2, 3]


def test_terms_of_no_weight_are_not_computed_and_the_rest_follow_theirs() -> None:
    def broken(image: Tensor) -> PartMaps:
        raise AssertionError

    parts = parser(IMAGE)
    plain = editor(weights={"clip": 1.0, "img": 0.0}, parser=broken).edit(IMAGE, TEXTS, parts=parts)
    assert plain.losses.keys() == {"clip"}
    held = editor(weights={"clip": 1.0, "img": 1e4}, steps=40).edit(IMAGE, TEXTS, parts=parts)
    assert held.losses["img"][-1] < 0.9 * held.losses["img"][0]
    near = editor(weights={"clip": 1.0, "w_delta": 1e3}, steps=40).edit(IMAGE, TEXTS)
    assert near.losses["w_delta"][-1] < 0.5 * near.losses["w_delta"][0]


def test_sums_of_probabilities_may_be_a_little_above_1() -> None:
    assert PartMaps(MAP * 0 + 1.0000002, MAP * 0, MAP * 0).size == (MAP.shape[2], MAP.shape[3])


def test_masks_may_be_booleans_and_lie_in_0_to_1() -> None:
    mask = torch.rand(2, 1, 16, 16) > 0.5
    assert PartMaps(mask, mask, mask).body.dtype == torch.float32
    made = IMAGE.flip(0)
    assert torch.equal(pasted(made, IMAGE, mask), pasted(made, IMAGE, mask.float()))
    assert torch.equal(changed_outside(made, IMAGE, mask), changed_outside(made, IMAGE, mask.float()))
    for term in (pasted, changed_outside):
        with pytest.raises(InputError, match="expected numbers from 0 to 1, got 3 to 3"):
            term(made, IMAGE, torch.full((2, 1, 16, 16), 3.0))


def test_maps_may_be_given_in_place_of_a_parser() -> None:
    parts = parser(IMAGE)
    found = editor(parser=None).edit(IMAGE, TEXTS, parts=parts)
    assert found.losses.keys() == {"clip", "img", "w_delta"}
    torch.testing.assert_close(found.image, pasted(found.generated, IMAGE, parts.head))
    kept = editor(parser=None).edit(IMAGE, TEXTS, parts=replace(parts, head=torch.ones_like(parts.head)))
    assert torch.equal(kept.image, IMAGE)


def test_classes_are_gathered_to_parts() -> None:
    maps = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1)
    found = stacked_maps(maps, body=(1, 3), head=(2,))
    torch.testing.assert_close(found.body.flatten(), torch.tensor([0.6]))
    torch.testing.assert_close(found.head.flatten(), torch.tensor([0.3]))
    assert torch.equal(found.pose, maps)


NAMES = ["cloth", "face", "wall"]


def test_a_segmenter_parses_with_gradient_as_it_segments() -> None:
    segmenter = ValueSegmenter().prepare(MODEL, NAMES)
    found = SegmenterParser(segmenter, MODEL, body=["cloth"], head=["face"])
    image = IMAGE.clone().requires_grad_()
    maps = found(image)
    torch.testing.assert_close(maps.pose[:, :2], torch.cat([maps.body, maps.head], dim=1))
    torch.testing.assert_close(maps.pose.sum(dim=1), torch.ones(2, 16, 16))
    (gradient,) = torch.autograd.grad(maps.head.square().sum(), image)
    assert bool(gradient.any())
    pixels = (IMAGE * 255).round().to(torch.uint8)
    again = found(pixels.float() / 255).pose
    scores = torch.stack([torch.from_numpy(one.scores).float() for one in segmenter.predict(list(pixels))])
    wanted = F.interpolate(scores.softmax(dim=1), size=(16, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(again, wanted, atol=2e-3, rtol=0)
    edited = editor(parser=found).edit(IMAGE, TEXTS)
    assert edited.losses.keys() == FICE_WEIGHTS.keys()


def test_it_stops_when_asked_and_gives_up_where_no_number_comes() -> None:
    with pytest.raises(StoppedError):
        editor().edit(IMAGE, TEXTS, should_stop=lambda: True)

    def lost(image: Tensor) -> PartMaps:
        maps = parser(image)
        if image.requires_grad:
            object.__setattr__(maps, "pose", maps.pose * float("nan"))
        return maps

    with pytest.raises(NotFiniteError, match="shape nan"):
        editor(parser=lost).edit(IMAGE, TEXTS)


MAP = torch.full((2, 1, 16, 16), 0.5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: editor(weights={"clips": 1.0}), "weights: expected some of clip, img.*got 'clips'"),
        (lambda: editor(weights={"clip": -1.0}), "clip: expected a finite number of at least 0, got -1.0"),
        (lambda: editor(weights={"shape": 1.0}, parser=None), "expected one above 0, got none"),
        (lambda: GuidedInversion(torch.nn.Identity(), MODEL, parser), "that encodes and decodes, got Identity"),
        (lambda: editor().edit(IMAGE[0], TEXTS), r"image: expected \(b, 3, h, w\)"),
        (lambda: editor().edit(IMAGE * 255, TEXTS), "expected floats from 0 to 1"),
        (lambda: editor().edit(IMAGE[..., :8], TEXTS), r"expected \(b, 3, 16, 16\), got \(2, 3, 16, 8\)"),
        (lambda: editor().edit(IMAGE, ["a", "b", "c"]), "text: expected one with words for all or each of 2 images"),
        (lambda: editor().edit(IMAGE, " "), "text: expected one with words"),
        (lambda: editor(parser=None).edit(IMAGE, TEXTS), "parts: expected the parts of the images"),
        (lambda: editor().edit(IMAGE, TEXTS, w=torch.zeros(2, 8)), r"expected \(b, n, d\) finite codes, got \(2, 8\)"),
        (lambda: editor().edit(IMAGE, TEXTS, w=torch.zeros(2, 1, 8)), "at least two layers"),
        (lambda: editor().edit(IMAGE, TEXTS, w=torch.zeros(1, 3, 8)), "w: expected codes of 2 images, got 1"),
        (lambda: editor().edit(IMAGE, TEXTS, parts=parser(IMAGE[:1])), "parts: expected maps of 2 images"),
        (lambda: editor().edit(IMAGE, TEXTS, parts=parser(IMAGE[..., 8:])), r"of \(16, 16\), got 2 of \(16, 8\)"),
        (lambda: PartMaps(MAP, MAP, MAP * 3), "pose: expected numbers from 0 to 1, got 1.5 to 1.5"),
        (lambda: PartMaps(MAP, MAP * float("nan"), MAP), "head: expected numbers from 0 to 1"),
        (lambda: PartMaps(MAP, MAP[..., :8], MAP), "head: expected the images and size of body"),
        (lambda: PartMaps(MAP[:, 0], MAP, MAP), r"body: expected \(b, 1, h, w\) maps"),
        (lambda: code_spread(torch.zeros(2, 1, 4)), "at least two layers"),
        (lambda: pasted(IMAGE, IMAGE, MAP[..., :8]), r"head: expected \(2, 1, 16, 16\)"),
        (lambda: stacked_maps(IMAGE, body=(0,), head=(0,)), r"different classes, got \[0\]"),
        (lambda: stacked_maps(IMAGE, body=(0,), head=(3,)), "classes from 0 to 2, got 3"),
        (lambda: SegmenterParser(ValueSegmenter(), MODEL, body=NAMES), "a text for each class and no background"),
        (
            lambda: SegmenterParser(TokenSegmenter(background=["sea", "sky"]).prepare(MODEL, NAMES), MODEL, body=NAMES),
            "and no background",
        ),
        (
            lambda: SegmenterParser(TokenSegmenter().prepare(MODEL, NAMES), MODEL, body=["shoe"]),
            "expected some of cloth, face, wall, got 'shoe'",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make, said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()
