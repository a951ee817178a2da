"""``tether export`` from a folder to a folder that opens elsewhere with the same embeddings."""

from __future__ import annotations

import pytest
import torch

import tether
from tether.models import create
from tether.models.compose import compose


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    return tether.save(create(size="tiny"), tmp_path_factory.mktemp("model") / "own")


@pytest.mark.parametrize("form", ["open_clip", "transformers", "tether"])
def test_export_gives_a_folder_with_the_same_embeddings(call, saved, tmp_path, form):
    assert "open it with" in call("export", saved, tmp_path / "out", "--format", form).out
    own, theirs = tether.load(saved), tether.load(tmp_path / "out")
    texts = own.tokenizer(["a red apple", "two dogs"])
    with torch.inference_mode():
        difference = (own.encode_text(texts).unit - theirs.encode_text(texts).unit).abs().max()
    assert difference < 1e-5


def test_what_is_there_is_never_overwritten(call, saved, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert "exists and is not an empty folder" in call("export", saved, tmp_path, code=2).err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_composed_model_is_refused_before_its_weights_are_read(call, saved, tmp_path):
    model = tether.save(compose(image=str(saved), text=str(saved), dim=8), tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"not read")
    for name in (model, "starter"):
        for form in ("open_clip", "transformers"):
            said = call("export", name, tmp_path / "out", "--format", form, code=2).err
            assert f"{form} has no model of two composed towers" in said
            assert "--format tether" in said
    assert "model.safetensors" in call("export", model, tmp_path / "out", "--format", "tether", code=2).err


def test_mistakes_are_one_message(call, saved, tmp_path):
    for arguments in ([tmp_path / "nothing", tmp_path / "out"], [saved, tmp_path / "out", "--format", "tflite"]):
        call("export", *arguments, code=2)
        assert not (tmp_path / "out").exists()
