"""What a run's settings name: checked before anything is read, and the encoder that it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from tether.core.component import build, settings
from tether.core.errors import InputError
from tether.core.protocols import ModelEdit, Source
from tether.models.dual import Clip
from tether.models.load import load
from tether.models.presets import create
from tether.models.wrapped_encoders import WrappedEncoder
from tether.train.config import RunConfig
from tether.train.schedules import SCHEDULES
from tether.train.steps import STEPS

Encoder = Clip | WrappedEncoder


def check_parts(config: RunConfig, edits: Mapping[str, type[ModelEdit]], *, where: str) -> None:
    """Refuse settings that no part takes, before a model is made or a row is read.

    Raises:
        InputError: the part, its key, what came and what is known.
    """
    from tether.data.augment import AUGMENTATIONS
    from tether.data.captions import CAPTION_PICKS
    from tether.losses import OBJECTIVES
    from tether.optim import OPTIMIZERS
    from tether.optim.clip import CLIPPERS

    build_edits(config, edits, where=where)
    build(config.objective, OBJECTIVES, where=f"{where}: objective")
    settings(config.step, STEPS, where=f"{where}: step", given=("objective", "steps", "seed"))
    probe = [torch.nn.Parameter(torch.zeros(1))]
    build(config.optimizer, OPTIMIZERS, where=f"{where}: optimizer", finite=True, params=probe)
    build(config.schedule, SCHEDULES, where=f"{where}: schedule", finite=True)
    build(config.clipper, CLIPPERS, where=f"{where}: clipper")
    settings(config.caption, CAPTION_PICKS, where=f"{where}: caption")
    if config.augment:
        settings(config.augment, AUGMENTATIONS, where=f"{where}: augment")


def new_encoder(config: RunConfig) -> Encoder:
    """The encoder a run starts from: ``model: {load: NAME}``, or a new one of the run's size and seed."""
    given = dict(config.model)
    if "load" in given:
        name = given.pop("load")
        if given:
            raise InputError(f"model: 'load' goes alone, got also {', '.join(sorted(given))}")
        if not isinstance(name, str):
            raise InputError(f"model: load: expected a name or a folder, got {name!r}")
        return load(name)
    size, seed = given.pop("size", config.size), given.pop("seed", config.seed)
    if not isinstance(size, str) or type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"model: expected the name of a size and a seed of 0 to 2**63 - 1, got {size!r} and {seed!r}")
    return create(size, seed=seed, **given)


def build_edits(config: RunConfig, known: Mapping[str, type[ModelEdit]], *, where: str) -> Sequence[ModelEdit]:
    """The edits that a run's settings name.

    Raises:
        InputError: one that is not known here, or with other settings than it has.
    """
    if config.edits and not known:
        raise InputError(f"{where}: edits: none are known here; give train() those it may use, edits=QUANTISERS")
    return [build(spec, known, where=f"{where}: edits, entry {place}") for place, spec in enumerate(config.edits)]


def prune_vocabulary_(encoder: Encoder, source: Source) -> None:
    """Train only the token rows that the texts of a source use."""
    if not isinstance(encoder, Clip):
        raise InputError(f"vocabulary: {type(encoder).__name__} cannot set rows aside; use vocabulary=whole")
    texts = {text for block in source.blocks() for row in source.read(block) for text in row.texts}
    encoder.prune_vocabulary_(encoder.tokenizer(sorted(texts)))
