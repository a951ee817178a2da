"""LoRA on every kind of encoder: what learns, the merge, PEFT's own files, a run that ends in a plain model."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch

import tether
from dual_encoders import write_dual_encoder
from tether.adaptation.finetune import Lora
from tether.core.errors import InputError, StoppedError
from tether.models import create
from tether.models.compose import compose
from tether.models.encoders.wrapped import OpenClipEncoder, TransformersEncoder
from tether.training import load_config, train
from tether.workflows.edits import EDITS

TEXTS = ["a cat", "A RED cat", "the dog"]


def _open_clip(folder):
    import open_clip
    from safetensors.torch import save_file

    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "ls_init_value": 0.5}
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return tether.load(folder)


def _transformers(folder):
    write_dual_encoder(folder, "siglip")
    return tether.load(folder)


def _composed(folder):
    own = str(tether.save(create("tiny", seed=1), folder / "own"))
    return compose(image=own, text={"name": own, "train": "tuned"}, join="mlp", dim=8).eval()


MODELS = {
    "own": lambda folder: create("tiny", seed=1).eval(),
    "open_clip": _open_clip,
    "transformers": _transformers,
    "composed": _composed,
}


@pytest.fixture(params=list(MODELS))
def model(request, tmp_path):
    return MODELS[request.param](tmp_path)


def _encode(model):
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = model(images, model.tokenizer(TEXTS))
        return torch.cat([encoded.image.unit, encoded.text.unit])


def _shake(model):
    """Adapters as after a training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_B." in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)


def test_unchanged_at_first_and_merged_as_unmerged(model, tmp_path):
    plain, state = _encode(model), {key: value.clone() for key, value in model.state_dict().items()}
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    edit = Lora(rank=4, adapter=str(tmp_path / "adapter"))
    edit.apply_(model)
    torch.testing.assert_close(_encode(model), plain, atol=1e-6, rtol=0)
    _shake(model)
    moved = _encode(model)
    assert (moved - plain).abs().amax(1).min() > 1e-3  # both sides
    edit.merge_(model)
    torch.testing.assert_close(_encode(model), moved, atol=1e-6, rtol=0)
    assert model.state_dict().keys() == state.keys()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == learned
    again = tether.load(tether.save(model, tmp_path / "saved"))
    torch.testing.assert_close(_encode(again), moved, atol=1e-6, rtol=0)
    model.load_state_dict(state)
    wrapped = isinstance(model, (OpenClipEncoder, TransformersEncoder))  # then it is of the library's own module
    peft.PeftModel.from_pretrained(model.model if wrapped else model, tmp_path / "adapter")
    torch.testing.assert_close(_encode(model), moved, atol=1e-6, rtol=0)


def test_what_learns(model):
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    Lora().apply_(model)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {name for name in learning if ".lora_" not in name}
    assert learning - beside
    maps = {name for name in before if "_map." in name}
    assert beside == maps | {
        name for name in before if name.rpartition(".")[2] in ("log_logit_scale", "logit_scale", "logit_bias")
    }


def test_a_locked_tower_takes_part_by_its_adapters(tmp_path):
    model = _composed(tmp_path)
    Lora(targets=r"model\.image\..*blocks\.1\.").apply_(model)
    assert not model.parts.image.locked
    adapted = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {f"model.image.inner.visual.blocks.1.{part}" for part in ("qkv", "proj", "up", "down")}


def test_an_adapter_drops_out_in_training_alone():
    model = Lora(dropout=0.5).apply_(create("tiny", seed=1).eval())
    _shake(model)
    assert torch.equal(_encode(model), _encode(model))
    assert not torch.equal(_encode(model.train()), _encode(model))


def test_drawn_from_a_fixed_seed():
    first, second = (Lora().apply_(create("tiny")) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"targets": "nowhere"}, "targets: no layer's name holds 'nowhere'; there are visual.patch"),
        ({"targets": "("}, "targets: not a regular expression"),
        ({"rank": 0}, "rank"),
        ({"rank": 65}, "rank: expected at most 64, the smaller side of the largest weight that is changed"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Lora(**settings).apply_(create("tiny"))


def test_nothing_to_save():
    with pytest.raises(InputError, match="Clip has no adapter"):
        Lora().save(create("tiny"), "nowhere")


def test_a_run_ends_in_a_plain_model(tmp_path):
    start = tether.save(create("tiny", seed=1), tmp_path / "start")
    settings = {
        "model": f"{{load: {start}}}", "data": "{name: emoji, split: validation, size: 32}", "batch_size": 8,
        "steps": 3, "precision": "fp32", "schedule": "{name: constant}", "threads": 1, "save_every": 1,
        "optimizer": "{name: adamw, lr: 0.01}", "evaluate": "{source: emoji, every: 1, best: score}",
        "edits": f"[{{name: lora, rank: 2, adapter: {tmp_path / 'adapter'}}}]",
    }  # fmt: skip
    scores = iter((1.0, 3.0, 2.0, 0.0, 0.0))
    seen = []

    def evaluate(encoder):
        seen.append(_encode(copy.deepcopy(encoder).eval()))
        return {"score": next(scores)}

    config = load_config(overrides=[f"{key}={value}" for key, value in settings.items()])
    train(config, folder=tmp_path / "run", evaluate=evaluate, edits=EDITS)
    trained, plain = tether.load(tmp_path / "run"), tether.load(start)
    torch.testing.assert_close(_encode(trained), seen[1], atol=1e-6, rtol=0)
    assert not torch.allclose(_encode(trained), _encode(plain), atol=1e-4)
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_a_stopped_run_goes_on_to_the_same_bits_and_opens_only_then(tmp_path):
    start = tether.save(create("tiny", seed=1), tmp_path / "start")
    settings = ["data=scenes:rows=64,size=64", f"model={{load: {start}}}", "steps=20", "batch_size=8", "threads=1"]
    settings += ["precision=fp32", "edits=[{name: lora, rank: 2, dropout: 0.1}]"]
    config, asked = load_config(overrides=settings), []
    train(config, folder=tmp_path / "whole", edits=EDITS)
    with pytest.raises(StoppedError):
        train(config, folder=tmp_path / "run", edits=EDITS, should_stop=lambda: asked.append(0) or len(asked) == 10)
    for name in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-00000010"):
        with pytest.raises(InputError, match=r"unfinished run; .* go on with: tether train --resume --out \S+run$"):
            tether.load(name)
    train(config, folder=tmp_path / "run", edits=EDITS, resume=True)
    whole, parts = (tether.load(tmp_path / name).state_dict() for name in ("whole", "run"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
