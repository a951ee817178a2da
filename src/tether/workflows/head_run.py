"""A run whose ``fit`` names a recipe of ``tether adapt``: it learns a head and trains no model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.adaptation.finetune.registry import FITS
from tether.adaptation.recipes.registry import RECIPES
from tether.core.component import build
from tether.core.errors import InputError
from tether.training.config import RunConfig, load_config
from tether.workflows.models import Progress

if TYPE_CHECKING:
    from tether.workflows.adapt import Adapted

USED = ("data", "model", "fit", "evaluate", "seed", "size", "workers", "strict")


def gives_head(config: RunConfig) -> bool:
    """Whether the settings are those of a head; nothing is imported to tell."""
    name = config.fit if isinstance(config.fit, str | None) else config.fit.get("name")
    return name in RECIPES and name not in FITS  # maps are both: as a fit they make a model


def check_head_run(config: RunConfig) -> dict[str, Any]:
    """The recipe of ``tether adapt`` that such settings name, once it takes them.

    Raises:
        InputError: settings that only training steps have, a recipe that gives a model, or no model to begin with.
    """
    assert config.fit is not None
    spec: dict[str, Any] = {"name": config.fit} if isinstance(config.fit, str) else dict(config.fit)
    made = build(spec, RECIPES, where="settings: fit", finite=True)
    if made.gives != "head":
        raise InputError(f"settings: fit: {spec['name']} gives a {made.gives}; use tether adapt --recipe")
    if idle := idle_settings(config):
        raise InputError(
            f"settings: {idle}: a head is learnt with the settings of its recipe (fit.*); expected {', '.join(USED)}"
        )
    if not isinstance(config.model.get("load"), str) or len(config.model) > 1:
        raise InputError(f"settings: model: expected {{load: NAME}}, a trained model, got {dict(config.model)!r:.200}")
    return spec


def idle_settings(config: RunConfig) -> str:
    """Names of the settings that only training steps use, where they are given."""
    plain = load_config(values={"data": config.data, "size": config.size}).model_dump()
    given = config.model_dump()
    return ", ".join(key for key in given if key not in USED and given[key] != plain[key])


def learn_head(
    config: RunConfig, *, out: str | Path, device: str = "auto", on_progress: Progress | None = None
) -> Adapted:
    """Learn the head, and measure it on held-out images before and after.

    Args:
        config: its ``model``, ``data``, ``fit``, ``evaluate.source``, ``seed``, ``workers`` and ``strict`` count.
        out: folder for the head, which ``tether classify --head`` takes, and its report.
        device: where images are embedded.
        on_progress: called with images embedded and how many there are.

    Raises:
        InputError: settings, or data that the recipe refuses.
        MissingExtraError: what the recipe needs is not installed.
    """
    from tether.workflows.adapt import adapt

    spec = check_head_run(config)
    return adapt(
        config.model["load"],
        config.data,
        recipe=spec,
        test=None if config.evaluate is None else config.evaluate.source,
        seed=config.seed,
        out=out,
        workers=config.workers,
        strict=config.strict,
        device=device,
        on_progress=on_progress,
    )
