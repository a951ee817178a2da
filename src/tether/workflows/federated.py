"""``tether train --recipe federated``: a head that sites learn together, from the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.adapt.recipes.federated import FederatedHead
from tether.core.component import build
from tether.core.errors import InputError
from tether.train.config import RunConfig, load_config
from tether.workflows.adapt import Adapted, adapt
from tether.workflows.models import Progress

NAME = "federated"
_USED = ("data", "model", "fit", "evaluate", "seed", "size", "workers", "strict")


def is_federated(config: RunConfig) -> bool:
    """Whether the settings are of sites that learn together."""
    return (config.fit if isinstance(config.fit, str | None) else config.fit.get("name")) == NAME


def check_federated(config: RunConfig) -> dict[str, Any]:
    """The recipe of ``tether adapt`` that such settings name, once it takes them.

    Raises:
        InputError: settings that rounds do not have, or no model to begin with.
    """
    spec: dict[str, Any] = {"name": NAME} if isinstance(config.fit, str | None) else dict(config.fit)
    build(spec, {NAME: FederatedHead}, where="settings: fit", finite=True)
    plain = load_config(values={"data": config.data, "size": config.size}).model_dump()
    given = config.model_dump()
    if idle := [key for key in given if key not in _USED and given[key] != plain[key]]:
        raise InputError(
            f"settings: {', '.join(idle)}: sites that learn together take rounds of their own (fit.rounds, "
            f"fit.learning_rate); expected {', '.join(_USED)}"
        )
    if not isinstance(config.model.get("load"), str) or len(config.model) > 1:
        raise InputError(f"settings: model: expected {{load: NAME}}, a trained model, got {dict(config.model)!r:.200}")
    return spec


def federate_head(
    config: RunConfig, *, out: str | Path, device: str = "auto", on_progress: Progress | None = None
) -> Adapted:
    """Learn the head, and measure it on held-out images before and after.

    Args:
        config: its ``model``, ``data``, ``fit``, ``evaluate.source``, ``seed``, ``workers`` and ``strict`` count.
        out: folder for the head, which ``tether classify --head`` takes, and its report.
        device: where images are embedded.
        on_progress: called with images embedded and how many there are.

    Raises:
        InputError: settings, data without classes, or sites with fewer images than a batch.
        MissingExtraError: Opacus is not installed.
    """
    spec = check_federated(config)
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
