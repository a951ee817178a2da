"""Fine maps in the place of patches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tether
from tether.adaptation.heads import LinearHead
from tether.core.errors import InputError
from tether.methods.featsharp import Sharpener, SharpenerHead, SharpSegmenter
from tether.models import create
from tether.models.features.windows import Windows
from tether.tasks.segment import Segmenter, ValueSegmenter

CLASSES = ["road", "car", "sky"]


def image(*size: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_maps_are_finer_and_masks_as_large() -> None:
    model = create("tiny", seed=1).eval()
    segmenter = SharpSegmenter(sharpener=Sharpener(64, grid=(4, 4)))
    assert isinstance(segmenter, Segmenter)
    (found,) = segmenter.prepare(model, CLASSES).predict([image(40, 100)])
    assert found.size == (40, 100)
    assert found.scores is not None
    plain = ValueSegmenter().prepare(model, CLASSES).predict([image(40, 100)])[0].scores
    assert plain is not None
    assert found.scores.shape == (3, *(2 * side for side in plain.shape[1:]))


def test_alone_it_is_the_map_enlarged() -> None:
    model = create("tiny", seed=1).eval()
    segmenter = SharpSegmenter(sharpener=Sharpener(64, grid=(4, 4), factor=1, inputs=("bilinear",)))
    sharp, plain = (
        one.prepare(model, CLASSES).predict([image(64, 48)])[0].scores for one in (segmenter, ValueSegmenter())
    )
    torch.testing.assert_close(torch.from_numpy(sharp), torch.from_numpy(plain), atol=1e-3, rtol=1e-3)


def test_from_a_file(tmp_path: Path) -> None:
    model = create("tiny", seed=1).eval()
    SharpenerHead(Sharpener(64, grid=(4, 4))).bind_(model).save(tmp_path / "one")
    found = tether.segment("scenes:rows=2,size=64", "circle,star", model=model, sharpen=tmp_path / "one")
    assert found.method == "sharp"
    with pytest.raises(InputError, match="leave --with and --head out"):
        tether.segment("scenes:rows=2,size=64", CLASSES, model=model, sharpen=tmp_path / "one", using="values")
    with pytest.raises(InputError, match="was fitted on an image side with digest"):
        tether.segment("scenes:rows=2,size=64", CLASSES, model=create("tiny", seed=2), sharpen=tmp_path / "one")


def test_bad_input() -> None:
    model = create("tiny", seed=1).eval()
    with pytest.raises(InputError, match="one of 64 channels, got 16"):
        SharpSegmenter(sharpener=Sharpener(16, grid=(4, 4))).prepare(model, CLASSES)
    segmenter = SharpSegmenter(sharpener=Sharpener(64, grid=(4, 4)))
    with pytest.raises(InputError, match="scales"):
        segmenter.prepare(model, CLASSES, windows=Windows(fit="whole", scales=(1.0, 2.0)))
    probe = LinearHead(torch.eye(2, 64), classes=("road", "car"))
    with pytest.raises(InputError, match="tether adapt made by sharpen, got one of kind linear"):
        tether.segment("scenes:rows=2,size=64", CLASSES, model=model, sharpen=probe)
    head = SharpenerHead(Sharpener(64, grid=(4, 4))).bind_(model)
    with pytest.raises(InputError, match=r"made by .*mask-aware.*, got one of kind sharpener"):
        tether.segment("scenes:rows=2,size=64", CLASSES, model=model, head=head)
    with pytest.raises(InputError, match="use tether segment --sharpen"):
        tether.classify("scenes:rows=2,size=64", model=model, head=head)
