"""What heads of pixels share: whole images are named by texts alone, as without the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head
from tether.core.errors import InputError


class TextRowsHead(Head):
    """Names whole images by cosines with rows of texts.

    Attributes:
        rows: (c, d) rows of the classes.
        scale: multiplier of cosines.
    """

    def __init__(self, rows: Float[Tensor, "c d"], *, classes: Sequence[str], scale: float) -> None:
        """Take names and rows.

        Raises:
            InputError: a class twice or one alone, or another number of rows.
        """
        super().__init__(classes)
        if rows.ndim != 2 or len(rows) != len(self.classes):
            raise InputError(f"{self.kind} head: expected ({len(self.classes)}, d) rows, got {tuple(rows.shape)}")
        self.rows, self.scale = rows.detach().float().cpu(), scale

    @property
    def dim(self) -> int:
        """See Head."""
        return self.rows.shape[1]

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """See Head."""
        return self.scale * F.normalize(image, dim=1) @ F.normalize(self.rows, dim=1).T
