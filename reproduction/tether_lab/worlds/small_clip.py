"""Tiny CLIPs on emoji and on scenes, trained once for each seed and set of settings and kept in the user's cache."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from tether.data import open_source
from tether.models.load import load
from tether.models.towers.clip import Clip
from tether.training import RunConfig, train
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model

SMALL_CLIP_DATA = "emoji:holdout=sequence,size=32"
SMALL_CLIP_STEPS = 300


def small_clip(
    lab: Lab,
    *,
    seed: int | None = None,
    steps: int = SMALL_CLIP_STEPS,
    data: str = SMALL_CLIP_DATA,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A tiny CLIP trained on emoji, in eval mode; trained at the first call, then read from the user's cache.

    Every call gives a fresh copy, so a reproduction may change the one it gets. A smoke run trains two steps.

    Args:
        lab: seed and budget.
        seed: of its training; default: the lab's.
        steps: of its training.
        data: what it learns from.
        settings: further keys of ``tether.training.RunConfig``, such as ``{"objective": "siglip"}``.
    """
    smoke = {"batch_size": 8, "schedule": "cosine"} if lab.smoke else {}
    wanted = {
        "size": "tiny",
        "data": data,
        "steps": lab.steps(steps),
        "seed": lab.seed if seed is None else seed,
        "precision": "fp32",
        "save_every": 10**9,  # a run of a minute is quicker done again than saved
        **smoke,
        **(settings or {}),
    }
    return load(_trained(wanted), device=lab.device)


def _trained(wanted: Mapping[str, Any]) -> Path:
    """The folder of a run with these settings and this source; trains it when the cache has none."""
    config = RunConfig.model_validate(wanted)

    def make(folder: Path) -> None:
        train(config, folder=folder)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    facts = [open_source(config.data, where="lab").version, config.model_dump(mode="json")]
    return cached_model("small-clip", made_by=Path(__file__), facts=facts, make=make)


SIDE, PATCH, LAYERS = 64, 16, 2
MOST_THINGS, STEPS, BATCH = 3, 800, 64

SETTINGS: Mapping[str, Any] = {
    "model": {
        "size": "tiny",
        "image_size": SIDE,
        "patch": PATCH,
        "context": 32,
        "vision": {"layers": LAYERS},
    },
    "batch_size": BATCH,
    "optimizer": {"name": "adamw", "lr": 1e-3},
    "vocabulary": "used",
}
"""Keys of ``RunConfig``."""


def several_clip(lab: Lab, *, order: Literal["size", "random"], ordered: float = 1.0) -> Clip:
    """The model, in eval mode; trained at the first call of a seed, then read from the user's cache.

    Args:
        lab: seed and budget.
        order: in which captions name the things.
        ordered: how often they keep it.
    """
    said = f"order={order},ordered={ordered:g}"
    data = f"scenes:size={SIDE},rows=8192,things=[1,{MOST_THINGS}],templates=plain,{said}"
    return cast(Clip, small_clip(lab, data=data, steps=STEPS, settings=SETTINGS))
