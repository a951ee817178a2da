"""Image towers of timm by name, with weights from a file, or fetched by timm where the name ends in its tag."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError
from tether.models.composed.towers import ImageSide
from tether.models.convert.seeded import seeded
from tether.models.convert.weights import assemble
from tether.models.encoders.timm_sizes import RESIZED, patch_of, set_sizes_, size_of, takes_sizes
from tether.models.towers.config import read_image
from tether.models.towers.sizes import Sizes

PREFIX = "timm:"


class TimmImages(ImageSide):
    """A timm network without its classifier: what the classifier would read."""

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """Pooled features."""
        return self.inner(image)

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for convolutional networks."""
        return patch_of(self.inner)

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that it has positions for."""
        return size_of(self.inner) or self.image_spec.size

    def at_sizes(self, sizes: Sizes) -> TimmImages:
        """See ``TowerSide``."""
        size = list(sizes.image.size)
        settings = {**self.settings, "image": self.described_image(sizes)}
        if takes_sizes(self.inner) and (sizes.image.size != self.image_spec.size or sizes.patch):
            settings[RESIZED] = {"image_size": size, "patch_size": sizes.patch or self.patch_side}
        return build_timm(settings)


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
    if inner is None:
        inner = _model(known_architecture(settings["model"]))
        if RESIZED in settings:
            set_sizes_(inner, settings[RESIZED])
    width = int(cast(Any, getattr(inner, "head_hidden_size", None) or cast(Any, inner).num_features))
    spec = read_image(settings["image"], where="image.image")
    return TimmImages(inner, width=width, image_spec=spec, settings=settings)


def known_architecture(name: Any) -> str:
    """The name, if timm has such an architecture; the error names the nearest three."""
    import timm

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
