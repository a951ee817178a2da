"""The shared start of the papers on the modality gap: a small CLIP whose images and texts lie far apart.

A fixed small temperature, small batches, a wide space and few steps leave images and texts in two cones. After long
training with a learnable temperature nothing of it remains, and nothing could be shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.evaluate.geometry import alignment, modality_gap
from tether.models.load import load
from tether.models.presets import create
from tether.models.save import save
from tether.models.towers.clip import Clip
from tether.training import RunConfig, train
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import mean_recall, unit_images, unit_texts
from tether_lab.worlds.pairs import Pairs, load_pairs
from tether_lab.worlds.small_clip import small_clip

DIM, IMAGE_SIZE, CONTEXT, BATCH, STEPS, SCALE = 256, 64, 48, 16, 800, 100.0
DATA = "scenes:size=64,rows=4096"
HELD_OUT = 200
"""Pairs that retrieval chooses among; chance is one in as many."""
CENTRED_BY = 1024
"""Training pairs whose means ``centred`` takes off."""

SETTINGS: Mapping[str, Any] = {
    "model": {
        "size": "tiny",
        "dim": DIM,
        "image_size": IMAGE_SIZE,
        "context": CONTEXT,
        "logit_scale": SCALE,
    },
    "logit_scale": "fixed",
    "batch_size": BATCH,
    "optimizer": {"name": "adamw", "lr": 5e-4},
    "vocabulary": "used",
}
"""Keys of ``RunConfig`` that make the start gappy."""


@dataclass(frozen=True, slots=True)
class Look:
    """A model on held-out pairs.

    Attributes:
        centroid_distance: between the mean unit image and the mean unit text; 0 is no gap, 2 the largest.
        paired_cosine: mean cosine of an image and its own caption.
        recall: at 1, mean of both directions, in [0, 1].
    """

    centroid_distance: float
    paired_cosine: float
    recall: float


def gappy_clip(lab: Lab, *, steps: int = STEPS, settings: Mapping[str, Any] | None = None) -> Clip:
    """The start, in eval mode; trained at the first call of a seed, then read from the user's cache.

    Args:
        lab: seed and budget; every call gives a fresh copy.
        steps: of its training.
        settings: further keys of ``RunConfig``, such as ``{"objective": {...}}``; ``model`` is merged, key by key.
    """
    wanted = {**SETTINGS, **(settings or {})}
    wanted["model"] = {**SETTINGS["model"], **(settings or {}).get("model", {})}
    return cast(Clip, small_clip(lab, steps=steps, data=DATA, settings=wanted))


def untrained(lab: Lab) -> Clip:
    """The weights that ``gappy_clip`` of this seed starts from, in eval mode."""
    settings = dict(SETTINGS["model"])
    return create(settings.pop("size"), seed=lab.seed, **settings).eval()


def tuned(lab: Lab, model: Clip, *, steps: int, settings: Mapping[str, Any], data: str = DATA) -> Clip:
    """A copy of ``model`` after a further stage of training; the scale stays fixed and the model given is not changed.

    Args:
        lab: seed and budget.
        model: where it starts.
        steps: of the stage.
        settings: keys of ``RunConfig``; unsaid ones are those of the start.
        data: what it learns from.
    """
    with tempfile.TemporaryDirectory() as place:
        start, made = Path(place) / "start", Path(place) / "run"
        save(model, start)
        wanted = {
            **SETTINGS,
            "size": "tiny",
            "data": data,
            "steps": lab.steps(steps),
            "seed": lab.seed,
            "precision": "fp32",
            "save_every": 10**9,
            **settings,
            "model": {"load": str(start)},
        }
        if lab.smoke:
            wanted["batch_size"] = 8
        train(RunConfig.model_validate(wanted), folder=made)
        return cast(Clip, load(str(made), device=lab.device))


def held_out(lab: Lab) -> Pairs:
    """Pairs of scenes that no training has seen."""
    return load_pairs(f"scenes:split=test,rows={lab.steps(HELD_OUT, 32)}", size=IMAGE_SIZE)


def unit_embeddings(model: DualEncoder, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Unit embeddings (n, d) of the images and of their first captions, in float32."""
    return unit_images(model, pairs.pixels), unit_texts(model, [texts[0] for texts in pairs.texts])


def look(model: DualEncoder, pairs: Pairs) -> Look:
    """Gap, paired cosine and recall of a model on held-out pairs."""
    return _seen(*unit_embeddings(model, pairs))


def centred(lab: Lab, model: DualEncoder, pairs: Pairs) -> dict[str, float]:
    """Gap and recall once each side's mean is taken off: what closes the gap between the centres without training.

    The means are those of other pairs.
    """
    others = load_pairs(f"scenes:rows={lab.steps(CENTRED_BY, 32)}", size=IMAGE_SIZE)
    sides = zip(unit_embeddings(model, pairs), unit_embeddings(model, others), strict=True)
    found = _seen(*(torch.nn.functional.normalize(rows - seen.mean(dim=0)) for rows, seen in sides))
    return {"gap_centred": found.centroid_distance, "recall_centred": found.recall}


def _seen(image: Tensor, text: Tensor) -> Look:
    return Look(
        centroid_distance=float(modality_gap(image, text)),
        paired_cosine=1 - float(alignment(image, text)) / 2,
        recall=mean_recall(image, text),
    )
