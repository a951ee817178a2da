"""Our own towers from a configuration, and the weights of a file where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from tether.core.protocols import Tokenizer
from tether.models.config import ModelConfig
from tether.models.convert.rules import take
from tether.models.convert.weights import assemble
from tether.models.dual import Clip


def native(
    config: ModelConfig,
    weights: Path | None,
    *,
    described: Path,
    tokenizer: Tokenizer | None = None,
    library: ModuleType | None = None,
) -> Clip:
    """A ``Clip`` with a file's weights, or drawn from a fixed seed; arguments and errors as ``weights.assemble``.

    ``library`` is the module of this package with the names in the file, ``open_clip`` or ``hugging_face``.
    """

    def convert(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if library is None:
            return state
        return take(library.plain_names(state), library.rules(config), where=str(weights))

    model = assemble(lambda: Clip(config, tokenizer=tokenizer), weights, described=described, convert=convert)
    if weights is None:
        model.initialise_(torch.Generator().manual_seed(0))
    return model
