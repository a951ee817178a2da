"""Settings of parts that keep each constructor keyword under its own name."""

from __future__ import annotations

import inspect
from typing import Any


class KeptSettings:
    """A part whose constructor keywords are attributes of the same names."""

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor keywords as plain values."""
        found = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
