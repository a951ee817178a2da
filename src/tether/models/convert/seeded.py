"""Weights of other libraries from a fixed seed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

SEED = 0


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Other libraries draw weights from the global generator: give them a fixed one and put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield
