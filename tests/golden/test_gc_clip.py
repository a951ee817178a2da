"""Guided crops against an independent transcription: every case of the file, at its tolerance."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.tasks.classify.guided_crops import (
    box_logits,
    candidate_classes,
    crop_boxes,
    expand_box,
    guided_crop_logits,
    random_boxes,
)

V = load("gc-clip")
HYPER = V.meta["hyper"]
LIMIT = float(re.search(r"rtol\s+(\S+)", str(V.meta["tolerance"]))[1])  # pyrefly: ignore
CASES = sorted(name.removesuffix("final_logits") for name in V.arrays if name.endswith("final_logits"))
cases = pytest.mark.parametrize("prefix", CASES)


def given(name: str) -> Tensor:
    return torch.from_numpy(V[name].copy())


def hyper(prefix: str, name: str):
    own = HYPER.get(prefix.rstrip("_/."), HYPER)
    return own.get(name, HYPER.get(name)) if isinstance(own, dict) else HYPER[name]


def size(prefix: str) -> tuple[int, int]:
    return hyper(prefix, "H"), hyper(prefix, "W")


def close(ours: Tensor, name: str) -> None:
    np.testing.assert_allclose(ours.numpy(), V[name], rtol=LIMIT, atol=LIMIT)


@cases
def test_boxes(prefix: str) -> None:
    boxes, ratios = given(f"{prefix}boxes"), given(f"{prefix}margin_ratios")
    close(expand_box(boxes[:, None], ratio=ratios, size=size(prefix)), f"{prefix}margin_boxes")
    close(crop_boxes(boxes, size=size(prefix), augment="multi", n=len(ratios)), f"{prefix}margin_boxes")
    ours = random_boxes(boxes, uniforms=given(f"{prefix}uniforms"), size=size(prefix))
    close(ours, f"{prefix}random_boxes")


@cases
def test_logits_in_pieces(prefix: str) -> None:
    text, scale = given(f"{prefix}text"), float(hyper(prefix, "logit_scale"))
    full = box_logits(given(f"{prefix}image")[None, None], class_texts=text, scale=scale)[0]
    close(full, f"{prefix}full_logits")
    chosen = candidate_classes(full, k=hyper(prefix, "k"))
    assert torch.equal(chosen, given(f"{prefix}candidates"))
    each = box_logits(given(f"{prefix}crop_embeds"), class_texts=text[chosen], scale=scale)
    close(each, f"{prefix}per_box_logits")
    close(each.sum(0), f"{prefix}final_logits")


@cases
def test_whole_method(prefix: str) -> None:
    crops, boxes = given(f"{prefix}crop_embeds"), given(f"{prefix}boxes")
    embeddings = iter([given(f"{prefix}image")[None], crops.flatten(0, 1)])
    seen: list[list[tuple[int, ...]]] = []

    def encode(parts):
        seen.append([tuple(part.shape) for part in parts])
        return next(embeddings)

    found = iter(boxes)
    logits, chosen = guided_crop_logits(
        torch.zeros(3, *size(prefix), dtype=torch.uint8),
        class_texts=given(f"{prefix}text"),
        encode_image=encode,
        propose=lambda image, label: (next(found), 1.0),
        k=hyper(prefix, "k"),
        n_aug=crops.shape[1],
        scale=float(hyper(prefix, "logit_scale")),
        return_candidates=True,
    )
    assert torch.equal(chosen, given(f"{prefix}candidates"))
    close(logits[chosen], f"{prefix}final_logits")
    assert int(logits.argmax()) == int(V[f"{prefix}pred"])
    assert int(logits.isfinite().sum()) == len(chosen)
    assert [len(parts) for parts in seen] == [1, crops.shape[0] * crops.shape[1]]


def test_there_are_cases() -> None:
    V.need("final_logits")
