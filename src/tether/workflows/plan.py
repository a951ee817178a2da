"""How to learn from some pairs: chosen by how many there are, with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tether.data.sources.split import held_out_of
from tether.data.survey import Survey
from tether.optim.clip import CLIPPERS
from tether.training.config import split_parts
from tether.training.epochs import MANY_EPOCHS

STARTER = "starter"
FEW, MANY = 20_000, 1_000_000
"""Different images below which the towers of a model that is given stay locked, and from which random weights learn."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """A recipe for some data, and why.

    Attributes:
        recipe: keys of ``training.config.RunConfig``.
        because: why it is so, in sentences.
        change: what one would change, as arguments of ``tether train``.
    """

    recipe: Mapping[str, Any]
    because: list[str]
    change: list[str] = field(default_factory=list)


def plan(survey: Survey, *, data: str | Mapping[str, Any], start: str | None = None, seed: int = 0) -> TrainingPlan:
    """Choose how to learn from a source.

    Few images teach a map between two trained towers, which stay as they are; more can tune a model that is given;
    only millions of pairs teach towers from random weights.

    Args:
        survey: what the source holds.
        data: the source, as ``open_source`` takes it.
        start: a model to begin with; None takes ``starter`` below a million images.
        seed: of the held-out part and of the run.
    """
    count = survey.distinct
    held = held_out_of(count)
    parts = split_parts(data, **({"seed": seed} if seed else {}))
    recipe: dict[str, Any] = {"data": parts["train"], "seed": seed}
    because = [f"{held:,} of {count:,} images are held out, with all their captions, to measure on"]
    change: list[str] = []
    name = start or STARTER
    if count < (FEW if start else MANY):
        recipe |= _locked(name)
        because.append(
            f"{count:,} images are too few to teach a model to see or to read: the towers of {name} stay as they are, "
            "and the maps between them are fitted to these pairs"
        )
        change.append(f"--from MODEL  another model's towers{'' if start else ', such as a CLIP in a folder of yours'}")
    elif start:
        recipe |= _tuned(name)
        because.append(f"{count:,} images can adapt a trained model, and cannot replace it: all of {name} is tuned")
    else:
        recipe |= _scratch()
        because.append(f"{count:,} images can teach a model from random weights")
        change.append("--from MODEL  begin with a trained model")
    if "epochs" in recipe:
        change.append(f"epochs={recipe['epochs']:g}  passes over the data")
    change.append("evaluate.source=FILE  other held-out pairs")
    recipe["evaluate"] = {"source": parts["held_out"], **recipe.pop("evaluate", {})}
    return TrainingPlan(recipe, because, change)


def _locked(name: str) -> dict[str, Any]:
    return {"model": {"load": name}, "fit": "maps"}


def _tuned(name: str) -> dict[str, Any]:
    return {
        "model": {"load": name},
        "optimizer": {"name": "adamw", "lr": 1e-5},
        "schedule": {"name": "cosine", "warmup": 100},
        "epochs": 5,
        "evaluate": {"every": 500, "best": "text_to_image_r10"},
    }


def _scratch() -> dict[str, Any]:
    return {
        "size": "base",
        "optimizer": {"name": "adamw", "lr": 5e-4},
        "schedule": {"name": "cosine", "warmup": 2000},
        "clipper": "zclip" if "zclip" in CLIPPERS else "global_norm",  # a method, which may be taken out
        "epochs": MANY_EPOCHS,
        "evaluate": {"every": 5000, "best": "text_to_image_r10"},
    }
