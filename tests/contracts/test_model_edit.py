"""What every edit of a model promises, on every kind of encoder."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tether
from tether.core.component import build
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import ModelEdit
from tether.models import create
from tether.workflows.edits import EDITS

SETTINGS: dict[str, dict[str, Any]] = {"fake_quant": {"group": 16}, "kept_positions": {"keep": 4}}
"""So that an edit fits models this small."""
FOLDABLE: dict[str, dict[str, Any]] = {"fake_quant": {"group": 16, "inputs": "plain"}}
"""Settings under which everything that an edit does lies in the weights."""
EXCEPTIONS: dict[str, dict[str, str]] = {
    "fake_quant": {
        "is the identity at first": "it is there to round",
        "merges with its usual settings": "no weight can hold the rounding of a layer's inputs",
    },
    "gate_norm": {
        "is the identity at first": "attention is left out",
        "every weight learns": "what is left out is gone",
        "leaves plain layers": "what is left out is gone",
        "takes convnext": "the library's description cannot say that a block has no attention",
        "takes siglip": "the library's description cannot say that a block has no attention",
    },
    "kept_positions": {"every weight learns": "the positions that learn have a name of their own"},
    "lora": {"every weight learns": "the model's own weights rest"},
    "octav": {
        "is the identity at first": "it is there to round",
        "every weight learns": "weights beneath a grid have a name of their own",
    },
    "svd": {"every weight learns": "the model's own weights rest"},
    "masked_patches": {
        "every weight learns": "the layer under the vector has a name of its own",
        "takes convnext": "no view can choose its patches",
        "takes siglip": "no view can choose its patches",
    },
}


def own_tiny(folder: Path) -> nn.Module:
    return create("tiny", seed=1).eval()


def convnext(folder: Path) -> nn.Module:
    """timm's layers on one side, torch's attention on the other."""
    import open_clip
    from safetensors.torch import save_file

    cfg = {
        "embed_dim": 48,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return tether.load(folder)


def siglip(folder: Path) -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=shape | {"vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=shape | {"image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    return tether.load(folder)


MODELS: dict[str, Callable[[Path], nn.Module]] = {"own tiny": own_tiny, "convnext": convnext, "siglip": siglip}

edits = pytest.mark.parametrize("name", EDITS)
_PAIRS = [(name, kind, f"takes {kind}" not in EXCEPTIONS.get(name, {})) for name in EDITS for kind in MODELS]
on_every_kind = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind, takes in _PAIRS if takes])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], nn.Module]:
    """A fresh copy of a model, built once."""
    made: dict[str, nn.Module] = {}

    def get(kind: str) -> nn.Module:
        if kind not in made:
            made[kind] = MODELS[kind](tmp_path_factory.mktemp("model"))
        return copy.deepcopy(made[kind])

    return get


def make(name: str, settings: dict[str, Any]) -> ModelEdit:
    return build({"name": name, **settings}, EDITS, where="test")


def encode(model: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    height, width = model.image_spec.size
    image = torch.randint(0, 256, (3, 3, height, width), generator=generator, dtype=torch.uint8)
    low, high = (1, 16) if model.tokenizer.vocab_size < 1000 else (1000, 2000)
    text = torch.randint(low, high, (3, 8), generator=generator)
    if model.tokenizer.vocab_size > 1000:
        text[:, 0], text[:, -1] = 49406, 49407
    return torch.cat([model.encode_image(image).pooled, model.encode_text(text).pooled])


@edits
def test_is_an_edit(name: str) -> None:
    assert isinstance(make(name, SETTINGS.get(name, {})), ModelEdit)


@on_every_kind
def test_applies_in_place_and_trains(name: str, kind: str, whole: Callable[[str], nn.Module]) -> None:
    model = whole(kind)
    plain = encode(model).detach()
    edit = make(name, SETTINGS.get(name, {}))
    assert edit.apply_(model) is model
    out = encode(model)
    assert out.shape == plain.shape
    assert bool(out.isfinite().all())
    if "is the identity at first" in EXCEPTIONS.get(name, {}):
        assert not torch.equal(out, plain)
        assert torch.nn.functional.cosine_similarity(out, plain).mean() > 0.5
    else:
        torch.testing.assert_close(out, plain)
    assert torch.equal(encode(model), out), "the edit draws"
    out.square().sum().backward()
    moved = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    fresh = whole(kind)
    encode(fresh).square().sum().backward()
    if "every weight learns" in EXCEPTIONS.get(name, {}):
        assert moved
        return
    assert moved >= {key for key, parameter in fresh.named_parameters() if parameter.grad is not None}


@on_every_kind
def test_merge_keeps_outputs_and_leaves_plain_layers(
    name: str, kind: str, whole: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    model = whole(kind)
    before = {key: type(module) for key, module in model.named_modules()}
    edit = make(name, FOLDABLE.get(name, SETTINGS.get(name, {})))
    edit.apply_(model)
    with torch.no_grad():
        edited = encode(model)
        assert edit.merge_(model) is model
        merged = encode(model)
    torch.testing.assert_close(merged, edited, rtol=1e-4, atol=1e-5)
    if "leaves plain layers" not in EXCEPTIONS.get(name, {}):
        assert {key: type(module) for key, module in model.named_modules()} == before
        assert model.state_dict().keys() == whole(kind).state_dict().keys()
    if kind == "own tiny":
        tether.save(model, tmp_path / "saved")
        with torch.no_grad():
            assert torch.equal(encode(tether.load(tmp_path / "saved")), merged)


@edits
def test_merge_without_apply_and_apply_twice(name: str, whole: Callable[[str], nn.Module]) -> None:
    model = whole("own tiny")
    edit = make(name, SETTINGS.get(name, {}))
    with pytest.raises(InputError, match="Clip"):
        edit.merge_(model)
    edit.apply_(model)
    with pytest.raises(InputError, match="already"):
        edit.apply_(model)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind, takes in _PAIRS if not takes])
def test_another_kind_is_refused_and_left_as_it_was(name: str, kind: str, whole: Callable[[str], nn.Module]) -> None:
    model = whole(kind)
    with pytest.raises(UnsupportedModelError, match=name):
        make(name, {}).apply_(model)
    assert model.state_dict().keys() == whole(kind).state_dict().keys()


@edits
def test_a_refused_model_is_left_as_it_was(name: str) -> None:
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(InputError):
        make(name, SETTINGS.get(name, {})).apply_(model)
    assert [type(module) for module in model] == [nn.ReLU]


@edits
def test_under_autocast(name: str, whole: Callable[[str], nn.Module]) -> None:
    model = whole("own tiny")
    make(name, SETTINGS.get(name, {})).apply_(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = encode(model)
    assert bool(out.isfinite().all())
    out.float().square().sum().backward()
