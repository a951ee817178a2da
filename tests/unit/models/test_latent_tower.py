"""Models that read latents: pixels and latents alike, made from models on pixels, saved with scale and statistics."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tether
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import ImageSpec, Row
from tether.data.contents import BatchContents
from tether.data.loader import Loader
from tether.models import create
from tether.models.composed.cached import side_digest
from tether.models.latent.clip import hold_codec_, init_from_pixel_clip
from tether.models.latent.codec import ConvCodec
from tether.models.latent.codecs import save_codec
from tether.models.latent.spec import LatentSpec
from tether.training.codec_training import train_codec
from tether.training.kept_latents import KeptLatents
from tether.training.parts import new_encoder
from tether.workflows.train import prepare

PIXELS = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def codec() -> ConvCodec:
    made = ConvCodec(width=8)
    train_codec(made, PIXELS, steps=2, batch_size=4)
    return made


@pytest.fixture
def model(codec: ConvCodec):
    return init_from_pixel_clip(create("tiny", seed=1), codec=codec, seed=2).eval()


def test_all_but_the_stem_is_taken_over(codec: ConvCodec) -> None:
    pixels = create("tiny", seed=1)
    model = init_from_pixel_clip(pixels, codec=codec)
    theirs, ours = pixels.state_dict(), model.state_dict()
    assert [name for name in theirs if not torch.equal(theirs[name], ours[name])] == ["visual.patch.weight"]
    assert {name for name in ours if name not in theirs} == {f"visual.codec.{name}" for name in codec.state_dict()}
    assert model.training
    assert ours["visual.patch.weight"].shape == (64, 4)
    assert not [name for name, _ in model.named_parameters() if "codec" in name]


def test_pixels_and_their_latents_give_one_embedding(model, codec: ConvCodec) -> None:
    latents = codec.encode(PIXELS)
    assert torch.equal(model.encode_image(latents).pooled, model.encode_image(PIXELS).pooled)
    assert torch.allclose(model.embed(latents), model.encode_image(PIXELS).unit, atol=1e-5)
    assert torch.allclose(model.embed(["a cat", latents[1]])[1], model.embed(PIXELS[1].permute(1, 2, 0))[0], atol=1e-5)
    with pytest.raises(InputError, match=r"latents, got \(1, 4, 3, 4\)"):
        model.embed(["a cat", latents[1][:, :3]])
    floats = (PIXELS / 127.5 - 1).requires_grad_()
    model.encode_image(floats).pooled.sum().backward()
    assert floats.grad.abs().sum() > 0
    keep = torch.tensor([[0, 5, 9]]).expand(6, 3)
    seen = [model.encode_image(one, keep=keep).pooled for one in (latents, PIXELS)]
    assert torch.allclose(*seen, atol=1e-5)


def test_a_folder_gives_it_back(model, tmp_path: Path) -> None:
    again = tether.load(tether.save(model, tmp_path))
    assert again.config == model.config
    assert side_digest(again, "image") == side_digest(model, "image")
    assert torch.equal(again.encode_image(PIXELS).pooled, model.encode_image(PIXELS).pooled)
    values = json.loads((tmp_path / "model.json").read_text())
    values["model"]["vision"]["latent"]["scale"] = 0.25
    (tmp_path / "model.json").write_text(json.dumps(values))
    scale = model.visual.codec.latent.scale
    with pytest.raises(InputError, match=f"latents of scale {scale}, the model reads those of 0.25"):
        tether.load(tmp_path)


def test_a_model_without_a_codec(codec: ConvCodec, tmp_path: Path) -> None:
    model = init_from_pixel_clip(create("tiny", seed=1), latent=replace(codec.latent, mean=(), std=()))
    with pytest.raises(UnsupportedModelError, match="reads latents already"):
        init_from_pixel_clip(model, codec=codec)
    latents = codec.encode(PIXELS)
    before = model.encode_image(latents).pooled
    with pytest.raises(InputError, match="takes latents alone"):
        model.encode_image(PIXELS)
    assert model.resized(image_size=48).config.vision.latent_size == (6, 6)
    with pytest.raises(InputError, match=r"the codec has latents of scale 1\.0, the model reads"):
        hold_codec_(model, ConvCodec(width=8))
    hold_codec_(model, codec)
    assert torch.allclose(model.encode_image(PIXELS).pooled, before)
    assert tether.load(tether.save(model, tmp_path)).config.vision.latent == codec.latent


@pytest.mark.parametrize("shape", [(6, 3, 4, 4), (6, 4, 5, 4), (6, 4, 32, 32), (4, 4, 4)])
def test_other_shapes_are_told_with_both(model, shape: tuple[int, ...]) -> None:
    said = rf"image: expected \(b, 3, 32, 32\) pixels or \(b, 4, 4, 4\) latents, got \({', '.join(map(str, shape))}\)"
    with pytest.raises(InputError, match=said):
        model.encode_image(torch.zeros(shape))


def test_latents_that_nobody_scaled(model, codec: ConvCodec) -> None:
    wrong = 7.7 * codec.encode(PIXELS)
    with pytest.raises(InputError, match="latents of another scale"):
        model.encode_image(wrong)
    model.train()
    with pytest.raises(InputError, match="latents of another scale"):
        model.encode_image(wrong)  # the first of a training


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: init_from_pixel_clip(create("eva02-tiny"), codec=ConvCodec()), UnsupportedModelError, "CLIP's own"),
        (lambda: init_from_pixel_clip(torch.nn.Linear(1, 1), codec=ConvCodec()), UnsupportedModelError, "Linear"),
        (lambda: init_from_pixel_clip(create("tiny")), InputError, "either a codec or"),
        (
            lambda: init_from_pixel_clip(create("tiny"), latent=LatentSpec(downsampling=16)),
            InputError,
            "downsampling=16",
        ),
        (lambda: hold_codec_(create("tiny"), ConvCodec()), InputError, "reads latents, got Clip on pixels"),
        (lambda: create("tiny", vision={"tower": "latent", "latent": {"scal": 1}}), InputError, "did you mean 'scale'"),
        (lambda: create("tiny", vision={"tower": "latent", "codec": {"name": "con"}}), InputError, "conv"),
        (lambda: create("tiny", vision={"tower": "latent", "codec": "none.safetensors"}), InputError, "no such file"),
        (lambda: create("tiny", vision={"tower": "latent"}, towers="shared"), InputError, "expected two"),
        (lambda: create("tiny", vision={"tower": "latent", "image": {"mean": [0, 0, 0]}}), InputError, "-1 to 1"),
    ],
)
def test_what_cannot_be(make, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        make()


def test_a_run_keeps_latents(codec: ConvCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    for computed in (6, 0):
        kept = KeptLatents(codec, size=(4, 4))
        assert torch.allclose(kept(PIXELS, codec.encode), codec.encode(PIXELS), atol=1e-6)
        assert torch.equal(kept(PIXELS[[3, 1]], codec.encode), kept(PIXELS, codec.encode)[[3, 1]])
        assert kept.computed == computed
        assert copy.deepcopy(kept) is kept


def test_the_recipe_trains_on_them(codec: ConvCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    path = save_codec(codec, tmp_path / "codec.safetensors")
    settings = [f"model.codec={path}", "size=tiny", "steps=2", "batch_size=8", "precision=fp32"]
    done = tether.train("scenes:rows=24", recipe="latents", out=tmp_path / "run", settings=settings)
    assert done.result.steps == 2
    model = tether.load(tmp_path / "run")
    assert torch.equal(model.visual.codec.encode(PIXELS), codec.encode(PIXELS))
    assert model.config.vision.latent == codec.latent
    assert list((tmp_path / "cache" / "features").glob("*/rows.bin"))


def test_a_run_begins_from_a_model_on_pixels(codec: ConvCodec, tmp_path: Path) -> None:
    path, pixels = save_codec(codec, tmp_path / "codec.safetensors"), create("tiny", seed=1)
    start = str(tether.save(pixels, tmp_path / "pixels"))
    config = prepare("scenes:rows=24", recipe="latents", start=start, settings=[f"model.codec={path}"]).config
    assert config.model == {"load": start, "codec": str(path)}
    model = new_encoder(config)
    assert torch.equal(model.visual.position, pixels.visual.position)
    assert model.visual.patch.weight.shape == (64, 4)


def test_latents_of_a_column_take_the_place_of_images(model, codec: ConvCodec) -> None:
    latents = codec.encode(PIXELS).numpy()
    rows = [Row(str(n), None, ["a cat"], meta={"vae": one.tobytes()}) for n, one in enumerate(latents)]

    class Held:
        name, version = "held", "1"

        def blocks(self):
            return [0]

        def read(self, block, *, start=0):
            return iter(rows[start:])

    contents = BatchContents(images=False, latents={"latent_image": {"column": "vae", "shape": [4, 4, 4]}})
    loader = Loader(
        Held(), batch_size=6, image_spec=ImageSpec((32, 32)), tokenizer=model.tokenizer, seed=0, contents=contents
    )
    batch = next(loader)
    order = [int(key) for key in batch.extra["keys"]]
    found = model.encode_image(batch.extra["latent_image"]).pooled
    assert np.allclose(found.detach(), model.encode_image(PIXELS[order]).pooled.detach(), atol=1e-5)
