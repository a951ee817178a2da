"""open_clip's classic CLIP: its configuration and its names, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.models.convert.exported import refused
from tether.models.convert.rules import Rule, both
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.config import CLIP_END, CLIP_VOCABULARY, ModelConfig, TextConfig, VisionConfig
from tether.models.towers.vision.eva_config import EvaConfig

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = ("open_clip_model.safetensors", "model.safetensors")

# What our towers can express; a configuration that sets anything else is wrapped instead of converted.
_TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias"}
_VISION = {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout", "norm_kwargs"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs"}
_HARMLESS: Mapping[str, object] = {
    "pool_type": None, "attentional_pool": False, "ls_init_value": None, "no_causal_mask": False, "embed_cls": False,
    "output_tokens": False, "proj_bias": False, "proj": "linear", "proj_type": "linear", "act_kwargs": None,
}  # fmt: skip


def native_config(cfg: Mapping[str, Any], *, preprocess: Mapping[str, Any] | None = None) -> ModelConfig | None:
    """Our configuration of an open_clip ``model_cfg``, or None where our towers are not the same mathematics.

    Args:
        cfg: as in open_clip's model_configs.
        preprocess: open_clip's ``preprocess_cfg``; CLIP's own if None.
    """
    if "audio_cfg" in cfg:
        raise InputError("model_cfg.audio_cfg: a model of sounds; tether takes images and texts only")
    for key in ("vision_cfg", "text_cfg"):
        if not isinstance(cfg.get(key), Mapping):
            raise InputError(f"model_cfg.{key}: expected a mapping, got {cfg.get(key)!r:.100} beside {sorted(cfg)}")
    vision, text = dict(cfg["vision_cfg"]), dict(cfg["text_cfg"])
    if vision.pop("pool_type", "tok") != "tok" or text.pop("pool_type", "argmax") != "argmax":
        return None
    for part, known in ((vision, _VISION), (text, _TEXT)):
        for key in set(part) - known:
            if key not in _HARMLESS or part[key] != _HARMLESS[key]:
                return None
    layers, patch = vision.get("layers", 12), vision.get("patch_size", 16)
    if set(cfg) - _TOP or not isinstance(layers, int) or not isinstance(patch, int):
        return None
    if text.get("vocab_size", CLIP_VOCABULARY) != CLIP_VOCABULARY:
        return None
    activation = "quick_gelu" if cfg.get("quick_gelu") else "gelu"
    width, text_width = vision.get("width", 768), text.get("width", 512)
    heads = width // vision.get("head_width", 64)
    bias = cfg.get("init_logit_bias")
    return ModelConfig(
        dim=cfg["embed_dim"],
        logit_bias=None if bias is None else float(bias),
        vision=VisionConfig(
            image=image_spec(vision.get("image_size", 224), preprocess),
            patch=patch,
            width=width,
            layers=layers,
            heads=heads,
            hidden=int(width * vision.get("mlp_ratio", 4.0)),
            block=BlockConfig(activation=activation, norm_eps=(vision.get("norm_kwargs") or {}).get("eps", 1e-5)),
        ),
        text=TextConfig(
            context=text.get("context_length", 77),
            end=CLIP_END,
            width=text_width,
            layers=text.get("layers", 12),
            heads=text.get("heads", 8),
            hidden=int(text_width * text.get("mlp_ratio", 4.0)),
            block=BlockConfig(activation=activation, norm_eps=(text.get("norm_kwargs") or {}).get("eps", 1e-5)),
        ),
    )


def image_spec(size: Any, preprocess: Mapping[str, Any] | None) -> ImageSpec:
    """How open_clip prepares images for a model."""
    cfg = {key: value for key, value in (preprocess or {}).items() if value is not None}
    square = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    default = ImageSpec(size=square)
    mode = cfg.get("resize_mode", "shortest")
    interpolation = cfg.get("interpolation", "bicubic")
    if mode not in ("shortest", "squash", "longest"):
        raise InputError(f"preprocess_cfg.resize_mode: expected shortest, squash or longest, got {mode!r}")
    return ImageSpec(
        size=square,
        mean=_three(cfg.get("mean", default.mean)),
        std=_three(cfg.get("std", default.std)),
        resize=cast(Literal["shortest", "squash", "longest"], mode),
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
        fill=int(cfg.get("fill_color", 0)),
    )


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def open_clip_config(config: ModelConfig, *, own_words: bool = False) -> dict[str, Any]:
    """The contents of an ``open_clip_config.json`` for a model of ours; ``own_words`` lie beside it as files."""
    vision, text, image = config.vision, config.text, config.vision.image
    check_classic(config, library="open_clip")
    if vision.width % vision.heads:
        raise refused("open_clip needs heads that divide the width")
    cfg: dict[str, Any] = {
        "embed_dim": config.dim,
        "quick_gelu": vision.blocks[0].activation == "quick_gelu",
        "vision_cfg": {
            "image_size": image.size[0] if image.size[0] == image.size[1] else list(image.size),
            "layers": vision.layers,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "mlp_ratio": vision.hidden / vision.width,
            "patch_size": vision.patch,
            "norm_kwargs": {"eps": vision.blocks[0].norm_eps},
        },
        "text_cfg": {
            "context_length": text.context,
            "vocab_size": text.vocabulary,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": text.hidden / text.width,
            "norm_kwargs": {"eps": text.blocks[0].norm_eps},
        },
    }
    if own_words:
        cfg["text_cfg"] |= {"hf_tokenizer_name": ".", "pool_type": "eos", "eos_id": text.end}
    if config.logit_bias is not None:
        cfg["init_logit_bias"] = config.logit_bias
    return {"model_cfg": cfg, "preprocess_cfg": preprocess_config(image)}


def preprocess_config(image: ImageSpec) -> dict[str, Any]:
    """open_clip's ``preprocess_cfg`` of an ``ImageSpec``.

    Raises:
        InputError: open_clip has no such preparation of images.
    """
    if image.resized not in (None, image.size):
        raise refused(f"open_clip scales images to {image.size} at once, this model to {image.resized} before the crop")
    if image.interpolation == "nearest":
        raise refused("open_clip resizes by bicubic or bilinear, this model by 'nearest'")
    return {
        "size": list(image.size),
        "mode": "RGB",
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": image.interpolation,
        "resize_mode": image.resize,
        "fill_color": image.fill,
    }


def check_classic(config: ModelConfig, *, library: str) -> None:
    """Refuse to export a model whose blocks or geometry the other library cannot express."""
    if config.geometry != "clip":
        raise refused(f"{library} compares by cosine, this model's geometry is {config.geometry!r}")
    if isinstance(config.vision, EvaConfig):
        raise refused(f"{library}'s own vision transformer is not this model's image tower, EVA's")
    if config.vision.reads != "pixels":
        raise refused(f"{library} reads pixels, this model's image tower latents")
    for name, tower in (("vision", config.vision), ("text", config.text)):
        first = tower.blocks[0]
        classic = BlockConfig(activation=first.activation, norm_eps=first.norm_eps)
        if any(block != classic for block in tower.blocks) or first.activation not in ("gelu", "quick_gelu"):
            raise refused(f"{library} has no such blocks as this model's {name} tower: {tower.block}")
        if tower.final_layernorm != "keep":
            raise refused(f"{library} needs the final layer norm of the {name} tower, which was dropped")
        if tower.gate != "none":
            raise refused(f"{library} has no gate like that of this model's {name} tower")
        if tower.moe.blocks:
            raise refused(f"{library} has no experts like those of this model's {name} tower")
    if config.vision.blocks[0].activation != config.text.blocks[0].activation and library == "open_clip":
        raise refused("open_clip needs one activation for both towers")
    if config.text.position != "learned":
        raise refused(f"{library} needs a vector for each place of a text; this model's tower has none")


def rules(config: ModelConfig) -> Iterator[Rule]:
    """Our names to those of ``open_clip.CLIP``."""
    yield Rule("log_logit_scale", ("logit_scale",), "scalar")
    if config.logit_bias is not None:
        yield Rule("logit_offset", ("logit_bias",), "scalar")
    yield Rule("visual.patch.weight", ("visual.conv1.weight",), "patch")
    yield Rule("visual.class_token", ("visual.class_embedding",))
    yield Rule("visual.position", ("visual.positional_embedding",))
    yield from both("visual.norm_pre", "visual.ln_pre")
    yield from _blocks("visual.blocks", "visual.transformer.resblocks", config.vision.layers)
    yield from both("visual.norm_post", "visual.ln_post")
    yield Rule("visual.projection.weight", ("visual.proj",), "transposed")
    yield Rule("text.token.weight", ("token_embedding.weight",))
    yield Rule("text.position", ("positional_embedding",))
    yield from _blocks("text.blocks", "transformer.resblocks", config.text.layers)
    yield from both("text.norm_post", "ln_final")
    yield Rule("text.projection.weight", ("text_projection",), "transposed")


def _blocks(ours: str, theirs: str, layers: int) -> Iterator[Rule]:
    for index in range(layers):
        a, b = f"{ours}.{index}", f"{theirs}.{index}"
        yield from both(f"{a}.attn_pre", f"{b}.ln_1")
        yield Rule(f"{a}.qkv.weight", (f"{b}.attn.in_proj_weight",))
        yield Rule(f"{a}.qkv.bias", (f"{b}.attn.in_proj_bias",))
        yield from both(f"{a}.proj", f"{b}.attn.out_proj")
        yield from both(f"{a}.ffn_pre", f"{b}.ln_2")
        yield from both(f"{a}.up", f"{b}.mlp.c_fc")
        yield from both(f"{a}.down", f"{b}.mlp.c_proj")


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as in ``open_clip.CLIP``: without DDP's ``module.``, CustomTextCLIP's ``text.`` and saved buffers."""
    plain: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name.removeprefix("module.").removeprefix("text.")
        if short not in ("attn_mask", "input_resolution", "context_length", "vocab_size"):
            plain[short] = value
    return plain
