"""The parts that a configuration names; each is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tether.core.registry import Registry

if TYPE_CHECKING:
    from tether.core.protocols import ModelEdit

PRUNERS: Registry[ModelEdit] = Registry(
    "pruners",
    {},
)
"""Every way to leave parts out by the name a recipe uses."""
