"""A wrapped model from its ``model.json``: its library builds it again, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.protocols import Tokenizer
from tether.models.config_check import blamed_on, of_kind
from tether.models.convert.saved_files import VERSION
from tether.models.convert.tokenizer_files import TOKENIZER_FOLDER, no_tokenizer, read_kind, saved_tokenizer
from tether.models.convert.tokenizers import local_open_clip_tokenizer, text_sizes
from tether.models.convert.transformers_families import family_of, tower_sizes, transformers_model
from tether.models.convert.weights import assemble
from tether.models.encoders.build_open_clip import open_clip_model
from tether.models.encoders.load_transformers import wrapper
from tether.models.encoders.wrapped import OpenClipEncoder, TransformersEncoder, WrappedEncoder, check_forward
from tether.models.towers.config import read_image
from tether.models.towers.vision.stems import add_described_

_KEYS: Mapping[str, tuple[type, ...]] = {
    "library": (str,), "class": (str,), "config": (dict,), "text_config": (dict, type(None)), "image": (dict,),
    "pad": (int,), "tokenizer": (str,),
}  # fmt: skip


def rebuild(values: Mapping[str, Any], weights: Path | None, *, path: Path) -> WrappedEncoder:
    """The model that ``values`` describe, with the weights of a file, or without one from a fixed seed.

    Args:
        values: the contents of ``model.json``.
        weights: the file.
        path: where ``values`` were read; the tokenizer's files lie beside it.

    Raises:
        MissingExtraError: the library is not installed.
    """
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r}; this tether reads version {VERSION}")
    read_kind(values.get("tokenizer"), path=path)
    with blamed_on(path):
        build = builder(values, path)

    def check(encoder: WrappedEncoder) -> None:
        if type(encoder.model).__name__ != values["class"]:
            raise InputError(f"class: expected {type(encoder.model).__name__}, got {values['class']!r}")
        check_forward(encoder)

    return assemble(build, weights, described=path, check=check)


def builder(values: Mapping[str, Any], path: Path) -> Callable[[], WrappedEncoder]:
    """What builds the encoder that ``values`` describe, with unset weights; ``path`` is where they were read."""
    for key, kinds in _KEYS.items():
        of_kind(values.get(key), *kinds, where=key)
    library = values["library"]
    if library not in _LIBRARIES:
        raise InputError(f"library: unknown {library!r}; {closest(str(library), _LIBRARIES)}")
    build = _LIBRARIES[library](values, path)

    def built() -> WrappedEncoder:
        made = build()
        add_described_(made, values)
        return made

    return built


def _open_clip(values: Mapping[str, Any], path: Path) -> Callable[[], OpenClipEncoder]:
    cfg, kind = values["config"], values["tokenizer"]
    image = read_image(values["image"], where=f"{path}.image")
    if kind == "none":
        context, vocabulary = text_sizes(cfg["text_cfg"])
        tokenizer: Tokenizer = no_tokenizer(path, context=context, vocabulary=vocabulary)
    else:
        tokenizer, _ = local_open_clip_tokenizer(path.parent / TOKENIZER_FOLDER if kind == "files" else None, cfg)

    def build() -> OpenClipEncoder:
        model = open_clip_model(cfg, values["text_config"])
        dim = cfg["embed_dim"]
        return OpenClipEncoder(model, dim=dim, image_spec=image, tokenizer=tokenizer, pad=values["pad"], config=cfg)

    return build


def _transformers(values: Mapping[str, Any], path: Path) -> Callable[[], TransformersEncoder]:
    cfg = values["config"]
    image = read_image(values["image"], where=f"{path}.image")
    with torch.device("meta"):
        outline = transformers_model(cfg)
    context, vocabulary = tower_sizes(outline)
    lower = family_of(cfg).lower_gemma
    tokenizer = saved_tokenizer(
        values["tokenizer"], path=path, context=context, vocabulary=vocabulary, lower_gemma=lower
    )
    wrap = wrapper(cfg, outline, image=image, tokenizer=tokenizer, pad=values["pad"])
    return lambda: wrap(transformers_model(cfg))


_LIBRARIES: Mapping[str, Callable[[Mapping[str, Any], Path], Callable[[], WrappedEncoder]]] = {
    "open_clip": _open_clip,
    "transformers": _transformers,
}
