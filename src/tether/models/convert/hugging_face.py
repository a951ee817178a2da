"""transformers' CLIPModel: its configuration and its names, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from tether.models.convert.exported import refused
from tether.models.convert.image_processor import image_spec, preprocess_config
from tether.models.convert.open_clip import check_classic
from tether.models.convert.rules import Rule, both
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.config import CLIP_END, CLIP_VOCABULARY, ModelConfig, TextConfig, VisionConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILES = ("model.safetensors", "model.safetensors.index.json")

# transformers writes only what differs from these in old files (its CLIPVisionConfig and CLIPTextConfig).
_VISION: Mapping[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_channels": 3,
}  # fmt: skip
_TEXT: Mapping[str, Any] = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": CLIP_VOCABULARY, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "eos_token_id": CLIP_END,
}  # fmt: skip
_ACTIVATIONS = ("quick_gelu", "gelu")
_OLD_END = 2  # transformers before PR 24773 wrote this and took the largest id instead


def native_config(cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None = None) -> ModelConfig | None:
    """Our configuration of a CLIPModel's ``config.json``, or None where our towers are not the same mathematics."""
    vision = {**_VISION, **(cfg.get("vision_config_dict") or {}), **(cfg.get("vision_config") or {})}
    text = {**_TEXT, **(cfg.get("text_config_dict") or {}), **(cfg.get("text_config") or {})}
    if (
        vision["hidden_act"] not in _ACTIVATIONS
        or text["hidden_act"] not in _ACTIVATIONS
        or vision["num_channels"] != 3
    ):
        return None
    end = text["eos_token_id"]
    if end == _OLD_END:
        end = text["vocab_size"] - 1
    if not isinstance(end, int) or not 0 <= end < text["vocab_size"]:
        return None
    return ModelConfig(
        dim=cfg.get("projection_dim", 512),
        vision=VisionConfig(
            image=image_spec(vision["image_size"], preprocess),
            patch=vision["patch_size"],
            **_tower(vision),
        ),
        text=TextConfig(
            context=text["max_position_embeddings"],
            vocabulary=text["vocab_size"],
            end=end,
            **_tower(text),
        ),
    )


def _tower(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The options that both towers have."""
    return {
        "width": cfg["hidden_size"],
        "layers": cfg["num_hidden_layers"],
        "heads": cfg["num_attention_heads"],
        "hidden": cfg["intermediate_size"],
        "block": BlockConfig(activation=cfg["hidden_act"], norm_eps=cfg["layer_norm_eps"]),
    }


def hugging_face_config(config: ModelConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """The contents of ``config.json`` and ``preprocessor_config.json`` for a model of ours."""
    vision, text, image = config.vision, config.text, config.vision.image
    check_classic(config, library="transformers")
    if image.size[0] != image.size[1]:
        raise refused(f"a CLIPModel takes square images, this model takes {image.size}")
    if config.logit_bias is not None:
        raise refused("a CLIPModel has no logit bias, this model has one; --format open_clip holds it")
    if text.end == _OLD_END:
        raise refused(f"a CLIPModel takes the end token {_OLD_END} for the largest id")
    towers = [
        {
            "hidden_size": tower.width,
            "intermediate_size": tower.hidden,
            "num_hidden_layers": tower.layers,
            "num_attention_heads": tower.heads,
            "hidden_act": tower.blocks[0].activation,
            "layer_norm_eps": tower.blocks[0].norm_eps,
            "projection_dim": config.dim,
        }
        for tower in (vision, text)
    ]
    model = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.dim,
        "vision_config": {
            **towers[0], "model_type": "clip_vision_model", "image_size": image.size[0], "patch_size": vision.patch,
        },
        "text_config": {
            **towers[1], "model_type": "clip_text_model", "max_position_embeddings": text.context,
            "vocab_size": text.vocabulary, "bos_token_id": text.end - 1, "eos_token_id": text.end,
            "pad_token_id": text.end,
        },
    }  # fmt: skip
    return model, preprocess_config(image, kind="CLIP")


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Our names to those of ``transformers.CLIPModel``."""
    yield Rule("log_logit_scale", ("logit_scale",), "scalar")
    yield Rule("visual.patch.weight", ("vision_model.embeddings.patch_embedding.weight",), "patch")
    yield Rule("visual.class_token", ("vision_model.embeddings.class_embedding",))
    yield Rule("visual.position", ("vision_model.embeddings.position_embedding.weight",))
    yield from both("visual.norm_pre", "vision_model.pre_layrnorm")  # sic, in transformers
    yield from _blocks("visual.blocks", "vision_model.encoder.layers", config.vision.layers)
    yield from both("visual.norm_post", "vision_model.post_layernorm")
    yield Rule("visual.projection.weight", ("visual_projection.weight",))
    yield Rule("text.token.weight", ("text_model.embeddings.token_embedding.weight",))
    yield Rule("text.position", ("text_model.embeddings.position_embedding.weight",))
    yield from _blocks("text.blocks", "text_model.encoder.layers", config.text.layers)
    yield from both("text.norm_post", "text_model.final_layer_norm")
    yield Rule("text.projection.weight", ("text_projection.weight",))


def _blocks(ours: str, theirs: str, layers: int) -> Iterator[Rule]:
    for index in range(layers):
        a, b = f"{ours}.{index}", f"{theirs}.{index}"
        yield from both(f"{a}.attn_pre", f"{b}.layer_norm1")
        for kind in ("weight", "bias"):
            yield Rule(f"{a}.qkv.{kind}", tuple(f"{b}.self_attn.{part}_proj.{kind}" for part in "qkv"))
        yield from both(f"{a}.proj", f"{b}.self_attn.out_proj")
        yield from both(f"{a}.ffn_pre", f"{b}.layer_norm2")
        yield from both(f"{a}.up", f"{b}.mlp.fc1")
        yield from both(f"{a}.down", f"{b}.mlp.fc2")


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the position and token type ids that old files hold."""
    return {name: value for name, value in state.items() if not name.endswith(("position_ids", "token_type_ids"))}
