"""What a run's settings name: checked before anything is read, and the encoder that it starts from."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence

import torch

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.protocols import ModelEdit, Step
from tether.models.config import ModelConfig
from tether.models.described import mapping
from tether.models.dual import Clip
from tether.models.load import load
from tether.models.presets import configure, create
from tether.models.upcycle import upcycle
from tether.train.batches import check_batches
from tether.train.config import RunConfig
from tether.train.schedules import SCHEDULES
from tether.train.stages import Stretch, stretches
from tether.train.steps import STEPS
from tether.train.steps.module import Encoder


def check_parts(config: RunConfig, edits: Mapping[str, type[ModelEdit]], *, where: str) -> Sequence[Stretch]:
    """Refuse settings that no part takes, before a model is made or a row is read; gives the run's stretches.

    Raises:
        InputError: the part, its key, what came and what is known.
    """
    from tether.optim import OPTIMIZERS
    from tether.optim.clip import CLIPPERS

    build_edits(config, edits, where=where)
    probe = [torch.nn.Parameter(torch.zeros(1))]
    build(config.optimizer, OPTIMIZERS, where=f"{where}: optimizer", finite=True, params=probe)
    build(config.schedule, SCHEDULES, where=f"{where}: schedule", finite=True)
    build(config.clipper, CLIPPERS, where=f"{where}: clipper")
    plan = stretches(config, where=where)
    for number, stretch in enumerate(plan):
        here = f"{where}: stages, entry {number}" if config.stages else where
        build_step(stretch.config, where=here)
        check_batches(stretch.config, where=here)
        if number:
            _check_sizes(stretch.config, plan[0].config, where=here)
    return plan


def build_step(config: RunConfig, *, where: str) -> Step:
    """The step that a run's settings name, or spell out as views and terms."""
    from tether.losses import OBJECTIVES

    objective = build(config.objective, OBJECTIVES, where=f"{where}: objective")
    spec = {"name": config.step} if isinstance(config.step, str) else {"name": "composed", **config.step}
    return build(spec, STEPS, where=f"{where}: step", objective=objective, steps=config.steps, seed=config.seed)


def _check_sizes(config: RunConfig, first: RunConfig, *, where: str) -> None:
    """Refuse another size of images or texts than the run began with, where a model has a table of places."""
    if config.model == first.model:
        return
    (_, _, mine), (_, _, theirs) = model_settings(config), model_settings(first)
    if mine.vision.grid != theirs.vision.grid:
        raise InputError(
            f"{where}: image_size: expected {theirs.vision.image.size} as before, got {mine.vision.image.size}: the "
            "image tower has a vector for each place, and these cannot be resized yet"
        )
    if mine.text.position == "learned" and mine.text.context != theirs.text.context:
        raise InputError(
            f"{where}: context: expected {theirs.text.context} as before, got {mine.text.context}: the text tower has "
            "a vector for each place; use model: {text: {position: none}} and blocks that turn (rope)"
        )


def new_encoder(config: RunConfig) -> Encoder:
    """The encoder a run starts from: ``load: NAME``, two towers to compose, or a new one of its size.

    The first two may stand beside ``resized``, the arguments of the model's own ``resized``, and the first beside
    ``upcycle``, those of ``models.upcycle``.
    """
    given = dict(config.model)
    sizes = given.pop("resized", None)
    if "upcycle" in given:
        return _upcycled(_resized(_loaded(given), sizes), given["upcycle"])
    if "load" in given:
        return _resized(_loaded(given), sizes)
    if "image" in given:
        from tether.models.composed.compose import from_recipe

        return _resized(from_recipe(given), sizes)
    if sizes is not None:
        raise InputError("model: resized: a new model has its size by 'vision', 'text', 'image_size' and 'context'")
    size, seed, _ = model_settings(config)
    return create(size, seed=seed, **{name: value for name, value in given.items() if name not in ("size", "seed")})


def _loaded(given: Mapping[str, object]) -> Encoder:
    """The encoder that ``load`` names."""
    if others := sorted(given.keys() - {"load", "upcycle"}):
        raise InputError(f"model: 'load' goes alone or with 'resized' and 'upcycle', got also {', '.join(others)}")
    name = given.get("load")
    if not isinstance(name, str):
        raise InputError(f"model: load: expected a name or a folder, got {name!r}")
    return load(name)


def _upcycled(encoder: Encoder, settings: object) -> Encoder:
    """The encoder with experts, by the settings of a recipe's ``upcycle``."""
    values = mapping(settings, where="model: upcycle")
    known = [name for name in inspect.signature(upcycle).parameters if name != "model"]
    for key in values:
        if key not in known:
            raise InputError(f"model: upcycle: unknown key {key!r}; {closest(key, known)}")
    try:
        return upcycle(encoder, **values)
    except InputError as error:
        raise InputError(f"model: upcycle: {error}") from error


def _resized(encoder: Encoder, sizes: object) -> Encoder:
    """The encoder at the sizes of a recipe's ``resized``."""
    if sizes is None:
        return encoder
    known = ("image_size", "patch", "context", "how")
    for key in mapping(sizes, where="model: resized"):
        if key not in known:
            raise InputError(f"model: resized: unknown key {key!r}; {closest(key, known)}")
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
    return size, seed, configure(size, **given)


def build_edits(config: RunConfig, known: Mapping[str, type[ModelEdit]], *, where: str) -> Sequence[ModelEdit]:
    """The edits that a run's settings name.

    Raises:
        InputError: one that is not known here, or with other settings than it has.
    """
    if config.edits and not known:
        raise InputError(f"{where}: edits: none are known here; give train() those it may use, edits=QUANTISERS")
    return [build(spec, known, where=f"{where}: edits, entry {place}") for place, spec in enumerate(config.edits)]


def prune_vocabulary_(encoder: Encoder, texts: Collection[str]) -> None:
    """Train only the token rows that the texts use."""
    if not isinstance(encoder, Clip):
        raise InputError(f"vocabulary: {type(encoder).__name__} cannot set rows aside; use vocabulary=whole")
    encoder.prune_vocabulary_(encoder.tokenizer(sorted(texts)))
