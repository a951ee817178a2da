"""Image towers of timm by name, with weights from a file, or fetched by timm where the name ends in its tag."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError, MissingExtraError
from tether.models.build_open_clip import seeded
from tether.models.composed.towers import TimmImages
from tether.models.config import read_image
from tether.models.convert.weights import assemble

PREFIX = "timm:"


def open_timm(name: str, *, random_weights: bool) -> TimmImages:
    """``ARCHITECTURE/FILE.safetensors``, ``ARCHITECTURE.TAG`` (timm fetches it), or an architecture without weights.

    Raises:
        InputError: timm has no such architecture, the file is of another one, or no weights are named.
    """
    architecture, _, file = name.partition("/")
    architecture, _, tag = architecture.partition(".")
    known = known_architecture(architecture)
    if tag:
        return _fetched(f"{architecture}.{tag}", file=file)
    if not file and not random_weights:
        raise InputError(
            f"{PREFIX}{name}: names no weights; expected {PREFIX}{architecture}/FILE.safetensors or "
            f"{PREFIX}{architecture}.TAG, or ask for random weights"
        )
    paths = [local(file), Path("/" + file)]
    weights = next((path for path in paths if path.is_file()), paths[0]) if file else None
    with torch.device("meta"):
        outline = _model(known)
    settings = {"library": "timm", "model": known, "image": _image(outline)}
    own = set(outline.state_dict())

    def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = cast(Any, outline).pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else tuple(heads)
        return {
            key: value
            for key, value in state.items()
            if key in own or not any(key.startswith(f"{head}.") for head in heads)
        }

    tower = build_timm(settings, outline)
    tower.inner = assemble(lambda: _model(known), weights, described=Path(f"timm/{known}"), convert=convert)
    return tower


def build_timm(settings: Mapping[str, Any], inner: nn.Module | None = None) -> TimmImages:
    """The tower that ``settings`` describe, around ``inner`` or a network with weights from a fixed seed."""
    inner = _model(known_architecture(settings["model"])) if inner is None else inner
    width = int(cast(Any, getattr(inner, "head_hidden_size", None) or cast(Any, inner).num_features))
    spec = read_image(settings["image"], where="image.image")
    return TimmImages(inner, width=width, image_spec=spec, settings=settings)


def known_architecture(name: Any) -> str:
    """The name, if timm has such an architecture; the error names the nearest three."""
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", extra="dev") from None
    if not isinstance(name, str) or ":" in name or "/" in name or not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(str(name), timm.list_models(), n=3, cutoff=0.0))
        raise InputError(f"{PREFIX}{name!s:.100}: timm has no such architecture; the nearest: {near}")
    return name


def _model(name: str) -> nn.Module:
    import timm

    with seeded():
        return timm.create_model(name, pretrained=False, num_classes=0)


def _fetched(name: str, *, file: str) -> TimmImages:
    import timm

    if file:
        raise InputError(f"{PREFIX}{name}/{file}: expected a tag or a file of weights, got both")
    tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
    if name not in tags:
        raise InputError(f"{PREFIX}{name}: unknown weights; {closest(name, tags) if tags else 'timm has none for it'}")
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, OSError) as error:
        raise InputError(f"{PREFIX}{name}: {error}") from error
    return build_timm({"library": "timm", "model": name.partition(".")[0], "image": _image(model)}, model)


def _image(model: nn.Module) -> dict[str, Any]:
    """Timm's own preparation; the margin that its tests on ImageNet crop away (``crop_pct``) is kept."""
    from timm.data.config import resolve_model_data_config

    data = resolve_model_data_config(model)
    return {
        "size": list(data["input_size"][1:]),
        "mean": list(data["mean"]),
        "std": list(data["std"]),
        "resize": "squash" if data["crop_mode"] == "squash" else "shortest",
        "interpolation": "bicubic" if data["interpolation"] == "bicubic" else "bilinear",
    }
