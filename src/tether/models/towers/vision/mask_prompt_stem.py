"""The layer that makes tokens of patches, with learnt vectors in the place of blank ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.models.config_check import MAX_LAYERS, MAX_SIZE, size_of
from tether.models.refusals import refusal
from tether.models.towers.vision.stem import Stem

KEY = "mask_prompts"
"""Of a model's description."""
_NAMES = ("patch", "conv1", "patch_embed.proj", "patch_embedding", "patch_embeddings.projection")


class MaskPromptStem(Stem):
    """A tower's own layer, and the vectors of ``methods.ovseg.mask_prompts``; outside of ``hiding`` it is the layer.

    Attributes:
        layer: the tower's own, linear over patches or a convolution whose stride is its kernel.
        prompts: (depth, n, w) for the input and after each of the first depth - 1 blocks; zeros at first.
    """

    def __init__(self, layer: nn.Module, *, depth: int, patches: int) -> None:
        """Args: layer: the tower's own. depth: places with vectors. patches: of an image."""
        super().__init__()
        self.layer = layer
        weight = layer.get_parameter("weight")
        self.prompts = nn.Parameter(weight.new_zeros(depth, patches, len(weight)))
        self._hidden: Tensor | None = None

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        weight = self.layer.get_parameter("weight")
        return int(weight.shape[-1]) if weight.ndim == 4 else math.isqrt(weight.shape[1] // 3)

    @contextlib.contextmanager
    def hiding(self, hidden: Bool[Tensor, "b n"]) -> Iterator[None]:
        """Images that are encoded inside have vectors in the place of these patches."""
        before, self._hidden = self._hidden, hidden
        try:
            yield
        finally:
            self._hidden = before

    def mixed(self, rows: Float[Tensor, "b n w"], hidden: Bool[Tensor, "b n"], *, place: int) -> Float[Tensor, "b n w"]:
        """Patches with the vectors of a place where they are hidden."""
        if hidden.shape != rows.shape[:2] or rows.shape[1] != self.prompts.shape[1]:
            got = f"{tuple(rows.shape[:2])} with a mask of {tuple(hidden.shape)}"
            raise InputError(f"mask prompts: expected images of {self.prompts.shape[1]} patches, got {got}")
        return torch.where(hidden[..., None], self.prompts[place].to(rows.dtype), rows)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, as the layer gives them."""
        tokens = self.layer(x)
        if self._hidden is None:
            return tokens
        if tokens.ndim == 3:
            return self.mixed(tokens, self._hidden, place=0)
        rows = self.mixed(tokens.flatten(2).transpose(1, 2), self._hidden, place=0)
        return rows.transpose(1, 2).unflatten(2, tokens.shape[2:])

    def _load_from_state_dict(self, state_dict: Any, prefix: Any, *args: Any, **keywords: Any) -> None:
        """Read what a tower without prompts has at this place as well; the prompts stay what they are."""
        if f"{prefix}weight" in state_dict:
            for name in ("weight", "bias"):
                if f"{prefix}{name}" in state_dict:
                    state_dict[f"{prefix}layer.{name}"] = state_dict.pop(f"{prefix}{name}")
            state_dict.setdefault(f"{prefix}prompts", self.prompts.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args, **keywords)


def prompts_of(model: nn.Module) -> MaskPromptStem | None:
    """The stem with mask prompts of an image tower, or None."""
    return next((module for module in model.modules() if isinstance(module, MaskPromptStem)), None)


def add_stem_(model: nn.Module, *, depth: int, patches: int) -> MaskPromptStem:
    """Put a stem with vectors of zeros around a tower's own layer, in place; errors as ``patch_layer``."""
    name, layer = patch_layer(model)
    stem = MaskPromptStem(layer, depth=depth, patches=patches)
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, stem)
    return stem


def patch_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """The one layer that makes tokens of patches, with its name.

    Raises:
        UnsupportedModelError: none, or more than one.
    """
    found = [(name, module) for name, module in model.named_modules() if _makes_tokens(name, module)]
    if len(found) != 1 or not found[0][0]:
        raise refusal("first layer", f"{type(model).__name__} with {len(found)} layers that make tokens of patches")
    return found[0]


def _makes_tokens(name: str, module: nn.Module) -> bool:
    if not f".{name}".endswith(tuple(f".{end}" for end in _NAMES)):
        return False
    if isinstance(module, nn.Conv2d):
        return module.in_channels == 3 and module.kernel_size == module.stride
    side = math.isqrt(module.in_features // 3) if isinstance(module, nn.Linear) else 0
    return isinstance(module, nn.Linear) and 3 * side * side == module.in_features


def described_prompts(model: nn.Module) -> dict[str, Any]:
    """What a model's description says of its mask prompts: nothing where it has none."""
    stem = prompts_of(model)
    return {} if stem is None else {KEY: {"depth": len(stem.prompts), "patches": stem.prompts.shape[1]}}


def add_described_prompts_(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Give a model mask prompts where its description says so.

    Raises:
        InputError: settings that are none.
    """
    if (settings := values.get(KEY)) is None or prompts_of(model) is not None:
        return
    most = {"depth": MAX_LAYERS, "patches": MAX_SIZE // MAX_LAYERS}
    if not isinstance(settings, Mapping) or settings.keys() != most.keys():
        raise InputError(f"{KEY}: expected depth and patches, got {settings!r:.100}")
    for name, limit in most.items():
        size_of(settings[name], where=f"{KEY}: {name}", most=limit)
    add_stem_(model, depth=settings["depth"], patches=settings["patches"])


def carry_prompts_(old: nn.Module, new: nn.Module, *, patches: int | None) -> None:
    """Give one tower mask prompts where another has some, of so many patches; None takes as many."""
    if (stem := prompts_of(old)) is not None and prompts_of(new) is None:
        add_stem_(new, depth=len(stem.prompts), patches=patches or stem.prompts.shape[1])
