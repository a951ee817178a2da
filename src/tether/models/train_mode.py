"""Modules that are in another mode for a while, and as they were afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model and its parts are in eval mode inside, and in the modes they were in afterwards."""
    training = [part for part in model.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextlib.contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """No parameter of the model asks for a gradient inside; afterwards those do that did, whatever was set inside."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter, value in asked:
            parameter.requires_grad_(value)
