"""What a run's settings name: checked before anything is read, and the encoder that it starts from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import cast

import torch

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.printable import quoted
from tether.core.protocols import ModelEdit, Step
from tether.models.config_check import mapping
from tether.models.load import load
from tether.models.presets import configure, create
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig
from tether.models.towers.positions import RotaryPositions
from tether.models.towers.sizes import How, read_how, tokenizer_at
from tether.training.batches import check_batches
from tether.training.config import RunConfig
from tether.training.model_changes import MODEL_CHANGES
from tether.training.rollback import check_rollback
from tether.training.schedules import SCHEDULES
from tether.training.stages import Stretch, stretches
from tether.training.steps import STEPS
from tether.training.steps.module import Encoder


def check_parts(config: RunConfig, edits: Mapping[str, type[ModelEdit]], *, where: str) -> Sequence[Stretch]:
    """Refuse settings that no part takes, before a model is made or a row is read; gives the run's stretches.

    Raises:
        InputError: the part, its key, what came and what is known.
    """
    from tether.optim import OPTIMIZERS, with_timm
    from tether.optim.clip import CLIPPERS

    build_edits(config, edits, where=where)
    probe = [torch.nn.Parameter(torch.zeros(1))]
    optimizers = with_timm(OPTIMIZERS, config.optimizer)
    build(config.optimizer, optimizers, where=f"{where}: optimizer", finite=True, params=probe)
    build(config.clipper, CLIPPERS, where=f"{where}: clipper")
    check_rollback(config, where=where)
    plan = stretches(config, where=where)
    for number, stretch in enumerate(plan):
        here = f"{where}: stages, entry {number}" if config.stages else where
        build(stretch.config.schedule, SCHEDULES, where=f"{here}: schedule", finite=True)
        build_step(stretch.config, where=here)
        check_batches(stretch.config, where=here)
        if number:
            _check_sizes(stretch, plan[number - 1].config, where=here)
    return plan


def build_step(config: RunConfig, *, where: str) -> Step:
    """The step that a run's settings name, or spell out as views and terms."""
    from tether.losses import OBJECTIVES

    objective = build(config.objective, OBJECTIVES, where=f"{where}: objective")
    spec = {"name": config.step} if isinstance(config.step, str) else {"name": "composed", **config.step}
    return build(spec, STEPS, where=f"{where}: step", objective=objective, steps=config.steps, seed=config.seed)


def _check_sizes(stretch: Stretch, before: RunConfig, *, where: str) -> None:
    """Refuse other sizes than in the stretch before where the run has parts that cannot follow."""
    config = stretch.config
    if config.model == before.model:
        return
    _, line = read_how(cast("How | None", stretch.how))
    if isinstance(line, RotaryPositions):
        raise InputError(f"{where}: how: rotary makes another text tower; resize the model before the run")
    if config.edits:
        raise InputError(f"{where}: image_size, context: the sizes of an edited model cannot be changed")
    if isinstance(config.step, dict) and config.step.get("teacher") == "start":
        raise InputError(f"{where}: image_size, context: the teacher, start, has other sizes; take one of {{ema: ...}}")
    if not {"load", "image"} & set(config.model):
        model_settings(config)


def new_encoder(config: RunConfig) -> Encoder:
    """The encoder a run starts from: ``load: NAME``, two towers to compose, or a new one of its size.

    The first two may stand beside ``resized``, the arguments of the model's own ``resized``, and the first beside one
    of ``MODEL_CHANGES``.
    """
    given = dict(config.model)
    sizes = given.pop("resized", None)
    if "load" in given:
        changes = {name: given.pop(name) for name in MODEL_CHANGES if name in given}
        if len(changes) > 1:
            raise InputError(f"model: {', '.join(changes)}: expected one of them beside 'load'")
        encoder = _resized(_loaded(given), sizes)
        for name, settings in changes.items():
            encoder = MODEL_CHANGES[name]()(encoder, settings, seed=config.seed)
        return encoder
    if "image" in given:
        from tether.models.compose import from_recipe

        return _resized(from_recipe(given), sizes)
    if sizes is not None:
        raise InputError("model: resized: a new model has its size by 'vision', 'text', 'image_size' and 'context'")
    size, seed, _ = model_settings(config)
    return create(size, seed=seed, **{name: value for name, value in given.items() if name not in ("size", "seed")})


def _loaded(given: Mapping[str, object]) -> Encoder:
    """The encoder that ``load`` names."""
    if others := sorted(given.keys() - {"load"}):
        beside = ", ".join(["'resized'", *(repr(name) for name in MODEL_CHANGES)])
        raise InputError(f"model: 'load' goes alone or with one of {beside}, got also {', '.join(others)}")
    name = given.get("load")
    if not isinstance(name, str):
        raise InputError(f"model: load: expected a name or a folder, got {name!r}")
    return load(name)


def _resized(encoder: Encoder, sizes: object) -> Encoder:
    """The encoder at the sizes of a recipe's ``resized``."""
    if sizes is None:
        return encoder
    known = ("image_size", "patch", "context", "how")
    for key in mapping(sizes, where="model: resized"):
        if key not in known:
            raise InputError(f"model: resized: unknown key {quoted(key)}; {closest(key, known)}")
    try:
        return encoder.resized(**mapping(sizes, where="model: resized"))
    except InputError as error:
        raise InputError(f"model: resized: {error}") from error


def model_settings(config: RunConfig) -> tuple[str, int, ModelConfig]:
    """Size, seed and make of a new model."""
    given = dict(config.model)
    size, seed = given.pop("size", config.size), given.pop("seed", config.seed)
    if not isinstance(size, str) or type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"model: expected the name of a size and a seed of 0 to 2**63 - 1, got {size!r} and {seed!r}")
    if changes := [name for name in MODEL_CHANGES if name in given and not MODEL_CHANGES[name].of_new]:
        raise InputError(f"model: {changes[0]}: changes a model that is there; expected 'load' beside it")
    return size, seed, configure(size, **given)


def build_edits(config: RunConfig, known: Mapping[str, type[ModelEdit]], *, where: str) -> Sequence[ModelEdit]:
    """The edits that a run's settings name.

    Raises:
        InputError: one that is not known here, or with other settings than it has.
    """
    if config.edits and not known:
        raise InputError(f"{where}: edits: none are known here; give train() those it may use, edits=QUANTISERS")
    return [build(spec, known, where=f"{where}: edits, entry {place}") for place, spec in enumerate(config.edits)]


def prune_vocabulary_(encoder: Encoder, texts: Collection[str], *, plan: Sequence[Stretch]) -> None:
    """Train only the token rows that the texts use, in whatever stretch reads most of each."""
    if not isinstance(encoder, Clip):
        raise InputError(f"vocabulary: {type(encoder).__name__} cannot set rows aside; use vocabulary=whole")
    tokenizer = encoder.tokenizer
    if not all(one.keeps(plan[0], "model") for one in plan):
        longest = max(new_encoder(one.config).tokenizer.context_length for one in plan)
        tokenizer = tokenizer_at(tokenizer, longest)
    encoder.prune_vocabulary_(tokenizer(sorted(texts)))
