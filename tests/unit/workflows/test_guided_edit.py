"""An auto-encoder learnt from a folder, and an image changed by a text with a mask or with words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tether.core.errors import InputError, StoppedError
from tether.core.types import ImageSpec
from tether.data.images import load
from tether.models import create
from tether.models.latent.style import StyleCodec
from tether.workflows.guided_edit import edit_to, learn_codes

SETTINGS = {"size": 16, "dim": 8, "width": 8}
PEOPLE = "people:rows=40,size=32"
MODEL = create("tiny", image_size=16).eval()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """An image of 40 x 30, a mask whose right half is white, and codes."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(np.full((30, 40), 255, dtype=np.uint8)).save(tmp_path / "all.png")
    Image.fromarray(mask[:10]).save(tmp_path / "small.png")
    StyleCodec(size=16, dim=8, width=8).save(tmp_path / "codes.safetensors")
    return {path.stem: path for path in tmp_path.iterdir()}


def square(files: dict[str, Path]) -> torch.Tensor:
    """The image as it is worked on."""
    return load(files["image"], ImageSpec((16, 16))).float() / 255


def test_codes_are_learnt_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    found = learn_codes(PEOPLE, out=tmp_path / "whole", settings=SETTINGS, steps=6, batch_size=4)
    assert (found.images, found.bad) == (38, 0)
    assert found.loss is not None
    assert found.psnr > 0
    calls = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) == 3

    with pytest.raises(StoppedError):
        learn_codes(PEOPLE, out=tmp_path / "parts", settings=SETTINGS, steps=6, batch_size=4, should_stop=stop)
    with pytest.raises(InputError, match="batch_size 4, asked for 8"):
        learn_codes(PEOPLE, out=tmp_path / "parts", settings=SETTINGS, steps=6, batch_size=8)
    learn_codes(PEOPLE, out=tmp_path / "parts", settings=SETTINGS, steps=6, batch_size=4)
    whole, parts = (StyleCodec.load(tmp_path / name) for name in ("whole", "parts"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert not (tmp_path / "parts.learning").exists()
    assert whole.settings["spread"] > 0


def test_a_mask_says_what_may_change(files: dict[str, Path], tmp_path: Path) -> None:
    found = edit_to(
        files["image"], "a red dress", model=MODEL, codes=files["codes"], mask=files["mask"], steps=4, frames=2,
        judge=create("tiny", seed=1, image_size=16).eval(),
    )  # fmt: skip
    shown = square(files)
    torch.testing.assert_close(found.image[:, :, :7], shown[:, :, :7])
    assert not torch.equal(found.image[:, :, 9:], shown[:, :, 9:])
    assert found.judged is not None
    assert len(found.change) == 2
    assert found.change[1] < found.change[0]
    assert "what should stay was kept with" in found.remarks[0]
    assert "makes this image again with" in found.remarks[1]
    assert Image.open(found.save_png(tmp_path / "out.png")).size == (16, 16)
    frames = found.save_frames(tmp_path / "frames")
    assert sorted(path.name for path in frames.iterdir()) == ["000000.png", "000002.png", "000004.png"]
    page = found.film(tmp_path / "film.html").read_text()
    assert "what should stay" in page
    assert "Edited by <code>tether edit</code>" in page
    assert not re.search(r"[Dd]raw[ni]|tether draw", page.split("</style>")[1].split("<script")[0])


def test_words_find_what_may_change(files: dict[str, Path]) -> None:
    found = edit_to(
        files["image"], "a red dress", model=MODEL, codes=files["codes"], change=["dress"], keep_words=["face"],
        rest=["wall"], steps=2, views=2,
    )  # fmt: skip
    assert found.painting.losses.keys() == {"clip", "img", "shape", "head_shape", "w_delta"}
    both = edit_to(
        files["image"], "a red dress", model=MODEL, codes=files["codes"], change=["dress"], rest=["wall"],
        mask=files["mask"], steps=2,
    )  # fmt: skip
    torch.testing.assert_close(both.image[:, :, :7], square(files)[:, :, :7])


def test_an_edit_that_was_stopped_goes_on_bit_for_bit(files: dict[str, Path], tmp_path: Path) -> None:
    def made(**settings: Any) -> torch.Tensor:
        words = {"change": ["dress"], "rest": ["wall"]}
        found = edit_to(
            files["image"], "a red dress", model=MODEL, codes=files["codes"], steps=6, views=2, **words, **settings
        )
        return found.image

    calls = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) == 3

    state = tmp_path / "edit.painting"
    whole = made()
    with pytest.raises(StoppedError, match="--resume goes on"):
        made(state=state, should_stop=stop)
    with pytest.raises(InputError, match="of another painting: seed"):
        made(state=state, resume=True, seed=1)
    assert torch.equal(made(state=state, resume=True), whole)
    with pytest.raises(InputError, match="is there: --resume goes on"):
        made(state=state)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": " ", "mask": "mask"}, "--to: expected a text with words"),
        ({}, "expected a mask of what may change, or words"),
        ({"mask": "mask", "rest": ["wall"]}, "--change: expected words"),
        ({"mask": "all"}, r"all\.png: expected some of the image, but not all, to be white, got all"),
        ({"mask": "small"}, r"small\.png: expected the image's 30 x 40 pixels"),
        ({"mask": "codes"}, "codes"),
        ({"mask": "mask", "codes": "mask"}, r"mask\.png"),
        ({"change": ["dress"]}, "dress"),
    ],
)
def test_what_does_not_fit_is_refused(files: dict[str, Path], settings: dict, said: str) -> None:
    given = {"text": "a red dress", "codes": "codes", **settings}
    paths = {name: files[given[name]] for name in ("mask", "codes") if name in given}
    with pytest.raises(InputError, match=said):
        edit_to(files["image"], model=MODEL, steps=1, **{**given, **paths})
