"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.compression.prune.registry import PRUNERS
from tether.compression.quantise.registry import QUANTISERS
from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import ModelEdit

COMPRESSORS: Registry[ModelEdit] = Registry("compressors", {}, including=(QUANTISERS, PRUNERS))
"""Every edit that makes a model cheaper, by the name that ``tether compress --edit`` and recipes use."""

REPAIRS: Registry[ModelEdit] = Registry(
    "repairs",
    {},
)
"""What mends a model after such an edit and looks at data for it; for ``tether compress`` and Python."""
