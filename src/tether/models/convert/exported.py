"""A model as another library's folder holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tether.core.errors import InputError


@dataclass(frozen=True, slots=True)
class Exported:
    """What is written of a model besides its tokenizer.

    Attributes:
        weights_file: its name.
        state: the weights by the other library's names.
        described: contents of JSON files by name, in the order in which they are written; the last makes it whole.
    """

    weights_file: str
    state: dict[str, Tensor]
    described: Mapping[str, Any]


def refused(reason: str) -> InputError:
    """What to raise where another library cannot hold a model."""
    return InputError(f"export: {reason}; tether.save (--format tether) keeps the model as it is")
