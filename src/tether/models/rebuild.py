"""A composed encoder back from its ``model.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.composed.dual_tower import DualImages, build_dual
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.timm_tower import build_timm
from tether.models.composed.towers import ImageSide, TextSide, TowerSide
from tether.models.composed.transformers_tower import (
    build_transformers_images,
    build_transformers_texts,
    vocabulary_of,
)
from tether.models.config_check import blamed_on, mapping, of_kind
from tether.models.convert.saved_files import VERSION
from tether.models.convert.seeded import seeded
from tether.models.convert.tokenizer_files import Kind, read_kind, saved_tokenizer
from tether.models.convert.weights import assemble
from tether.models.encoders.tower_parts import Side
from tether.models.heads.grounded import GroundedImages, build_decoder
from tether.models.heads.prompted import PromptedImages, build_prompter
from tether.models.heads.read_tower import ReadTower
from tether.models.towers.vision.stems import add_described_

_READ = {"grounded": (GroundedImages, build_decoder), "prompted": (PromptedImages, build_prompter)}
_IMAGES_ALONE = ("timm", *_READ)
_TOWERS = ("transformers", "dual", *_IMAGES_ALONE)


def rebuild(values: Mapping[str, Any], weights: Path | None, *, path: Path) -> ComposedEncoder:
    """The encoder that ``values`` describe, with the weights of a file, or without one from a fixed seed.

    Args:
        values: the contents of ``model.json``.
        weights: the file.
        path: where ``values`` were read; the tokenizer's files lie beside it.
    """
    if values.get("version") != VERSION:
        raise InputError(f"{path}: version {values.get('version')!r}; this tether reads version {VERSION}")
    kind = read_kind(values.get("tokenizer"), path=path)
    parts = {
        key: mapping(values.get(key), where=f"{path}: {key}") for key in ("image", "text", "image_map", "text_map")
    }

    def build() -> ComposedEncoder:
        eyes = cast(ImageSide, _build(parts["image"], "image", path=path, tokenizer=kind))
        words = cast(TextSide, _build(parts["text"], "text", path=path, tokenizer=kind))
        with seeded():
            made = ComposedEncoder(eyes, words, image_map=parts["image_map"], text_map=parts["text_map"])
            add_described_(made, values)
            return made

    model = assemble(build, weights, described=path, check=_check)
    with blamed_on(path):
        for side, tower in (("image", model.parts.image), ("text", model.parts.text)):
            tower.lock_("locked" if side in cast(Sequence[str], values.get("locked", ())) else "tuned")
    return model


def _check(encoder: ComposedEncoder) -> None:
    """Refuse maps that do not fit their towers."""
    parts = encoder.parts
    for side, tower, given in (("image", parts.image, "image_map"), ("text", parts.text, "text_map")):
        if encoder.config[given]["width"] != tower.width:
            raise InputError(f"{given}: width {encoder.config[given]['width']}, the {side} tower has {tower.width}")
    if isinstance(parts.image, ReadTower):
        parts.image.check()
    if parts.image.reader or isinstance(parts.image.unchanged, DualImages):
        return  # the width is the whole encoder's, and not every library's runs without numbers
    with torch.no_grad(), torch.device("meta"):
        rows = parts.image.eval()(torch.empty(1, 3, *encoder.image_spec.size))
        if tuple(parts.image_map(rows).shape) != (1, encoder.dim):
            raise InputError(f"image_map: gives {tuple(parts.image_map(rows).shape)}, expected (1, {encoder.dim})")


def _build(settings: Mapping[str, Any], side: Side, *, path: Path, tokenizer: Kind) -> TowerSide:
    library = settings.get("library")
    if library not in _TOWERS or (library in _IMAGES_ALONE and side == "text"):
        raise InputError(f"{side}: library: unknown {library!r}; {closest(str(library), _TOWERS)}")
    if library == "timm":
        return build_timm(settings)
    if library in _READ:
        inside = mapping(settings.get("tower"), where=f"{side}: tower")
        if inside.get("library") in _READ:
            raise InputError(f"{side}: tower: expected one without a decoder of regions or a prompter")
        tower = cast(ImageSide, _build(inside, side, path=path, tokenizer=tokenizer))
        kind, build = _READ[library]
        return kind(tower, build(settings.get(kind.part)))
    if library == "dual":
        return build_dual(settings, side, path=path, tokenizer=tokenizer)
    if side == "image":
        return build_transformers_images(settings)
    of_kind(settings["context"], int, where="context")
    words = saved_tokenizer(tokenizer, path=path, context=settings["context"], vocabulary=vocabulary_of(settings))
    return build_transformers_texts(settings, words)
