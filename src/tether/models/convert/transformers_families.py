"""transformers' dual encoders: what tells one class from another, and how its modules are built from plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from torch import nn

from tether.core.errors import InputError, MissingExtraError
from tether.models.config_check import MAX_LAYERS, alike, mapping
from tether.models.convert.seeded import seeded

Scale = Literal["logit_scale", "temperature"]


@dataclass(frozen=True, slots=True)
class Family:
    """One class of transformers.

    Attributes:
        model: its name.
        processor: the kind of image processor that it has where a folder does not say.
        dim: where its configuration has the size of the shared space, dotted.
        full_context: texts are padded to the whole context, since a padded place is what is read.
        masked: the text tower is given a mask of its words, unless the tokenizer says otherwise.
        lower_gemma: it was trained on lower-cased text, which Gemma's tokenizer keeps as it is.
        any_size: the image tower takes the processor's size, whatever its own configuration says.
        image_kinds: image towers that a configuration may name; none where the class has one of its own.
        text_kinds: the same of text towers.
        prefix: of the weights' names where another class holds this one.
        unread: beginnings of names of weights that the class has not.
        scale: what the cosines are multiplied with is the exponential of ``logit_scale``, or 1 / ``temperature``.
        sides: names of its direct parts by side, as ``WrappedEncoder.sides``.
    """

    model: str
    processor: str = "CLIP"
    dim: str = "projection_dim"
    full_context: bool = False
    masked: bool = True
    lower_gemma: bool = False
    any_size: bool = False
    image_kinds: tuple[str, ...] = ()
    text_kinds: tuple[str, ...] = ()
    prefix: str = ""
    unread: tuple[str, ...] = ()
    scale: Scale = "logit_scale"
    sides: Mapping[str, Sequence[str]] = field(
        default_factory=lambda: {
            "image": ("vision_model", "visual_projection"),
            "text": ("text_model", "text_projection"),
            "both": ("logit_scale", "logit_bias", "temperature"),
        }
    )


_SIGLIP: Mapping[str, Any] = {
    "dim": "vision_config.hidden_size", "full_context": True, "masked": False, "lower_gemma": True,
}  # fmt: skip
FAMILIES: Mapping[str, Family] = {
    "align": Family("AlignModel", processor="EfficientNet", scale="temperature"),
    "altclip": Family("AltCLIPModel"),
    "chinese_clip": Family("ChineseCLIPModel", processor="ChineseCLIP", unread=("text_model.pooler.",)),
    "clip": Family("CLIPModel"),
    "clipseg": Family("CLIPSegModel", processor="ViT", any_size=True, prefix="clip.", unread=("decoder.",)),
    "metaclip_2": Family("MetaClip2Model"),
    "siglip": Family("SiglipModel", processor="Siglip", **_SIGLIP),
    "siglip2": Family("Siglip2Model", processor="Siglip2", **_SIGLIP),
    "vision-text-dual-encoder": Family(
        "VisionTextDualEncoderModel",
        image_kinds=("clip_vision_model", "vit", "deit", "beit", "dinov2", "swin", "siglip_vision_model"),
        text_kinds=("bert", "roberta", "xlm-roberta", "camembert", "mpnet"),
    ),
}
"""By ``model_type``."""


SIGLIP = ("SiglipModel", "Siglip2Model")
"""Classes whose image tower pools by attention and whose text tower reads its last place."""


def family_of(cfg: Any) -> Family:
    """The family of a ``config.json``.

    Raises:
        InputError: none that is known here; it says so where the folder wants code of its own to run.
    """
    kind = mapping(cfg, where="config").get("model_type")
    if isinstance(kind, str) and kind in FAMILIES:
        return FAMILIES[kind]
    known = f"known: {', '.join(FAMILIES)}"
    if cfg.get("auto_map"):
        raise InputError(
            f"model_type: {kind!r:.100} needs the code that auto_map names, and no code of a folder or a hub is run; "
            f"{known}"
        )
    raise InputError(f"model_type {kind!r:.100} is not known here; {known}")


def transformers_model(cfg: Mapping[str, Any]) -> nn.Module:
    """A dual encoder with weights from a fixed seed, from what a configuration says of its two towers.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="hf") from None
    family = family_of(cfg)
    model: Any = getattr(transformers, family.model, None)
    if model is None:
        raise InputError(f"model_type: transformers {transformers.__version__} has no {family.model}; a newer one has")
    config: Any = model.config_class
    if family.image_kinds:
        defaults = {
            key: transformers.CONFIG_MAPPING[_kind(cfg, key, kinds)]()
            for key, kinds in (("vision_config", family.image_kinds), ("text_config", family.text_kinds))
        }
        plain = config.from_vision_text_configs(defaults["vision_config"], defaults["text_config"])
    else:
        plain = config()
        defaults = {key: getattr(plain, key) for key in ("vision_config", "text_config")}
    towers = {key: _tower(cfg, key, default) for key, default in defaults.items()}
    top = alike(cfg, plain.to_dict(), key="config")
    top.pop("model_type", None)
    with seeded():
        return model(config(**top, **towers))


def _kind(cfg: Mapping[str, Any], key: str, known: tuple[str, ...]) -> str:
    """The kind of a tower that is named in the configuration, if it is known here."""
    kind = mapping(cfg.get(key), where=key).get("model_type")
    if kind not in known:
        raise InputError(f"{key}.model_type: unknown {kind!r:.100}; known: {', '.join(known)}")
    return kind


def _tower(cfg: Mapping[str, Any], key: str, default: Any) -> dict[str, Any]:
    plain = default.to_dict()
    values = alike(cfg.get(key), plain, key=key)
    both = plain | values
    for repeats in ("depths", "num_block_repeats"):
        if sum(both.get(repeats) or ()) * both.get("depth_coefficient", 1) > MAX_LAYERS:
            raise InputError(f"{key}.{repeats}: expected at most {MAX_LAYERS} layers, got {both[repeats]!r:.100}")
    return values | {"model_type": default.model_type}


def tower_sizes(model: nn.Module) -> tuple[int, int]:
    """Longest text and number of ids; RoBERTa's towers leave the places up to their padding's unused."""
    text = cast(Any, model).config.text_config
    unused = 0
    for name, part in model.named_modules():
        places = isinstance(part, nn.Embedding) and name.startswith("text_model") and "position_emb" in name
        if places and part.padding_idx is not None:
            unused = int(part.padding_idx) + 1
    return text.max_position_embeddings - unused, text.vocab_size


_OFFSET = ("camembert", "mpnet", "roberta", "xlm-roberta")  # positions begin behind the padding's


def position_rows(cfg: Mapping[str, Any]) -> int:
    """Longest text that a text tower's table of positions has rows for; 512 where there is none."""
    most = cfg.get("max_position_embeddings") or 512
    return most - ((cfg.get("pad_token_id") or 0) + 1 if cfg["model_type"] in _OFFSET else 0)


def file_names(model: nn.Module) -> dict[str, str]:
    """Names in transformers' files, by the names of the module's weights, where the two differ."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5 they were the same
        return {}
    state: Any = model.state_dict(keep_vars=True)
    names = {id(value): name for name, value in state.items()}
    given = revert_weight_conversion(model, dict(state))  # pyrefly: ignore - it asks for their own base class
    return {names[id(value)]: name for name, value in given.items() if names.get(id(value), name) != name}
