"""What each key of a result is called and how its value is written; shared by the command line and the report."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tether.evaluate.html.text import plain

SECTIONS: dict[str, tuple[str, ...]] = {
    "Text to image": ("text_to_image_",),
    "Image to text": ("image_to_text_",),
    "Text to text": ("text_to_text_",),
    "Zero-shot": ("zero_shot_", "classes"),
    "Geometry": ("gap_", "alignment", "uniformity_", "effective_rank_"),
    "CLIPScore": ("clip_score",),
}
"""Section to the prefixes of its keys."""

_WORDS = {
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "zero-shot top-5",
    "zero_shot_mean_per_class": "zero-shot, mean over classes",
    "classes": "classes",
    "gap_distance": "modality gap (distance of the centres)",
    "gap_squared": "modality gap, squared",
    "gap_mean_squared": "modality gap, mean squared",
    "alignment": "alignment (lower is better)",
    "uniformity_image": "uniformity of images (lower is better)",
    "uniformity_text": "uniformity of texts (lower is better)",
    "effective_rank_image": "effective rank of images",
    "effective_rank_text": "effective rank of texts",
    "clip_score": "CLIPScore",
}
_BAG_OF_WORDS = re.compile(r"^text_to_text_bag_of_words_r(\d+)$")
_PERCENT = re.compile(r"(_r\d+|^zero_shot_.*)$")


_BESIDE = ("_low", "_high", "_chance")
"""Endings of the keys that belong to another one."""


def keys_of(result: Mapping[str, object], prefixes: tuple[str, ...]) -> list[str]:
    """The measures of one section, without their bounds and chances."""
    return [key for key in result if key.startswith(prefixes) and not key.endswith(_BESIDE)]


def describe(key: str) -> str:
    """``text_to_image_r10`` becomes ``text to image R@10``; an unknown key stays readable."""
    if key in _WORDS:
        return _WORDS[key]
    if found := _BAG_OF_WORDS.match(key):
        return f"by shared words alone R@{found[1]}"
    words = key.replace("_", " ")
    return re.sub(r" r(\d+)$", r" R@\1", words)


def shown(key: str, value: float) -> str:
    """A value with the digits that mean something: per cent for shares, whole numbers for counts."""
    if _PERCENT.search(key):
        return f"{100 * value:.1f} %"
    if key.endswith("_median_rank") or key in ("classes", "images", "texts"):
        return f"{value:,.0f}"
    return plain(value)


def chance_of(key: str, result: Mapping[str, float]) -> str:
    """What a model that knows nothing reaches, or nothing where that is not known."""
    return shown(key, result[f"{key}_chance"]) if f"{key}_chance" in result else ""


def interval_of(key: str, result: Mapping[str, float]) -> str:
    """``low to high`` when the result holds both, else nothing."""
    if f"{key}_low" not in result or f"{key}_high" not in result:
        return ""
    low, high = (shown(key, result[f"{key}_{side}"]).removesuffix(" %") for side in ("low", "high"))
    return f"{low} to {high}"


def beside(key: str, result: Mapping[str, float]) -> str:
    """``low to high, chance c``, as far as the result holds them."""
    chance = chance_of(key, result)
    return ", ".join(filter(None, (interval_of(key, result), chance and f"chance {chance}")))
