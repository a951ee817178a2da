"""Our own towers from a configuration, and the weights of a file where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tether.core.protocols import Tokenizer
from tether.models.convert.rules import take
from tether.models.convert.weights import assemble
from tether.models.towers.clip import Clip
from tether.models.towers.config import ModelConfig
from tether.models.towers.vision.stems import add_described_


def native(
    config: ModelConfig,
    weights: Path | None,
    *,
    described: Path,
    tokenizer: Tokenizer | None = None,
    library: ModuleType | None = None,
    values: Mapping[str, Any] | None = None,
) -> Clip:
    """A ``Clip`` with a file's weights, or drawn from a fixed seed; arguments and errors as ``weights.assemble``.

    ``library`` is the module of this package with the names in the file, ``open_clip`` or ``hugging_face``; ``values``
    are what a ``model.json`` says besides the configuration.
    """

    def convert(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if library is None:
            return state
        return take(library.plain_names(state), library.rules(config), where=str(weights))

    def build() -> Clip:
        made = Clip(config, tokenizer=tokenizer)
        add_described_(made, values or {})
        return made

    model = assemble(build, weights, described=described, convert=convert)
    if weights is None:
        model.initialise_(torch.Generator().manual_seed(0))
    return model
