"""A module around an image tower's first layer, which answers for the layer."""

from __future__ import annotations

from typing import Any

from torch import nn


class Stem(nn.Module):
    """A module around a layer.

    Attributes:
        layer: the tower's own.
    """

    layer: nn.Module

    def __getattr__(self, name: str) -> Any:
        """What is asked of the layer (``weight``, ``stride``, ...), which towers do."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "layer" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self._modules["layer"], name)
