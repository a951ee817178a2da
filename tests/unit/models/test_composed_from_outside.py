"""Composed encoders that are anyone's: what a ``model.json`` says of towers and maps is checked before it is built."""

import pytest
import test_models_from_outside as outside
from test_models_from_outside import OWN

import tether
from tether.core.errors import InputError
from tether.models.compose import compose

offline, place, copy = outside.offline, outside.place, outside.copy


def _composed(folder, library):
    """An image tower of a library beside a text tower: BERT, or for ``dual`` one side of another encoder."""
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **shape)).save_pretrained(folder / "vit")
    BertModel(BertConfig(vocab_size=16, max_position_embeddings=16, **shape)).save_pretrained(folder / "bert")
    image = {"transformers": str(folder / "vit"), "dual": str(outside._folder("siglip"))}.get(library)
    text = str(outside._folder("siglip") if library == "dual" else folder / "bert")
    parts = {"image": image or {"name": "timm:test_vit", "random_weights": True}, "text": text}
    tether.save(compose(**parts), folder)


for _kind, _library in (("composed", "transformers"), ("composed timm", "timm"), ("composed dual", "dual")):
    outside.MAKERS[_kind] = lambda folder, library=_library: _composed(folder, library)

TIMM = {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "evil.pth"}}
LINEAR = {"kind": "linear", "width": 32, "dim": 4}


def _joined(parts, levels=0):
    inner = _joined(parts, levels - 1) if levels else LINEAR
    return {
        "kind": "joined",
        "width": 32,
        "dim": inner["dim"] * parts,
        "parts": [inner] * parts,
        "weights": [1.0] * parts,
    }


@pytest.mark.parametrize(
    ("kind", "keys", "value", "message"),
    [
        ("composed", "image.config", TIMM, "config.model_type: unknown 'timm_wrapper'"),
        ("composed", "image.config.model_type", "timm_backbone", "unknown 'timm_backbone'"),
        ("composed", "image.config.model_type", "bert", "unknown 'bert'"),
        ("composed", "text.config.model_type", "vit", "unknown 'vit'"),
        ("composed", "image.config.model_type", ["vit"], "unknown"),
        ("composed", "image.config.num_hidden_layers", 100_000, "at most 256"),
        ("composed", "text.config.num_hidden_layers", 100_000, "at most 256"),
        ("composed", "image.config", {"model_type": "resnet", "depths": [1, 1, 1, 10**6]}, "at most 256"),
        ("composed", "image.config", {"model_type": "resnet", "depths": [1] * 10**5}, "at most 256"),
        ("composed", "text.config", {"model_type": "albert", "inner_group_num": 10**6}, "at most 16"),
        ("composed", "image.config", {"model_type": "swin", "depths": [200, 200]}, "at most 256 together"),
        ("composed", "text.config", 3, "config: expected a mapping"),
        ("composed", "image.output", "x", "gives no 'x'"),
        ("composed", "text.output", ["mean"], "output: expected str"),
        ("composed", "text.pad", 10**9, "pad: expected 0 to 15"),
        ("composed", "text.pad", -1, "pad: expected 0 to 15"),
        ("composed", "text.pad", "x", "pad: expected int"),
        ("composed", "text.context", 10**9, "context: expected 1 to 16"),
        ("composed", "text.context", 0, "context: expected 1 to 16"),
        ("composed", "text.context", "7", "context: expected int"),
        ("composed", "text.normalised", "no", "normalised: expected bool"),
        ("composed", "image_map.dim", 2**40, "dim: expected 1 to"),
        ("composed", "image_map.width", "x", "width: expected int"),
        ("composed", "image_map.device", "cpu", "device"),
        ("composed", "image_map", _joined(32), "at most 32 maps"),
        ("composed", "image_map", _joined(1, levels=40), "at most 32 maps"),
        ("composed", "image_map", _joined(2) | {"weights": [1.0, float("nan")]}, "finite"),
        ("composed", "image_map", _joined(2) | {"parts": [3, 3]}, "expected a mapping"),
        ("composed timm", "image.model", "hf-hub:someone/thing", "no such architecture"),
        ("composed timm", "image.model", "local-dir:/somewhere", "no such architecture"),
        ("composed timm", "image.model", "../evil", "no such architecture"),
        ("composed dual", "image.model", 3, "image: model: expected a mapping"),
        ("composed dual", "image.model.pad", "x", "pad: expected int"),
        ("composed dual", "image.model.pad", 10**9, "pad: expected an id below"),
        ("composed dual", "text.model.config", "x", "config: expected dict"),
        ("composed dual", "image.model.library", "timm", "library: unknown 'timm'"),
        ("composed dual", "image.model.config.vision_config.num_hidden_layers", 100_000, "at most 256"),
    ],
)
def test_towers_of_a_model_json_are_checked_as_those_of_a_folder(kind, keys, value, message, copy):
    folder = copy(kind)
    outside._change(folder / OWN, keys, value)
    with pytest.raises(InputError, match=message) as caught:
        tether.load(folder)
    assert str(folder / OWN) in str(caught.value)


def test_what_names_code_or_the_hub_is_dropped(copy):
    folder = copy("composed")
    for side in ("image", "text"):
        for key, value in (
            ("_attn_implementation", "someone/kernel"),
            ("attn_implementation", "someone/kernel"),
            ("auto_map", outside.CODE),
            ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
            ("backbone", "hf-hub:someone/thing"),
            ("use_timm_backbone", True),
            ("checkpoint_path", "evil.pth"),
        ):
            outside._change(folder / OWN, f"{side}.config.{key}", value)
    model = tether.load(folder)
    for side in (model.parts.image, model.parts.text):
        config = side.inner.config
        assert not any(
            hasattr(config, key) for key in ("auto_map", "quantization_config", "backbone", "checkpoint_path")
        )
        assert config._attn_implementation in ("sdpa", "eager")
