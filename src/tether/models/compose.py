"""Encoders made of two towers: from names and folders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.ranges import Count, checked
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.maps import MAPS
from tether.models.composed.timm_tower import PREFIX, open_timm
from tether.models.composed.towers import ImageSide, TextSide, TowerSide, Training
from tether.models.composed.transformers_tower import (
    kind_of,
    open_transformers_images,
    open_transformers_texts,
)
from tether.models.convert.seeded import seeded
from tether.models.encoders.tower_parts import Side

TowerSpec = str | Path | Mapping[str, Any]
_TOWER_KEYS = ("name", "output", "train", "random_weights")


@checked
def compose(
    *, image: TowerSpec, text: TowerSpec, join: str | Mapping[str, str] = "linear", dim: Count | None = None
) -> ComposedEncoder:
    """An encoder of an image tower and a text tower that never met; its maps are untrained.

    A tower is named by

    - ``timm:NAME/FILE.safetensors`` or ``timm:NAME.TAG``: a network of timm (images), the second fetched by timm;
    - a folder of transformers with a vision or a text model, or of sentence-transformers, read with its own pooling;
    - anything that ``tether.load`` reads, of which one side is taken.

    or by a mapping with its ``name`` and ``train``: ``locked`` (the default: no gradients, eval mode) or ``tuned``;
    ``output``: what is read from a model of transformers (``pooler``, ``cls``, ``mean``; of texts ``mean``, ``cls``,
    ``max``, ``lasttoken``); ``random_weights``: ask for a tower without weights.

    Args:
        image: the image tower.
        text: the text tower.
        join: the map of both sides, ``linear``, ``mlp``, ``embedder`` (``EmbedderAdapter``) or ``none``, or
            ``{image: ..., text: ...}``.
        dim: of the joint space; the text tower's width if None.

    Raises:
        InputError: no such tower, one of the other side, without the asked output, or with weights of another.
        MissingExtraError: a tower's library is not installed.
    """
    eyes, words = cast(ImageSide, open_tower(image, "image")), cast(TextSide, open_tower(text, "text"))
    joined = {"image": join, "text": join} if isinstance(join, str) else dict(join)
    if set(joined) != {"image", "text"} or not all(kind in MAPS for kind in joined.values()):
        raise InputError(f"join: expected one of none, linear, mlp, embedder for image and text, got {join!r}")
    size = words.width if dim is None else dim
    maps = {
        side: {"kind": joined[side], "width": tower.width, "dim": size}
        for side, tower in (("image", eyes), ("text", words))
    }
    with seeded():
        return ComposedEncoder(eyes, words, image_map=maps["image"], text_map=maps["text"])


def from_recipe(values: Mapping[str, Any]) -> ComposedEncoder:
    """``compose`` with the keys of a recipe's ``model``."""
    known = inspect.signature(compose).parameters
    for key in values:
        if key not in known:
            raise InputError(f"model: unknown key {quoted(key)} beside 'image'; {closest(key, known)}")
    if "text" not in values:
        raise InputError("model: 'image' names a tower; expected 'text' beside it")
    return compose(**values)


def open_tower(spec: TowerSpec, side: Side) -> TowerSide:
    """The tower of one side that ``compose`` would take for this; its arguments and errors are those of ``compose``."""
    values = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    for key in values:
        if key not in _TOWER_KEYS:
            raise InputError(f"{side}: unknown key {quoted(key)}; {closest(key[:80], _TOWER_KEYS)}")
    name, train = str(values.get("name", "")), values.get("train", "locked")
    if train not in ("locked", "tuned"):
        raise InputError(f"{side}: train: expected locked or tuned, got {train!r}")
    try:
        tower = _open(name, side, output=values.get("output"), random_weights=values.get("random_weights", False))
    except InputError as error:
        raise InputError(f"{side}: {error}") from error
    tower.lock_(cast(Training, train))
    return tower


def _open(name: str, side: Side, *, output: str | None, random_weights: bool) -> TowerSide:
    if name.startswith(PREFIX):
        if side == "text":
            raise InputError(f"{name}: an image tower; expected a text tower")
        if output is not None:
            raise InputError(f"{name}: output: a network of timm gives its pooled features alone, got {output!r}")
        return open_timm(name.removeprefix(PREFIX), random_weights=random_weights)
    folder = local(name)
    kind, found = kind_of(folder) if folder.is_dir() else (None, None)
    if found is not None and found != side:
        raise InputError(f"{name}: {kind!r} is {_A[found]} tower; expected {_A[side]} tower")
    if found is not None:
        opened = open_transformers_images if side == "image" else open_transformers_texts
        return opened(folder, output=output, random_weights=random_weights)
    if output is not None:
        raise InputError(f"{name}: output: the encoder gives its embedding alone, got {output!r}")
    from tether.models.load import load

    return dual_tower(load(name, random_weights=random_weights), side)


_A = {"image": "an image", "text": "a text"}
