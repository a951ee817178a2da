"""open_clip's models: by architecture and weights, or from a folder with an ``open_clip_config.json``."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from tether.core.atomic_io import local, read_json
from tether.core.component import closest
from tether.core.errors import InputError, reason_of
from tether.core.protocols import Tokenizer
from tether.core.quiet import quiet_logging
from tether.models.config_check import blamed_on, check_values
from tether.models.convert import open_clip as names
from tether.models.convert.native import native
from tether.models.convert.rules import take
from tether.models.convert.seeded import seeded
from tether.models.convert.tokenizers import local_open_clip_tokenizer, named_open_clip_tokenizer
from tether.models.convert.weights import assemble, fill, find_weights, read_weights
from tether.models.encoders.build_open_clip import open_clip_model, read_text_config
from tether.models.encoders.wrapped import OpenClipEncoder, WrappedEncoder, check_forward
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig


def load_named(name: str, *, random_weights: bool) -> Clip | WrappedEncoder:
    """``ARCHITECTURE/TAG``, ``ARCHITECTURE/path/to/weights.safetensors``, or ``ARCHITECTURE`` with random weights."""
    architecture, _, weights = name.partition("/")
    cfg = _known_config(architecture)
    with blamed_on(Path(f"{architecture}.json")):
        config = names.native_config(cfg)
    if not weights:
        if not random_weights:
            raise InputError(
                f"open_clip:{name}: names no weights; expected open_clip:{architecture}/TAG or "
                f"open_clip:{architecture}/FILE.safetensors, or ask for random weights (--random-weights)"
            )
        return _built(architecture, cfg, config, weights=None)
    for file in (local(weights), Path("/" + weights)):
        if file.is_file():
            return _built(architecture, cfg, config, weights=file)
    if local(weights).suffix:
        raise InputError(f"{local(weights)}: no such file of weights for open_clip:{architecture}")
    return _tagged(architecture, weights)


def load_folder(folder: Path, *, random_weights: bool) -> Clip | WrappedEncoder:
    """A folder with an ``open_clip_config.json`` and safetensors, as open_clip pushes to the hub.

    Nothing in it is run, and nothing that it names is fetched.
    """
    path = folder / names.CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("model_cfg"), dict):
        raise InputError(f"{path}: expected the keys 'model_cfg' and 'preprocess_cfg'")
    cfg, preprocess = values["model_cfg"], values.get("preprocess_cfg") or {}
    with blamed_on(path):
        check_values(values)
        config = names.native_config(cfg, preprocess=preprocess)
    weights = find_weights(
        folder, names.WEIGHTS_FILES, pickles="open_clip_pytorch_model.bin", random_weights=random_weights
    )
    if config is not None:
        return native(config, weights, described=path, library=names)
    with blamed_on(path):
        text_config = read_text_config(cfg["text_cfg"], folder=folder)
        tokenizer = local_open_clip_tokenizer(folder if cfg["text_cfg"].get("hf_tokenizer_name") else None, cfg)
    model = assemble(
        lambda: open_clip_model(cfg, text_config, preprocess=preprocess),
        weights,
        described=path,
        check=lambda outline: check_forward(_around(outline, cfg, tokenizer)),
    )
    return _around(model, cfg, tokenizer)


def _known_config(architecture: str) -> dict[str, Any]:
    """open_clip's own description of an architecture, read from its package without importing it."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("open_clip_torch comes with tether-clip and is gone", name="open_clip")
    folder = Path(package.origin).parent / "model_configs"
    path = folder / f"{architecture}.json"
    if not path.is_file():
        known = [file.stem for file in folder.glob("*.json")]
        raise InputError(f"open_clip:{architecture}: unknown architecture; {closest(architecture, known)}")
    return json.loads(path.read_text(encoding="utf-8"))


def _tagged(architecture: str, tag: str) -> Clip | WrappedEncoder:
    """Weights that open_clip knows by a tag and downloads itself."""
    import open_clip

    known = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in known:
        said = closest(tag, known) if known else "open_clip has none for it"
        raise InputError(f"open_clip:{architecture}/{tag}: unknown weights; {said}")
    quick = bool((open_clip.get_pretrained_cfg(architecture, tag) or {}).get("quick_gelu"))
    try:
        with quiet_logging(logging.ERROR):  # of a failed download, which the error below tells
            model = open_clip.create_model(architecture, pretrained=tag, force_quick_gelu=quick)
    except (RuntimeError, OSError) as error:
        first = reason_of(error).partition(". ")[0]
        raise InputError(
            f"open_clip:{architecture}/{tag}: {first}; without a network, name a file of weights: "
            f"open_clip:{architecture}/FILE.safetensors"
        ) from error
    cfg, preprocess = _known_config(architecture), _preprocess(model)
    if quick:
        cfg = {**cfg, "quick_gelu": True}
    config = names.native_config(cfg, preprocess=preprocess)
    if config is None:
        return _around(model, cfg, named_open_clip_tokenizer(architecture, cfg))
    ours = Clip(config)
    state = names.plain_names(model.state_dict())
    fill(ours, take(state, names.rules(config), where=f"open_clip:{architecture}/{tag}"), where=tag)
    return ours


def _built(
    name: str, cfg: Mapping[str, Any], config: ModelConfig | None, *, weights: Path | None
) -> Clip | OpenClipEncoder:
    """Our own towers, or what open_clip builds; no pickle is read and no tower downloads weights of its own."""
    if config is not None:
        return native(config, weights, described=weights or Path(f"{name}.json"), library=names)
    import open_clip

    with seeded():
        model = open_clip.create_model(name, load_weights=False, pretrained_image=False, pretrained_text=False)
    if weights is not None:
        fill(model, read_weights(weights), where=weights)
    return _around(model, cfg, named_open_clip_tokenizer(name, cfg))


def _around(model: nn.Module, cfg: Mapping[str, Any], tokenizer: tuple[Tokenizer, int]) -> OpenClipEncoder:
    preprocess = _preprocess(model)
    spec = names.image_spec(preprocess["size"], preprocess)
    words, pad = tokenizer
    return OpenClipEncoder(model, dim=cfg["embed_dim"], image_spec=spec, tokenizer=words, pad=pad, config=cfg)


def _preprocess(model: nn.Module) -> dict[str, Any]:
    return dict(cast(Any, model).visual.preprocess_cfg)
