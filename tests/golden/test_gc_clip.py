"""Guided crops against an independent transcription: every case of the file, at its tolerance."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from loading import load
from torch import Tensor

from tether.methods.gc_clip import GuidedCrops, guided_crops
from tether.methods.gc_clip.guided_crops import crop_boxes, expand_box, random_boxes
from tether.models import create

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
def test_whole_method(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head on the file's embeddings; its scores are means of cosines, the file's logits scaled sums over boxes."""
    crops, boxes = given(f"{prefix}crop_embeds"), iter(given(f"{prefix}boxes"))
    rows = iter([given(f"{prefix}image")[None], crops.flatten(0, 1)])
    text = torch.nn.functional.normalize(given(f"{prefix}text"), dim=1)
    seen: list[int] = []

    def encode(model, images, windows, **how):
        seen.append(len(windows[0]))
        return [next(rows)]

    monkeypatch.setattr(guided_crops, "encode_windows", encode)
    monkeypatch.setattr(guided_crops, "described_weights", lambda model, texts: text)
    k, n = hyper(prefix, "k"), crops.shape[1]
    head = GuidedCrops(propose=lambda image, label: (next(boxes), 1.0), k=k, n=n)
    head.prepare(create("tiny").eval(), [f"class {number}" for number in range(len(text))])
    found = head.predict(torch.zeros(1, 3, *size(prefix), dtype=torch.uint8))
    chosen = given(f"{prefix}candidates")
    close(found.cosine[0, chosen] * float(hyper(prefix, "logit_scale")) * len(chosen), f"{prefix}final_logits")
    assert set(found.order(top=k)[0].tolist()) == set(chosen.tolist())
    assert int(found.order(top=1)[0, 0]) == int(V[f"{prefix}pred"])
    assert seen == [1, len(chosen) * n]


def test_there_are_cases() -> None:
    V.need("final_logits")
