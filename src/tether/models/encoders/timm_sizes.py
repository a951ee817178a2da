"""Networks of timm at other sizes than their names say; timm changes them itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from tether.core.errors import InputError
from tether.models.config_check import mapping, of_kind

RESIZED = "tether_resized"
"""Where a description says the sizes, as ``image_size`` (height, width) and ``patch_size`` (None: timm's own)."""


def takes_sizes(network: nn.Module) -> bool:
    """Whether it has positions or windows that belong to one size; others take images of any."""
    return hasattr(network, "set_input_size")


def patch_of(network: nn.Module) -> int | None:
    """Side of its patches; None for a network without patches of one size, or whose patches are not square."""
    side = getattr(dict(network.named_children()).get("patch_embed"), "patch_size", None)
    pair = (side, side) if isinstance(side, int) else tuple(side or ())
    return pair[0] if takes_sizes(network) and len(pair) == 2 and pair[0] == pair[1] else None


def size_of(network: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that it has positions for, where it says so."""
    size = getattr(dict(network.named_children()).get("patch_embed"), "img_size", None)
    return (size[0], size[1]) if takes_sizes(network) and isinstance(size, tuple) else None


def set_sizes_(network: nn.Module, values: Any) -> None:
    """Bring a network to the sizes of a description.

    Args:
        network: one of timm.
        values: what stands under ``RESIZED``.

    Raises:
        InputError: the network takes no sizes, or others; it names the key.
    """
    checked: Mapping[str, Any] = mapping(values, where=RESIZED)
    size, patch = checked.get("image_size"), checked.get("patch_size")
    if not isinstance(size, list) or len(size) != 2 or not takes_sizes(network):
        raise InputError(f"{RESIZED}: expected height and width of a network with positions, got {values!r:.100}")
    height, width = (of_kind(length, int, where=f"{RESIZED}.image_size") for length in size)
    of_kind(patch, int, type(None), where=f"{RESIZED}.patch_size")
    given = {} if patch is None or patch == patch_of(network) else {"patch_size": (patch, patch)}
    try:
        cast(Any, network).set_input_size(img_size=(height, width), **given)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"{RESIZED}: {type(network).__name__}: {error}") from error
