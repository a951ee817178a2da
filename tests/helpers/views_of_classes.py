"""Classes, their sentences and random images for tests of heads that look at parts of images."""

from __future__ import annotations

import torch

CLASSES = ["cat", "dog", "sun"]
SAYS = {"cat": ["a small cat", "the cat sits"], "dog": ["the dog in the sun"], "sun": ["sun", "a red sun", "the sun"]}


def image(height: int = 60, width: int = 90, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
