"""Patches that a view leaves out are hidden instead: the tower sees a learnt vector in the place of each."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from typing import Any, final

from torch import Tensor, nn

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.types import Batch, Features
from tether.models.towers.clip import Clip
from tether.models.towers.patch_selection import removed_tokens
from tether.models.towers.vision.masked_patches import MaskedPatchEmbed, mask_patches_, unmask_patches_
from tether.models.towers.vision.tower import VisionTower


@final
class MaskedPatches:
    """Views with ``patches`` or ``keep_patches`` see a learnt vector where they would see nothing, as FIX-CLIP's do.

    The tower reads every position, those that are hidden, too, so such a view costs as much as the whole image. Views
    without a choice of patches see all of them. At the end the vector is thrown away: a model hides nothing.

    Source: arXiv 2507.10095, section 3.1.

    Example:
        >>> import tether, torch
        >>> from tether.adaptation.finetune import MaskedPatches
        >>> model, image = tether.load("tiny", random_weights=True), torch.rand(1, 3, 32, 32)
        >>> edit = MaskedPatches()
        >>> _ = edit.apply_(model)
        >>> model.encode_image(image, keep=torch.tensor([[0, 5, 6, 9]]), want="tokens").tokens.shape
        torch.Size([1, 17, 64])
        >>> edit.merge_(model).encode_image(image, keep=torch.tensor([[0, 5, 6, 9]]), want="tokens").tokens.shape
        torch.Size([1, 5, 64])
    """

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Hide what views leave out; whole images are encoded as before.

        Raises:
            InputError: it hides patches already.
            UnsupportedModelError: a model of which no view can choose patches, for it is not of Tether's own towers.
        """
        del calibration
        if not isinstance(model, Clip):
            raise UnsupportedModelError(f"masked_patches: {type(model).__name__} has no image tower of Tether's own")
        mask_patches_(model)
        for name, method in _METHODS.items():  # of this tower alone; a copy of it gets its own
            vars(model.visual)[name] = types.MethodType(method, model.visual)
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """Put the tower's own layer back; whole images are encoded as before.

        Raises:
            InputError: it hides no patches.
        """
        unmask_patches_(model)
        assert isinstance(model, Clip)
        for name in _METHODS:
            vars(model.visual).pop(name)
        return model


def _forward(tower: VisionTower, image: Tensor, *, keep: Tensor | None = None, **given: Any) -> Features:
    """``VisionTower.forward``, but what is not kept is hidden."""
    forward = type(tower).forward
    if keep is None:
        return forward(tower, image, **given)
    assert isinstance(tower.patch, MaskedPatchEmbed)
    with tower.patch.hiding(removed_tokens(keep, tokens=math.prod(tower.config.grid))):
        return forward(tower, image, **given)


def _patches(tower: VisionTower, image: Tensor, *, keep: Tensor | None = None) -> Tensor:
    """``VisionTower.patches`` of whole images; whoever asks for some has gone past ``_forward``."""
    if keep is not None:
        raise InputError("masked_patches: a view that hides patches gives its embedding only; expected want: pooled")
    return type(tower).patches(tower, image)


_METHODS = {"forward": _forward, "patches": _patches}
