"""Heads of a step: trainable modules that its terms may call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from tether.core.component import build
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder
from tether.core.registry import Registry
from tether.models.features.find import anatomy_of, tower_of
from tether.models.towers.positions import Pair

TRAINED_HEADS: Registry[nn.Module] = Registry(
    "trained_heads",
    {
        "grounding": "tether.models.heads.grounded:GroundingHead",
        "dense": "tether.models.heads.dense_heads:DenseHead",
        "prompter": "tether.models.heads.prompted:PrompterHead",
    },
)
"""Trainable modules that terms may call, by name."""


class KeptHead(Protocol):
    """A head that becomes part of the model that is saved, where its setting ``saved`` is ``kept``."""

    def check_kept(self, model: DualEncoder) -> None:
        """Refuse a model that cannot keep it, before training begins."""
        ...

    def kept_in(self, model: DualEncoder) -> DualEncoder:
        """The trained model with it."""
        ...


def new_head(spec: str | Mapping[str, Any], *, name: str, model: DualEncoder, seed: int) -> nn.Module:
    """A new head; what its constructor asks of the model, such as the width of the image tower, is handed to it.

    Args:
        spec: name in ``TRAINED_HEADS``, or a mapping with ``name`` and settings.
        name: the step's name for it, on which its first weights depend.
        model: the encoder beside it.
        seed: of the run.

    Raises:
        InputError: no such head, or a setting that it does not have.
    """
    about: dict[str, Callable[[], Any]] = {
        "dim": lambda: model.dim,
        "state": lambda: tower_of(model).width,
        "patch": lambda: patch_size(model),
        "features": lambda: tower_of(model, "image").width,
        "vocabulary": lambda: model.tokenizer.vocab_size,
        "context": lambda: model.tokenizer.context_length,
    }
    generator = torch.Generator().manual_seed(hash_int(name, seed=seed, salt="head") >> 1)
    part = TRAINED_HEADS.get(spec if isinstance(spec, str) else str(spec.get("name")))
    taken = {} if part is None else inspect.signature(part.__init__).parameters
    given = {key: size() for key, size in about.items() if key in taken}
    return build(spec, TRAINED_HEADS, where=f"step: heads: {name}", **given, generator=generator)


def patch_size(model: DualEncoder) -> Pair:
    """Height and width of the model's patches in pixels."""
    height, width = model.image_spec.size
    with torch.no_grad():
        rows, columns = anatomy_of(model, "image").grid(torch.zeros(1, 3, height, width, dtype=torch.uint8))
    return height // rows, width // columns
