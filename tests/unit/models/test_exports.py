"""Exported folders, opened afresh by their own library with its own processor: the probabilities that tether gives."""

import dataclasses

import pytest
import torch
from PIL import Image

import tether
from dual_encoders import MAKERS, write_dual_encoder
from references import image_files, probabilities
from tether.core.errors import InputError
from tether.data.images import load
from tether.models import create
from tether.models.compose import compose
from tether.models.towers.clip import Clip

pytestmark = pytest.mark.slow

LABELS = ["a cat", "A RED cat", "the dog"]
WORDS = ["a photo of a cat", "A RED cat's toy, 25 of them!", "the dog — café ÜBER   don't", "北京 🙂\tx\ny"]


def _pipeline(folder, paths, labels):
    """What transformers' pipeline says of images, from the folder alone."""
    import transformers

    classify = transformers.pipeline("zero-shot-image-classification", model=str(folder))
    found = [classify(Image.open(path), labels, hypothesis_template="{}") for path in paths]
    rows = [{row["label"]: row["score"] for row in rows} for rows in found]
    return torch.tensor([[row[label] for label in labels] for row in rows])


def _open_clip(folder, paths, labels):
    """What open_clip says of images, from the folder alone, and the pixels that it looked at."""
    import open_clip

    name = f"local-dir:{folder}"
    model, prepare = open_clip.create_model_from_pretrained(name)
    seen = torch.stack([prepare(Image.open(path)) for path in paths])
    with torch.inference_mode():
        image, text, scale = model.eval()(seen, open_clip.get_tokenizer(name)(labels))[:3]
        return (scale * image @ text.T).softmax(1), seen


def _ours(model, paths, labels):
    return probabilities(model, [load(path, model.image_spec) for path in paths], labels)


def _assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (found - found.mean(1, keepdim=True)).abs().max() > 2e-3  # they tell the labels apart


@pytest.mark.parametrize("kind", list(MAKERS))
def test_the_pipeline_of_transformers(kind, tmp_path):
    write_dual_encoder(tmp_path / "source", kind, **({"context": 64} if "siglip" in kind else {}))
    model = tether.load(tmp_path / "source")
    folder = tether.export(model, tmp_path / "out", format="transformers")
    paths = image_files(tmp_path)
    expected = _ours(model, paths, LABELS)
    _assert_same(_pipeline(folder, paths, LABELS), expected)
    _assert_same(_ours(tether.load(folder), paths, LABELS), expected)


def _own(**image):
    """A CLIP of ours with another image processing."""
    config = create("tiny").config
    spec = dataclasses.replace(config.vision.image, **image)
    model = Clip(dataclasses.replace(config, vision=dataclasses.replace(config.vision, image=spec)))
    model.initialise_(torch.Generator().manual_seed(1))
    return model.eval()


@pytest.mark.parametrize(
    "image",
    [{}, {"resize": "squash", "interpolation": "bilinear"}, {"mean": (0.5,) * 3, "std": (0.25,) * 3}],
    ids=["shortest side", "squashed", "colours"],
)
def test_an_own_model_keeps_words_and_image_processing(image, tmp_path):
    model, paths = _own(**image), image_files(tmp_path)
    folder = tether.export(model, tmp_path / "hf", format="transformers")
    _assert_same(_pipeline(folder, paths, WORDS), _ours(model, paths, WORDS))
    folder = tether.export(model, tmp_path / "open_clip", format="open_clip")
    found, seen = _open_clip(folder, paths, WORDS)
    _assert_same(found, probabilities(model, list(seen), WORDS))
    mine = model.image_spec.normalise(torch.stack([load(path, model.image_spec) for path in paths]))
    assert (mine - seen).abs().max() * 255 * min(model.image_spec.std) < 2.01  # torch resizes, not Pillow


def test_clips_own_words_in_transformers(tmp_path):
    from transformers import AutoProcessor

    model = _own()
    words = AutoProcessor.from_pretrained(tether.export(model, tmp_path, format="transformers")).tokenizer
    for text in [*WORDS, "cat " * 22]:
        assert words(text)["input_ids"] == model.tokenizer([text])[0].tolist(), text
    assert len(words("cat " * 30, truncation=True)["input_ids"]) == model.tokenizer.context_length


def test_an_own_vocabulary_in_open_clip(tmp_path):
    write_dual_encoder(tmp_path / "source", "clip")
    model = tether.load(tmp_path / "source")
    model.image_spec = dataclasses.replace(model.image_spec, resized=None)
    model.config = dataclasses.replace(
        model.config, vision=dataclasses.replace(model.config.vision, image=model.image_spec)
    )
    folder = tether.export(model, tmp_path / "out", format="open_clip")
    found, seen = _open_clip(folder, image_files(tmp_path), LABELS)
    _assert_same(found, probabilities(model, list(seen), LABELS))
    _assert_same(found, probabilities(tether.load(folder), list(seen), LABELS))


KEPT = r"; tether\.save \(--format tether\) keeps the model as it is"


@pytest.mark.parametrize(
    ("form", "make", "reason"),
    [
        ("transformers", lambda: _own(resize="longest"), "CLIPImageProcessor does not resize by 'longest'"),
        ("transformers", lambda: _own(size=(32, 64)), r"a CLIPModel takes square images, this model takes \(32, 64\)"),
        ("transformers", lambda: create("tiny", logit_bias=-10.0), "no logit bias.*--format open_clip holds it"),
        ("open_clip", lambda: _own(resized=(36, 36)), r"open_clip scales images to \(32, 32\) at once"),
        ("open_clip", lambda: _own(interpolation="nearest"), "open_clip resizes by bicubic or bilinear"),
        ("open_clip", lambda: create("tiny", block={"head_scale": "heads"}), "open_clip has no such blocks"),
        ("transformers", lambda: create("tiny", geometry="euclidean"), "compares by cosine.*'euclidean'"),
        (
            "transformers",
            lambda: create("tiny", text={"vocabulary": 100, "end": 99}),
            "needs a tokenizer of 100 ids like this model, whose own is CLIP's of 49408",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused(form, make, reason, tmp_path):
    with pytest.raises(InputError, match=f"export: .*{reason}.*{KEPT}"):
        tether.export(make(), tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["open_clip", "transformers"])
def test_composed_towers_are_kept_by_save_alone(form, tmp_path):
    own = str(tether.save(create("tiny"), tmp_path / "own"))
    model = compose(image=own, text=own, dim=8)
    with pytest.raises(InputError, match=f"export: {form} has no model of two composed towers joined by maps{KEPT}"):
        tether.export(model, tmp_path / "out", format=form)
    again = tether.load(tether.export(model, tmp_path / "out", format="tether"))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(probabilities(again, list(images), WORDS), probabilities(model.eval(), list(images), WORDS))


def test_a_model_without_a_tokenizer_says_so(tmp_path):
    write_dual_encoder(tmp_path / "source", "siglip")
    for file in (tmp_path / "source").glob("tokenizer*"):
        file.unlink()
    with pytest.warns(UserWarning, match=r"out: has no tokenizer.*transformers makes up one that knows no words"):
        folder = tether.export(tether.load(tmp_path / "source"), tmp_path / "out", format="transformers")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
