"""Images of which most patches are hidden: a learnt vector stands for each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import Count, Decay, checked

_NAMES = ("visual.patch", "visual.conv1", "patch_embed.proj", "patch_embedding", "patch_embeddings.projection")


@checked
def hidden_patches(
    images: Count, *, patches: Count, ratio: Decay = 0.75, generator: torch.Generator | None = None
) -> Bool[Tensor, "b n"]:
    """Which patches are hidden: ``int(ratio * patches)`` of each image, drawn at random.

    Example:
        >>> from tether.models.towers.vision.masked_patches import hidden_patches
        >>> hidden_patches(3, patches=16).sum(dim=1).tolist()
        [12, 12, 12]
    """
    order = torch.rand(images, patches, generator=generator).argsort(dim=1)
    return order.argsort(dim=1) < int(ratio * patches)


class MaskedPatchEmbed(nn.Module):
    """The layer that makes tokens of patches, with a vector in the place of those that are hidden.

    Positions are added after it, so the tower knows where something is hidden (arXiv 2507.10095, section 3.1). Outside
    of ``hiding`` it is the layer.

    Attributes:
        layer: the tower's own.
        vector: (w,) the vector, zeros at first.
    """

    def __init__(self, layer: nn.Module, *, width: int) -> None:
        """Args: layer: (b, n, c) or (b, 3, h, w) to tokens (b, n, w) or (b, w, rows, columns). width: w."""
        super().__init__()
        self.layer = layer
        self.vector = nn.Parameter(layer.get_parameter("weight").new_zeros(width))
        self._hidden: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """That of the layer, whose type towers ask for."""
        return self.layer.get_parameter("weight")

    @contextlib.contextmanager
    def hiding(self, hidden: Bool[Tensor, "b n"]) -> Iterator[None]:
        """Images that are encoded inside have these patches hidden, row by row from the top left."""
        self._hidden = hidden
        try:
            yield
        finally:
            self._hidden = None

    def forward(self, patches: Tensor) -> Tensor:
        """Tokens, as the layer gives them."""
        tokens = self.layer(patches)
        hidden = self._hidden
        if hidden is None:
            return tokens
        grid = tokens.ndim == 4
        rows = tokens.flatten(2).transpose(1, 2) if grid else tokens
        if hidden.dtype != torch.bool or hidden.shape != rows.shape[:2]:
            raise InputError(f"hidden: expected bool {tuple(rows.shape[:2])}, got {hidden.dtype} {tuple(hidden.shape)}")
        rows = torch.where(hidden[..., None], self.vector.to(rows.dtype), rows)
        return rows.transpose(1, 2).unflatten(2, tokens.shape[2:]) if grid else rows


def mask_patches_(model: nn.Module) -> MaskedPatchEmbed:
    """Give an image tower its ``MaskedPatchEmbed``, in place; what it computes stays the same.

    Args:
        model: an encoder of Tether's, open_clip's ViT, timm's or transformers'.

    Raises:
        UnsupportedModelError: no layer that makes tokens of patches, or more than one.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.towers.vision.masked_patches import hidden_patches, mask_patches_, unmask_patches_
        >>> model, image = create("tiny"), torch.rand(2, 3, 32, 32)
        >>> masked = mask_patches_(model)
        >>> with masked.hiding(hidden_patches(2, patches=16)):
        ...     short = model.encode_image(image).pooled
        >>> bool((short == model.encode_image(image).pooled).any())
        False
        >>> unmask_patches_(model)
    """
    name, layer = _patch_layer(model)
    masked = MaskedPatchEmbed(layer, width=len(layer.get_parameter("weight")))
    _put(model, name, masked)
    return masked


def unmask_patches_(model: nn.Module) -> None:
    """Put the tower's own layer back; the vector is lost.

    Raises:
        InputError: it has no ``MaskedPatchEmbed``.
    """
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, MaskedPatchEmbed)]
    if not found:
        raise InputError(f"{type(model).__name__}: hides no patches")
    for name, module in found:
        _put(model, name, module.layer)


def _patch_layer(model: nn.Module) -> tuple[str, nn.Module]:
    found: list[tuple[str, Any]] = []
    for name, module in model.named_modules():
        if isinstance(module, MaskedPatchEmbed):
            raise InputError(f"{type(model).__name__}: hides patches already")
        if not f".{name}".endswith(tuple(f".{end}" for end in _NAMES)):
            continue
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == module.stride):
            found.append((name, module))
    if len(found) != 1:
        raise UnsupportedModelError(
            f"hidden patches: the image tower of {type(model).__name__} is no vision transformer, which has one layer "
            f"that makes patches tokens; found {len(found)}"
        )
    return found[0]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    path, _, last = name.rpartition(".")
    setattr(model.get_submodule(path), last, module)
