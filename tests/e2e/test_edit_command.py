"""``tether edit`` and ``tether.edit``: styles, morphs, files, resuming, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.models import create
from tether.models.towers.clip import Clip
from tether.workflows.edit import edited

PIXELS = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MASK = torch.zeros(40, 60, dtype=torch.bool)
MASK[10:30, 20:50] = True
WAYS: dict[str, dict[str, Any]] = {
    "style": {"style": "a red cat", "crops": 4},
    "regions": {"style": "a red cat", "ground": "a blue mat", "mask": MASK, "crops": 4},
    "morph": {"morph": "a red cat", "source": "a blue cat", "views": 2},
    "pixels": {"morph": "a red cat", "canvas": "pixels", "similarity": "cosine", "views": 2},
}


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


@pytest.fixture
def files(model: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tether.save(model, tmp_path / "m")
    Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).save("cat.png")
    Image.fromarray(MASK.numpy().astype(np.uint8) * 7).save("mask.png")
    Image.fromarray(MASK.numpy()[:20].astype(np.uint8)).save("short.png")
    Image.fromarray(np.ones((40, 60), np.uint8)).save("all.png")
    Image.fromarray(np.zeros((40, 60), np.uint8)).save("none.png")
    Path("bad.png").write_text("no image")
    return tmp_path


@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_way_changes_an_image_and_goes_on_where_it_was_stopped(way: str, model: Clip, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": model, "steps": 4, "frames": 2, "rate": 0.01, **WAYS[way]}
    whole = tether.edit(PIXELS, **settings)
    assert whole.image.shape == (3, 40, 60)
    assert len(whole.change) == 1 + (way == "regions")
    assert whole.change[0] > 0.1
    assert [frame.step for frame in whole.painting.frames] == [0, 2, 4]
    assert "a red cat" in whole._repr_html_()
    state, answers = tmp_path / "state", iter([False, True])
    with pytest.raises(StoppedError, match=r"stopped after step 2 of 4; .*--resume"):
        tether.edit(PIXELS, **settings, state=state, should_stop=lambda: next(answers))
    with pytest.raises(InputError, match="another painting: image was"):
        tether.edit(255 - PIXELS, **settings, state=state, resume=True)
    found = tether.edit(PIXELS, **settings, state=state, resume=True)
    assert torch.equal(found.image, whole.image)
    found.remove_state()
    assert not list(tmp_path.iterdir())


def test_writes_an_image_frames_a_film_and_what_it_says(files: Path, call: Any) -> None:
    outputs = ["--out", "a.png", "--frames", "way", "--html", "a.html", "--json", "a.json"]
    more = ["--steps", "2", "--frame-count", "2", "--crops", "2", "--size", "32", "--judge", "m"]
    texts = ["--style", "a <b>red</b> cat", "--mask", "mask.png"]
    said = call("edit", "cat.png", "--model", "m", *texts, *outputs, *more)
    assert "a.png: similarity" in said.out
    assert "inside the mask" in said.out
    assert "reduced from 40 x 60 to 21 x 32 pixels (height x width)" in said.err
    assert Image.open("a.png").size == (32, 21)
    assert sorted(path.name for path in Path("way").iterdir()) == ["000000.png", "000001.png", "000002.png"]
    page = Path("a.html").read_text()
    assert page.count("data:image/png") >= 3
    assert "<b>red" not in page
    legend = page[page.index('class="legend"') :].partition("</div>")[0]
    kinds = [part.partition('"')[0] for part in legend.split('<i class="')[1:]]
    assert len(kinds) == len(set(kinds)) == 5  # each loss has a line of its own look
    assert all(f'<path class="{kind}"' in page and f".{kind} {{ color" in page for kind in kinds)
    told = json.loads(Path("a.json").read_text())
    assert told["judged"] == pytest.approx([told["before"], told["similarity"]])
    assert not list(files.glob("*.painting"))
    assert "there already" in call("edit", "cat.png", "--model", "m", *texts, "--out", "a.png", code=2).err
    assert "way is there already" in call("edit", "cat.png", "--model", "m", *texts, "--frames", "way", code=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat.png", "--out", "b.png"], "--style, --morph, --to: expected one of them, got none"),
        (["cat.png", "--out", "b.png", "--style", "a", "--morph", "b"], "got style and morph"),
        (["cat.png", "--style", "a"], "expected at least one to write"),
        (["cat.png", "--style", "a", "--out", "b.jpg"], "--out: expected a name that ends in .png, got b.jpg"),
        (["cat.png", "--style", "a", "--html", "b.png"], "--html: expected a name that ends in .html or .htm"),
        (
            ["cat.png", "--out", "b.png", "--morph", "a", "--mask", "mask.png"],
            "'--mask': does nothing with --morph",
        ),
        (["cat.png", "--out", "b.png", "--style", "a", "--stability", "0.03"], "does nothing with --style"),
        (["cat.png", "--out", "b.png", "--morph", "a", "--crops", "4"], "does nothing with --morph"),
        (["cat.png", "--out", "way/b.png", "--frames", "way", "--style", "a"], "lies in --frames"),
        (["cat.png", "--out", "b.png", "--frames", ".", "--style", "a"], "is there already"),
        (["cat.png", "--out", "b.png", "--style", " "], "expected a text with words"),
        (
            ["cat.png", "--out", "b.png", "--style", "a photo"],
            "--style: expected another text than --source, 'a photo'",
        ),
        (["cat.png", "--out", "b.png", "--morph", "a", "--source", "a"], "no direction"),
        (["cat.png", "--out", "b.png", "--style", "a", "--ground", "b"], "--ground: expected --mask with it"),
        (["cat.png", "--out", "b.png", "--style", "a", "--mask", "short.png"], "the image's 40 x 60 pixels"),
        (["cat.png", "--out", "b.png", "--style", "a", "--mask", "all.png"], "all.png: expected some of the image"),
        (["cat.png", "--out", "b.png", "--style", "a", "--mask", "none.png"], "but not all, to be white, got nothing"),
        (["cat.png", "--out", "b.png", "--style", "a", "--mask", "bad.png"], "bad.png: not a PNG"),
        (["bad.png", "--out", "b.png", "--style", "a"], "bad.png: not an image"),
        (["no.png", "--out", "b.png", "--style", "a"], "no.png: no such file"),
        (["cat.png", "--out", "cat.png", "--style", "a", "--existing", "replace"], "give it another name"),
        (["cat.png", "--out", "b.png", "--style", "a", "--rate", "-1"], "rate: expected"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(arguments: list[str], message: str, files: Path, call: Any) -> None:
    before = sorted(path.name for path in files.iterdir())
    assert message in call("edit", *arguments, "--model", "m", "--steps", "1", code=2).err
    assert sorted(path.name for path in files.iterdir()) == before


def test_an_edit_whose_similarity_fell_says_so(model: Clip) -> None:
    found = tether.edit(PIXELS, model=model, morph="a red cat", canvas="pixels", steps=4, views=0)
    assert found.similarity > found.before
    assert not found.remarks
    backwards = replace(found.painting, image=PIXELS / 255)
    worse = edited("a red cat", backwards, found.painting.image, None, encoder=model, judge=None)
    assert worse.similarity < worse.before
    assert "similarity to the text fell" in worse.remarks[0]


def test_pixels_that_are_none_are_refused(model: Clip) -> None:
    for pixels in (PIXELS.float(), PIXELS[0], PIXELS[:2]):
        with pytest.raises(InputError, match="expected uint8"):
            tether.edit(pixels, model=model, style="a", steps=1)


def test_a_morph_looks_at_the_image_as_it_is_and_has_no_mask(model: Clip) -> None:
    found = tether.edit(PIXELS, model=model, morph="a red cat", source="a cat", steps=1, views=0)
    assert found.image.shape == (3, 40, 60)
    with pytest.raises(InputError, match="--mask: expected with --style"):
        tether.edit(PIXELS, model=model, morph="a red cat", mask=MASK, steps=1)


def test_a_loss_without_a_number_leaves_the_last_good_canvas_to_resume_from(model: Clip, tmp_path: Path) -> None:
    state = tmp_path / "state"
    weight = model.visual.projection.weight  # pyrefly: ignore
    kept = weight.detach().clone()

    def spoil(done: int, total: int | None) -> None:
        if done == 2:
            weight.data.fill_(torch.nan)

    settings: dict[str, Any] = {"model": model, "steps": 4, "state": state, **WAYS["style"]}
    try:
        with pytest.raises(NotFiniteError, match=r"step 2: .*--resume"):
            tether.edit(PIXELS, **settings, on_progress=spoil)
    finally:
        weight.data.copy_(kept)
    found = tether.edit(PIXELS, **settings, resume=True)
    assert len(found.painting.losses["patches"]) == 4
    assert "went back to the last good canvas at step 2" in found.remarks[0]
