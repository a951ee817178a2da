"""transformers' image processors as an ``ImageSpec``, both ways; plain values of a folder, no code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tether.core.atomic_io import read_json
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.models.config_check import MAX_SIDE, mapping
from tether.models.convert.exported import refused

PREPROCESS_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
_CLIP_COLOURS = {"image_mean": ImageSpec((1, 1)).mean, "image_std": ImageSpec((1, 1)).std}
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_SQUASH = {"do_center_crop": False, "default_to_square": True}
_CROP = {"do_center_crop": True, "default_to_square": False}
_BILINEAR, _BICUBIC = 2, 3
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "CLIP": {**_CROP, **_CLIP_COLOURS, "resample": _BICUBIC, "size": 224, "crop_size": 224},
    "ChineseCLIP": {**_CROP, **_CLIP_COLOURS, "resample": _BICUBIC, "size": 224, "crop_size": 224},
    "Siglip": {**_SQUASH, **_HALF, "resample": _BICUBIC, "size": 224},
    "Siglip2": {**_SQUASH, **_HALF, "resample": _BILINEAR, "patch_size": 16, "max_num_patches": 256},
    "EfficientNet": {**_SQUASH, **_HALF, "resample": _BICUBIC, "size": 346, "crop_size": 289, "include_top": True},
    "ViT": {**_SQUASH, **_HALF, "resample": _BILINEAR, "size": 224},
    "DeiT": {**_SQUASH, **_HALF, "do_center_crop": True, "resample": _BICUBIC, "size": 256, "crop_size": 224},
    "Bit": {**_CROP, **_CLIP_COLOURS, "resample": _BICUBIC, "size": 224, "crop_size": 224},
    "Beit": {**_SQUASH, **_HALF, "resample": _BICUBIC, "size": 224, "crop_size": 224},
}
"""Defaults of the processors that are known here, which their files need not repeat."""
_INTERPOLATIONS: Mapping[int, Literal["nearest", "bilinear", "bicubic"]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}


def read_processor(folder: Path) -> Mapping[str, Any] | None:
    """What a folder says of its image processor, in either of the two files that transformers has written; or None."""
    for name in (PREPROCESS_FILE, PROCESSOR_FILE):
        if (folder / name).is_file():
            values = mapping(read_json(folder / name), where=str(folder / name))
            if name == PREPROCESS_FILE:
                return values
            if "image_processor" in values:
                return mapping(values["image_processor"], where=f"{folder / name}: image_processor")
    return None


def image_spec(
    side: int | None, preprocess: Mapping[str, Any] | None, *, kind: str = "CLIP", any_size: bool = False
) -> ImageSpec:
    """How a processor prepares images.

    Args:
        side: of the images that the tower takes, which counts where the processor's sizes are another model's; None
            where only the processor says it.
        preprocess: the processor's values; its defaults at the tower's size if None.
        kind: of processor, where the values do not name theirs.
        any_size: the tower takes any, so the processor's counts.

    Raises:
        InputError: a processor, or a setting of one, that is not known here.
    """
    given = {key: value for key, value in (preprocess or {}).items() if value is not None}
    named = str(given.get("image_processor_type", given.get("feature_extractor_type", kind)))
    for end in ("Pil", "Fast", "ImageProcessor", "FeatureExtractor"):
        named = named.removesuffix(end)
    if named not in _KINDS:
        raise InputError(f"image_processor_type: {named!r:.100} is not known here; known: {', '.join(_KINDS)}")
    values = {**_KINDS[named], **({} if preprocess is not None or side is None else _sized(side)), **given}
    spec = _colours(ImageSpec((1, 1), interpolation=_interpolation(values["resample"])), values)
    if "max_num_patches" in values:
        patch, most = _length(values["patch_size"]), _length(values["max_num_patches"])
        square = math.isqrt(most) * patch
        return replace(spec, size=(square, square), resize="patches", patches=(patch, most))
    spec = _sizes(spec, values)
    if side is None or any_size or spec.size == (side, side):
        return spec
    return replace(spec, size=(side, side), resized=None if spec.resized is None else (side, side))


def _sized(side: int) -> dict[str, Any]:
    return {"size": side, "crop_size": side}


def _interpolation(number: Any) -> Literal["nearest", "bilinear", "bicubic"]:
    if number not in _INTERPOLATIONS:
        raise InputError(f"resample: expected one of {list(_INTERPOLATIONS)} (Pillow's numbers), got {number!r:.100}")
    return _INTERPOLATIONS[number]


def _sizes(spec: ImageSpec, values: Mapping[str, Any]) -> ImageSpec:
    """With the rule and the sizes of the resize and the crop."""
    if values.get("do_resize") is False:
        raise InputError("do_resize: images must be resized to the model's size, got false")
    size, square = values["size"], values["default_to_square"]
    if not isinstance(size, Mapping):
        size = {"height": size, "width": size} if square else {"shortest_edge": size}
    crop = _sides(values["crop_size"]) if values["do_center_crop"] else None
    if "height" in size and "width" in size:
        to = _sides(size)
        return replace(spec, resize="squash", size=crop or to, resized=None if crop in (None, to) else to)
    if "shortest_edge" not in size or "longest_edge" in size or crop is None:
        raise InputError(f"size: expected height and width, or shortest_edge with do_center_crop, got {size!r:.100}")
    edge = _length(size["shortest_edge"])
    return replace(spec, resize="shortest", size=crop, resized=(edge, edge))


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return _length(size.get("height")), _length(size.get("width"))
    return _length(size), _length(size)


def _length(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MAX_SIDE:
        raise InputError(f"size: expected a whole number from 1 to {MAX_SIDE}, got {value!r:.100}")
    return value


def _colours(spec: ImageSpec, values: Mapping[str, Any]) -> ImageSpec:
    """With what is subtracted and divided by, on the [0, 1] scale, of all that a processor does to a pixel x.

    It is x * factor - offset, then minus the mean over the deviation, then with ``include_top`` once more over it.
    """
    factor = 255 * float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 255.0
    offset = 1.0 if values.get("rescale_offset") and values.get("do_rescale", True) else 0.0
    plain = not values.get("do_normalize", True)
    mean, std = ((0.0,) * 3, (1.0,) * 3) if plain else (_three(values["image_mean"]), _three(values["image_std"]))
    again = _three(values["image_std"]) if values.get("include_top") else (1.0,) * 3
    red, green, blue = ((offset + value) / factor for value in mean)
    scales = tuple(first * second / factor for first, second in zip(std, again, strict=True))
    return replace(spec, mean=(red, green, blue), std=(scales[0], scales[1], scales[2]))


def _three(values: Any) -> tuple[float, float, float]:
    first, second, third = values
    return float(first), float(second), float(third)


def preprocess_config(image: ImageSpec, *, kind: str) -> dict[str, Any]:
    """The contents of a ``preprocessor_config.json`` of a kind of processor.

    Raises:
        InputError: no such processor does this to an image.
    """
    numbers = {name: number for number, name in _INTERPOLATIONS.items()}
    values: dict[str, Any] = {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_resize": True,
        "resample": numbers[image.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(image.mean),
        "image_std": list(image.std),
        "do_convert_rgb": True,
    }
    if image.patches is not None:
        return values | dict(zip(("patch_size", "max_num_patches"), image.patches, strict=True))
    if image.resize == "longest" or (kind in ("Siglip", "ViT") and (image.resize != "squash" or image.resized)):
        raise refused(f"{kind}ImageProcessor does not resize by {image.resize!r} to {image.resized or image.size}")
    to = image.resized or image.size
    values["size"] = {"height": to[0], "width": to[1]}
    values["do_center_crop"] = image.resize != "squash" or image.resized is not None
    if image.resize == "shortest":
        values["size"] = {"shortest_edge": to[0]}
    if values["do_center_crop"]:
        values["crop_size"] = {"height": image.size[0], "width": image.size[1]}
    return values | ({"include_top": False, "rescale_offset": False} if kind == "EfficientNet" else {})
