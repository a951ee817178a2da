"""Uses of what earlier versions of Tether saved: each opens files by public names and gives numbers.

``tests/data/before_methods/make.py`` runs them with the version that made the files, ``tests/e2e/test_older_files.py``
with today's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tether
from memory_rows import squares, without_words
from tether.adaptation.debias import DEBIASERS
from tether.adaptation.heads import load_head
from tether.space import ESTIMATORS
from tether.training import load_config, train
from tether.workflows.protect import restored

COMMIT, STEPS, TIME = "65575318", 4, 1_000_000_000
CLASSES, TEXTS = "red,green", ["a red square", "a small blue square on a wall"]


def dated(folder: Path) -> None:
    """Give the files of a folder one time of change, of which a run's version of its data is made."""
    for path in folder.iterdir():
        os.utime(path, (TIME, TIME))


def vectors(length: int = 16) -> np.ndarray:
    """Rows that a head or an estimator takes."""
    return np.random.RandomState(0).standard_normal((6, length)).astype(np.float32)


def encoded(place: Path, name: str) -> Mapping[str, Any]:
    """Embeddings of a model."""
    model = tether.load(place / name)
    images = [row.image for row in squares(4, size=16, seed=7).rows]
    return {"image": model.embed(images), "text": model.embed(TEXTS)}


def made_whole(place: Path, name: str) -> Mapping[str, Any]:
    """Embeddings of a protected model as it is, and once its key has restored it."""
    restored(place / name, place / "key", out=place / "restored")
    whole = {f"whole {key}": value for key, value in encoded(place, "restored").items()}
    return {**encoded(place, name), **whole}


def named(place: Path, name: str) -> Mapping[str, Any]:
    """Logits of a head, and its confidence in the best class."""
    found = tether.classify(squares(4, size=16), model=place / "model", head=place / name)
    head = load_head(place / name, model=tether.load(place / "model"))
    logits = head.logits(torch.from_numpy(vectors(head.dim)))
    return {"confidence": [one.confidence for one in found.labels], "logits": logits}


def masks(place: Path, name: str, *, option: str = "head") -> Mapping[str, Any]:
    """Scores of pixels with a head."""
    found = tether.segment(squares(2, size=16), CLASSES, model=place / "model", **{option: place / name})
    return {"scores": np.stack([one.scores for one in found.masks.values()])}


def defects(place: Path, name: str) -> Mapping[str, Any]:
    """Scores of images, and how unusual each place of them is."""
    found = tether.detect(squares(3, size=16), model=place / "model", head=place / name)
    return {"scores": found.scores, "maps": np.stack([one.values for one in found.maps.values()])}


def quality(place: Path, name: str) -> Mapping[str, Any]:
    """Scores of photos by a model and its head, and that of vectors."""
    found = tether.quality(without_words(squares(3, size=16)), model=place / name, head=place / name)
    head = load_head(place / name, model=tether.load(place / name))
    return {"scores": found.scores, "logits": head.logits(torch.from_numpy(vectors(head.dim)))}


def captioned(place: Path, name: str) -> Mapping[str, Any]:
    """Cosines of captions that are written."""
    found = tether.caption(squares(2, size=16), model=place / "model", captioner=place / name, longest=4)
    return {"scores": [one.score for one in found.captions]}


def searched(place: Path, name: str) -> Mapping[str, Any]:
    """Cosines of what is found."""
    found = tether.search(place / name, TEXTS, model=place / "model", top=6)
    return {"scores": [sorted(hit.score for hit in found[text]) for text in TEXTS]}


def transformed(place: Path, name: str) -> Mapping[str, Any]:
    """What fitted estimators make of vectors."""
    debiaser = DEBIASERS["fairer_clip"].load(place / name / "fairer_clip.safetensors")
    estimators = {
        kind: ESTIMATORS[kind].load(place / name / f"{kind}.safetensors")
        for kind in ("concept_direction", "linear_mmcl", "outlier_clipper")
    }
    made = {kind: one.transform(vectors()) for kind, one in estimators.items()}
    return made | {"fairer_clip": debiaser.decision_function(vectors())}


def resumed(place: Path, name: str) -> Mapping[str, Any]:
    """Embeddings of a run's model, once it has gone on to its end."""
    here = Path.cwd()
    os.chdir(place)  # its configuration names what lies beside it
    try:
        done = train(load_config(place / name / "config.yaml"), folder=place / name, resume=True)
    finally:
        os.chdir(here)
    assert done.steps == STEPS
    return encoded(place, name)


USES: Mapping[str, Callable[[Path, str], Mapping[str, Any]]] = {
    "model": encoded,
    "lora_model": encoded,
    "region_model": encoded,
    "experts_model": encoded,
    "compressed_model": encoded,
    "protected_model": made_whole,
    "linear_head": named,
    "kernel_head": named,
    "relation_head": masks,
    "grouping_head": masks,
    "sharpener_head": partial(masks, option="sharpen"),
    "anomaly_head": defects,
    "quality_model": quality,
    "captioner": captioned,
    "store": searched,
    "estimators": transformed,
    "run_of_losses": resumed,
    "run_of_heads": resumed,
}
"""What is kept, by the name of its folder, and how it is used."""
