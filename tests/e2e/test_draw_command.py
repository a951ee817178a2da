"""``tether draw`` and ``tether.draw``: files, resuming, a start from SVG, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import tether
from tether.core.errors import InputError, NotFiniteError, StoppedError
from tether.core.locks import locked
from tether.generation.canvases import PixelCanvas, StrokeCanvas
from tether.generation.canvases.svg import read_svg, svg_text
from tether.models import create
from tether.models.towers.clip import Clip
from tether.workflows.draw import DrawnPrompt

QUICK = "strokes:n_strokes=4,samples=4"


@pytest.fixture(scope="module")
def model() -> Clip:
    return create("tiny", seed=1).eval()


@pytest.fixture(scope="module")
def saved(model: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    tether.save(model, folder)
    return folder


def test_writes_lines_a_film_an_image_and_what_it_says(saved: Path, tmp_path: Path, call: Any) -> None:
    svg, html, png, told = (tmp_path / f"a.{kind}" for kind in ("svg", "html", "png", "json"))
    files = ["--svg", svg, "--html", html, "--out", png, "--json", told]
    more = ["--canvas", QUICK, "--steps", "4", "--frame-count", "2", "--negative", "a mess", "--judge", saved]
    said = call("draw", "a <b>red</b> circle", "--model", saved, *files, *more)
    assert "similarity" in said.out
    paths, sides = read_svg(svg.read_text(), where="a.svg")
    assert (len(paths), sides) == (4, (32.0, 32.0))
    assert Image.open(png).size == (32, 32)
    page = html.read_text()
    assert page.count("data:image/png") == 4
    assert "<b>red" not in page
    found = json.loads(told.read_text())
    assert found["similarity"] == pytest.approx(found["judged"], abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.json", "a.png", "a.svg"]
    assert "there already" in call("draw", "a", "--model", saved, "--svg", svg, code=2).err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--svg", "b.svg"], "prompt: expected a text with words"),
        (["a", "b", "--svg", "b.svg"], "expected one text for a flat canvas, got 2"),
        (["a"], "expected at least one file"),
        (["a", "--svg", "b.png"], "--svg: expected a name that ends in .svg, got b.png"),
        (["a", "--out", "b.jpg"], "--out: expected a name that ends in .png, got b.jpg"),
        (["a", "--html", "b"], "--html: expected a name that ends in .html or .htm, got b"),
        (["a", "--svg", "b.svg", "--negative-weight", "0.5"], "does nothing without --negative"),
        (
            ["a", "--svg", "b.svg", "--canvas", "strokes:n_strokes=0"],
            "n_strokes: expected a whole number of at least 1",
        ),
        (["a", "--svg", "b.svg", "--canvas", "clay"], "unknown part 'clay'"),
        (["a", "--svg", "b.svg", "--canvas", "blobs"], "blobs is not made of lines"),
        (["a", "--svg", "b.svg", "--negative", " "], "--negative: expected a text with words"),
        (["a", "--svg", "b.svg", "--start", "bad.svg"], "bad.svg: not SVG"),
        (["a", "--svg", "b.svg", "--start", "no.svg"], "no.svg"),
        (
            ["a", "--svg", "b.svg", "--start", "bad.svg", "--canvas", "primitives"],
            "expected strokes or implicit",
        ),
        (["a", "--out", "b.png", "--bank", "emoji"], "--bank: expected the canvas implicit, got strokes"),
        (["a", "--out", "b.png", "--canvas", "implicit", "--bank", "nowhere"], "nowhere"),
        (["a", "--out", "b.png", "--canvas", "implicit", "--start", "bad.svg"], "bad.svg"),
        (["a", "--out", "b.png", "--canvas", "implicit:layers=0"], "layers: expected a whole number in [1, 64]"),
        (["a", "--svg", "bad.svg", "--start", "bad.svg", "--existing", "replace"], "give it another name"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    arguments: list[str], message: str, saved: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.svg").write_text("<svg><path d='M 1")
    assert message in call("draw", *arguments, "--model", saved, "--steps", "1", code=2).err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.svg"]


def test_one_that_was_stopped_goes_on_to_the_same_drawing(model: Clip, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": model, "canvas": QUICK, "steps": 6, "frames": 2}
    whole = tether.draw("a red circle", **settings)
    state = tmp_path / "a.svg.painting"
    answers = iter([False, True])
    with pytest.raises(StoppedError, match=r"stopped after step 2 of 6; .*a\.svg\.painting holds .*--resume"):
        tether.draw("a red circle", **settings, state=state, should_stop=lambda: next(answers))
    with pytest.raises(InputError, match="another painting: prompt was"):
        tether.draw("a blue circle", **settings, state=state, resume=True)
    steps = list[int]()
    found = tether.draw(
        "a red circle", **settings, state=state, resume=True, on_progress=lambda done, total: steps.append(done)
    )
    assert steps == [3, 4, 5, 6]
    assert torch.equal(found.image, whole.image)
    with pytest.raises(InputError, match=r"a\.svg\.painting: is there: --resume goes on"):
        tether.draw("a red circle", **settings, state=state)
    again = tether.draw("a red circle", **settings, state=state, resume=True)  # it stays until all is written
    assert torch.equal(again.image, whole.image)
    again.remove_state()
    assert not list(tmp_path.iterdir())


def test_a_drawing_is_not_lost_before_it_is_written(
    saved: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    svg, state = tmp_path / "a.svg", tmp_path / "a.svg.painting"
    drawn = ("draw", "a red circle", "--model", saved, "--svg", svg, "--canvas", QUICK, "--steps", "3")
    with monkeypatch.context() as patched:
        patched.setattr(DrawnPrompt, "save_svg", lambda self, path: self.painting.canvas.nowhere())
        with pytest.raises(AttributeError):
            call(*drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == [state.name]
    kept = state.read_bytes()
    assert "is there: --resume goes on" in call(*drawn, "--existing", "replace", code=2).err
    assert state.read_bytes() == kept
    with locked(tmp_path / "a.svg.painting.lock", purpose="another"):
        assert "(another) is writing there" in call(*drawn, "--resume", code=2).err
    call(*drawn, "--resume")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svg"]


def test_a_canvas_of_ones_own_only_goes_on_as_it_was(model: Clip, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"model": model, "steps": 4, "state": tmp_path / "state"}
    with pytest.raises(StoppedError):
        tether.draw("a circle", canvas=StrokeCanvas(n_strokes=3, size=32), should_stop=lambda: True, **settings)
    with pytest.raises(InputError, match="another painting: canvas was"):
        tether.draw("a circle", canvas=StrokeCanvas(n_strokes=3, size=32, tau=2.0), resume=True, **settings)
    tether.draw("a circle", canvas=StrokeCanvas(n_strokes=3, size=32), resume=True, **settings)


def test_a_loss_without_a_number_leaves_the_last_good_canvas_to_resume_from(model: Clip, tmp_path: Path) -> None:
    state, canvas = tmp_path / "state", PixelCanvas(size=32)
    weight = model.visual.projection.weight  # pyrefly: ignore
    kept = weight.detach().clone()

    def spoil(done: int, total: int | None) -> None:
        if done == 3:
            weight.data.fill_(torch.nan)

    try:
        with pytest.raises(NotFiniteError, match=r"step 3: .*--resume"):
            tether.draw("a red circle", model=model, canvas=canvas, steps=6, state=state, on_progress=spoil)
    finally:
        weight.data.copy_(kept)
    assert canvas.pixels.isfinite().all()
    again = PixelCanvas(size=32)
    found = tether.draw("a red circle", model=model, canvas=again, steps=6, state=state, resume=True)
    assert len(found.painting.losses["similarity"]) == 6
    assert found.image.isfinite().all()
    assert "went back to the last good canvas at step 3" in found.remarks[0]


def test_it_can_start_from_an_svg_of_its_own(model: Clip, tmp_path: Path) -> None:
    first = tether.draw("a red circle", model=model, canvas=QUICK, steps=2)
    first.save_svg(tmp_path / "a.svg")
    canvas = "strokes:samples=4,size=64"
    again = tether.draw("a red circle", model=model, canvas=canvas, steps=1, start=tmp_path / "a.svg")
    start = again.painting.frames[0].parameters
    kept = first.painting.frames[-1].parameters
    torch.testing.assert_close(start["points"][0], kept["points"][0] * 2, atol=1e-3, rtol=0)
    torch.testing.assert_close(start["width"][0], kept["width"][0] * 2, atol=1e-3, rtol=0)
    assert again.svg is not None
    assert 'width="64"' in again.svg
    state: dict[str, Any] = {"model": model, "canvas": canvas, "steps": 2, "state": tmp_path / "state"}
    with pytest.raises(StoppedError):
        tether.draw("a red circle", start=tmp_path / "a.svg", should_stop=lambda: True, **state)
    assert b"<svg" not in state["state"].read_bytes()
    with pytest.raises(InputError, match="n_strokes: the strokes of --start count"):
        tether.draw("a", model=model, canvas=QUICK, steps=1, start=tmp_path / "a.svg")


@pytest.mark.parametrize("canvas", ["blobs:n_strokes=4,cameras=2", "primitives:patches=2", "pixels"])
def test_every_canvas_draws(canvas: str, model: Clip, tmp_path: Path) -> None:
    texts = ["a red circle", "a blue square"] if canvas.startswith("blobs") else "a red circle"
    found = tether.draw(texts, model=model, canvas=canvas, steps=2, frames=1)
    assert found.image.shape == (3, 32, 32)
    assert (found.svg is None) == (not canvas.startswith("primitives"))
    assert found.film(tmp_path / "film.html").read_text().count("<figure>") >= 3
    assert "red circle" in found._repr_html_()


def test_lines_of_others_are_read_and_what_would_be_lost_is_refused() -> None:
    def drawn(inner: str) -> str:
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 20">{inner}</svg>'

    (path,), sides = read_svg(drawn('<path d="m1,2 3 0h-1v2z" stroke="#ff0000" stroke-width="2px"/>'), where="x")
    assert sides == (10.0, 20.0)
    assert path.rgb == (1.0, 0.0, 0.0)
    assert (path.width, path.opacity, len(path.points)) == (2.0, 1.0, 13)
    assert path.points[-1] == pytest.approx((1.0, 2.0))
    two, _ = read_svg(drawn('<path d="M0 0C1 0 2 0 3 0M5 5L6 6"/>'), where="x")
    assert [len(one.points) for one in two] == [4, 4]
    again, _ = read_svg(svg_text(two, width=10, height=20), where="x")
    for one, other in zip(again, two, strict=True):
        torch.testing.assert_close(torch.tensor(one.points), torch.tensor(other.points), atol=1e-4, rtol=0)
    for inner, message in {
        "": "expected 1 to 100,000 strokes, got 0",
        "<circle/>": "only paths are read",
        '<path d="M0 0A1 1 0 0 0 2 2"/>': "expected M, then L, H, V, C or Z, got 'A'",
        '<path d="M0 0L1"/>': "expected 2 numbers",
        '<path d="L0 0"/>': "expected M",
        '<path d="M0 0L1e9 0"/>': "up to 1,000,000",
        '<path d="M0 0;"/>': "not a path",
        '<path d="M0 0L1 1" stroke="url(#a)"/>': "stroke: expected",
        '<path d="M0 0L1 1" stroke-width="0"/>': "above 0",
        '<path d="M0 0L1 1" style="stroke:red"/>': "style is not read",
        '<g transform="scale(2)"/>': "transform is not read",
        '<g stroke-dasharray="2"/>': "stroke-dasharray is not read",
        '<path fill="red" d="M0 0L1 1"/>': "fills are not read, got 'red'",
        '<rect width="5" height="20"/><path d="M0 0L1 1"/>': "<rect>: only paths are read",
        '<path d="M0 0L1 1"/><rect width="10" height="20"/>': "<rect>: only paths are read",
        f'<path d="M0 0L1 1{"Z" * 400_000}"/>': "at most 1,000,000 points",
        f'<path d="M0 0L1 1{"M0 0L1 1" * 100_000}"/>': "at most 100,000 strokes",
        f"<desc>{' ' * 8_000_000}</desc>": "at most 8,000,000 letters",
    }.items():
        with pytest.raises(InputError, match=message):
            read_svg(drawn(inner), where="x")
    grouped = '<rect width="100%" height="20"/><g stroke="red" stroke-width="5" fill="none"><path d="M0 0L1 1"/></g>'
    (path,), _ = read_svg(drawn(grouped), where="x")
    assert (path.rgb, path.width) == ((1.0, 0.0, 0.0), 5.0)
    with pytest.raises(InputError, match=r"sides of at least 0\.001"):
        read_svg('<svg viewBox="0 0 1e-300 1e-300"><path d="M0 0L1 1"/></svg>', where="x")
    with pytest.raises(InputError, match="document type"):
        read_svg('<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', where="x")
    for page in ("<html/>", "\n<!doctype HTML>\n<html></html>"):
        with pytest.raises(InputError, match="expected SVG, got <html>"):
            read_svg(page, where="x")
    with pytest.raises(InputError, match="width: expected a number"):
        read_svg('<svg><path d="M0 0L1 1"/></svg>', where="x")


FIELD = "implicit:width=12,layers=2"


def test_an_implicit_canvas_begins_at_the_nearest_image_of_a_bank_and_goes_on_bit_for_bit(
    saved: Path, model: Clip, tmp_path: Path, call: Any
) -> None:
    bank, png, again = "scenes:rows=12,size=64", tmp_path / "a.png", tmp_path / "b.png"
    drawn = ["draw", "a red circle", "--model", saved, "--canvas", FIELD, "--bank", bank, "--steps", "6"]
    said = call(*drawn, "--out", png, "--negative", "a mess")
    assert "nearest of 12 images of the bank" in said.err
    assert Image.open(png).size == (32, 32)
    state, calls = tmp_path / "b.painting", iter([False, False, True])
    settings = {"model": model, "canvas": FIELD, "bank": bank, "steps": 6, "negatives": ["a mess"], "state": state}
    with pytest.raises(StoppedError):
        tether.draw("a red circle", should_stop=lambda: next(calls), **settings)
    with pytest.raises(InputError, match="another painting: bank"):
        tether.draw("a red circle", resume=True, **settings | {"bank": "scenes:rows=11,size=64"})
    tether.draw("a red circle", resume=True, **settings).save_png(again)
    assert png.read_bytes() == again.read_bytes()


def test_an_implicit_canvas_begins_at_an_image_and_a_bank_may_lack_texts(model: Clip, tmp_path: Path) -> None:
    red = tmp_path / "photos" / "red.png"
    red.parent.mkdir()
    Image.new("RGB", (40, 30), (255, 0, 0)).save(red)
    found = tether.draw("a circle", model=model, canvas="implicit", start=red, steps=1)
    first = found.painting.frames[0].image.float().mean(dim=(1, 2))
    assert first[0] > 200
    assert max(first[1:]) < 60
    told = tether.draw("a circle", model=model, canvas=FIELD, bank=[red], steps=1).remarks
    assert "began from" in told[0]
    assert "has no texts" in told[1]
