"""open_clip's modules from plain values: nothing is fetched, and no code is named."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tether.core.atomic_io import read_json, write_json
from tether.core.errors import InputError
from tether.models.config_check import alike, blamed_on, check_values
from tether.models.convert.open_clip import CONFIG_FILE
from tether.models.convert.seeded import seeded
from tether.models.encoders.timm_sizes import RESIZED, set_sizes_


def open_clip_model(
    cfg: Mapping[str, Any], text_config: Mapping[str, Any] | None, *, preprocess: Mapping[str, Any] | None = None
) -> nn.Module:
    """open_clip builds from a folder, so it gets one of ours; a Hugging Face text tower is named by a folder in it.

    Args:
        cfg: open_clip's ``model_cfg``.
        text_config: of the text tower, where it is one of transformers.
        preprocess: open_clip's ``preprocess_cfg``.
    """
    import open_clip

    check_values(cfg)
    cfg = copy.deepcopy(dict(cfg))
    _check_vision(cfg["vision_cfg"])
    resized = cfg["vision_cfg"].pop(RESIZED, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if text_config is not None:
            write_json(folder / "text" / "config.json", check_text_config(text_config))
            cfg["text_cfg"]["hf_model_name"] = str(folder / "text")
        elif named := cfg["text_cfg"].get("hf_model_name"):
            raise InputError(f"text_config: expected the configuration of {named!r:.100}")
        write_json(folder / CONFIG_FILE, {"model_cfg": cfg, "preprocess_cfg": preprocess or {}})
        with seeded():
            model = open_clip.create_model(
                f"local-dir:{folder}",
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                device="meta" if torch.get_default_device().type == "meta" else "cpu",
            )
            if resized is not None:
                set_sizes_(model.get_submodule("visual.trunk"), resized)
            return model


def _check_vision(vision: Mapping[str, Any]) -> None:
    """Refuse an image tower of the hub's, and positions that are computed at any size."""
    name = vision.get("timm_model_name")
    if name is not None:
        import timm

        if not isinstance(name, str) or ":" in name or "/" in name or not timm.is_model(name):
            raise InputError(f"vision_cfg.timm_model_name: expected a model of timm's package, got {name!r:.100}")
    if vision.get("pos_embed_type", "learnable") != "learnable":
        raise InputError(f"vision_cfg.pos_embed_type: expected learnable, got {vision['pos_embed_type']!r:.100}")


def read_text_config(text: Mapping[str, Any], *, folder: Path) -> dict[str, Any] | None:
    """The configuration of the Hugging Face text tower that a folder's ``text_cfg`` names, from this machine."""
    name = text.get("hf_model_name")
    if not name:
        return None
    inside = (folder / str(name)).resolve()
    path = inside / "config.json"
    if not inside.is_relative_to(folder.resolve()) or not path.is_file():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(str(name), "config.json")
        if not isinstance(cached, str):
            raise InputError(
                f"text_cfg.hf_model_name: {name!r:.100} is a text tower of the Hugging Face hub, and a folder may "
                "not fetch it; load it once as open_clip:ARCHITECTURE/TAG or hf:OWNER/NAME, then tether.save it"
            )
        path = Path(cached)
    with blamed_on(path):
        return check_text_config(read_json(path))


def check_text_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """A text tower's configuration without what names code or files."""
    from open_clip.hf_configs import arch_dict
    from transformers import CONFIG_MAPPING

    kind = values.get("model_type")
    if kind not in arch_dict:
        raise InputError(f"text_config.model_type: unknown {kind!r:.100}; known: {', '.join(arch_dict)}")
    return alike(values, CONFIG_MAPPING[kind]().to_dict(), key="text_config")
