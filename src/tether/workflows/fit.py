"""A run without steps: the maps of a model whose towers rest are fitted to its pairs in closed form."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tether.adaptation.finetune.map_fit import MapFit
from tether.adaptation.finetune.registry import FITS
from tether.core.atomic_io import write_json
from tether.core.component import build
from tether.core.errors import InputError
from tether.data import open_source
from tether.models.compose import compose
from tether.models.composed.encoder import ComposedEncoder
from tether.models.load import load
from tether.models.save import save
from tether.training.claim import claimed
from tether.training.config import RunConfig
from tether.training.environment import describe_environment
from tether.training.metrics_log import Logbook
from tether.training.result import Result, read_result
from tether.training.run_files import BAD_ROWS, ENVIRONMENT, METRICS, SUMMARY
from tether.training.tower_features import TowerFeatures, tower_features
from tether.workflows.head_run import USED, idle_settings
from tether.workflows.models import with_total

RECALL = re.compile(r"text_to_image_r\d+")


def fit(
    config: RunConfig,
    *,
    folder: Path,
    resume: bool = False,
    evaluate: Callable[[ComposedEncoder], dict[str, float]] | None = None,
    device: str = "auto",
    on_record: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Result:
    """Fit one model into ``folder``, which gets what a run of ``training.train`` leaves, without checkpoints.

    Args:
        config: its ``model``, ``data``, ``fit``, ``evaluate``, ``workers`` and ``strict`` count.
        folder: of the run.
        resume: a finished run is left as it is and its result given; features that were computed are not again.
        evaluate: measures the finished model.
        device: where the towers compute.
        on_record: gets the record of the evaluation.
        on_progress: called with images seen and, where the source knows, images in all.

    Raises:
        InputError: the folder holds another run, a setting that a fit does not use, no trained model, or too few pairs.
    """
    part = check_fit(config)
    with claimed(folder, config, resume=resume):
        if (folder / SUMMARY).exists():
            return read_result(folder)
        start = time.perf_counter()
        model = composed(config.model, device=device)
        source = open_source(config.data, where="settings: data")
        rows = tower_features(
            model,
            source,
            bad_rows=folder / BAD_ROWS,
            workers=config.workers,
            strict=config.strict,
            on_progress=with_total(on_progress, source),
        )
        if len(rows.keys) < 4 * part.folds:
            raise InputError(
                f"{len(rows.keys)} images to learn from: at least {4 * part.folds} are needed to fit maps (fit.folds); "
                f"with fewer, use {config.model['load']} as it is: tether search PHOTOS --model {config.model['load']}"
            )
        made = part.fit(model, rows.image, rows.text, owners=rows.owner).model.eval()
        seconds = time.perf_counter() - start
        save(made, folder)
        write_json(folder / ENVIRONMENT, describe_environment() | {"processes": 1})
        metrics = {}
        if evaluate is not None:
            metrics = evaluate(made)
            before = evaluate(model.eval())
            metrics |= {f"before_{key}": before[key] for key in before if RECALL.fullmatch(key)}
        record = {"step": 0, "eval": metrics, "seconds": seconds}
        log = Logbook(folder / METRICS, steps_done=0)
        log.write(record)
        log.close()
        if on_record is not None:
            on_record(record)
        result = Result(0, 0, seconds, len(rows.keys) / max(seconds, 1e-9), _loss(made, rows), metrics)
        summary = asdict(result)
        write_json(folder / SUMMARY, summary.pop("metrics") | summary)
        return result


def check_fit(config: RunConfig) -> MapFit:
    """The part that fits, once the settings are those of a fit.

    Raises:
        InputError: an unknown part, or settings that only steps have.
    """
    assert config.fit is not None
    part: MapFit = build(config.fit, FITS, where="settings: fit", finite=True)
    if idle := idle_settings(config):
        raise InputError(f"settings: {idle}: a fit takes no steps; expected {', '.join(USED)}, or fit=null for steps")
    return part


def composed(model: Mapping[str, Any], *, device: str) -> ComposedEncoder:
    """The encoder whose maps are fitted: a composed one as it is, or both towers of another with its own space kept.

    Raises:
        InputError: a model of random weights, or settings that make none.
    """
    name = model.get("load")
    if not isinstance(name, str) or len(model) > 1:
        raise InputError(f"settings: fit: expected model: {{load: NAME}}, a trained model, got {dict(model)!r:.200}")
    found = load(name, device=device)
    if isinstance(found, ComposedEncoder):
        return found
    made = compose(image=name, text=name, join="none", dim=found.dim)
    return made.to(found.logit_scale.device).eval()


@torch.no_grad()
def _loss(model: ComposedEncoder, rows: TowerFeatures) -> float:
    """InfoNCE of the captions over all images that were learnt from."""
    parts, device = model.parts, model.logit_scale.device
    image, text = parts.image_map(rows.image.to(device)), parts.text_map(rows.text.to(device))
    owner = rows.owner.to(device)
    total = 0.0
    for some in torch.arange(len(text)).split(1024):
        logits = model.logit_scale * F.normalize(text[some], dim=1) @ F.normalize(image, dim=1).T
        total += float(F.cross_entropy(logits, owner[some], reduction="sum"))
    return total / len(text)
