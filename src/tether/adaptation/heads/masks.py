"""A trained mask head as a head with a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import HeadUse
from tether.adaptation.heads.text_rows import TextRowsHead
from tether.core.ranges import PositiveSingle, checked
from tether.models.heads.mask_models import PREFIX, MaskModel, TrainedMasks, restore_masks


@final
class MasksHead(TextRowsHead):
    """A mask head for ``tether segment --with mta`` or ``maft``.

    Whole images are named by the texts of its classes alone, as without it; it is masks that it finds.

    Source: MTA-CLIP (arXiv 2407.21654) and MAFT+ (2408.00744); the recipes ``mask_text`` and ``mask_aware`` train it.

    Attributes:
        masks: the trained parts.
    """

    kind = "masks"
    verb, recipe = "segment", "mask-text, mask-aware"

    @checked
    def __init__(
        self, masks: MaskModel, *, rows: Float[Tensor, "c d"], classes: Sequence[str], scale: PositiveSingle = 100.0
    ) -> None:
        """Take what was learnt.

        Args:
            masks: trained.
            rows: of the classes, of any length.
            classes: names in order.
            scale: multiplier of cosines.

        Raises:
            InputError: a class twice or one alone, another number of rows, or numbers that are not finite.
        """
        super().__init__(rows, classes=classes, scale=scale)
        self.masks = masks.float().cpu().eval().requires_grad_(False)
        self.check_numbers()

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse(self.masks.method, {"head": TrainedMasks(self.masks, self.classes)})

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {"rows": self.rows.numpy(), **{PREFIX + name: one for name, one in self.masks.arrays().items()}}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {**self.masks.settings(), "scale": self.scale}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> MasksHead:
        """See Head."""
        rows = torch.from_numpy(np.array(arrays["rows"]))
        return cls(restore_masks(settings, arrays), rows=rows, classes=classes, scale=settings["scale"])
