"""What may stand around an image tower's first layer, kept by save, load and resize: alpha, and mask prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from tether.models.towers.vision.alpha_stem import add_described_ as add_described_alpha_
from tether.models.towers.vision.alpha_stem import carry_alpha_, described_alpha
from tether.models.towers.vision.mask_prompt_stem import add_described_prompts_, carry_prompts_, described_prompts


def described_stems(model: nn.Module) -> dict[str, Any]:
    """What a model's description says of them: nothing where there are none."""
    return described_alpha(model) | described_prompts(model)


def add_described_(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Put them into a model where its description says so.

    Raises:
        InputError: settings that are none.
    """
    add_described_alpha_(model, values)
    add_described_prompts_(model, values)


def carry_stems_(old: nn.Module, new: nn.Module, *, patches: int | None) -> None:
    """Put them into one tower, of so many patches, where another has them; ``alpha`` starts at zeros, prompts too."""
    carry_alpha_(old, new)
    carry_prompts_(old, new, patches=patches)
