"""ExCEL's adapter as a head of ``tether adapt``: how patches relate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import HeadUse
from tether.adaptation.heads.text_rows import TextRowsHead
from tether.core.errors import InputError
from tether.core.ranges import Count, PositiveSingle, checked
from tether.methods.excel_wsss.class_maps import BLOCKS
from tether.methods.excel_wsss.patch_relation import ExcelAdapter

PREFIX = "adapter."


@final
class RelationHead(TextRowsHead):
    """An adapter for ``tether segment --with excel --head``, for any class names.

    Whole images are named by the texts of its classes alone, as without it; it is where classes are that it helps to
    tell.

    Source: ExCEL (arXiv 2503.20826); the recipe ``relation`` trains it.

    Attributes:
        inner: the adapter.
        blocks: that are changed, see ``methods.excel_wsss.class_maps.self_correlation_features``.
    """

    kind = "relation"
    verb, recipe = "segment", "relation"

    @checked
    def __init__(
        self,
        inner: ExcelAdapter,
        *,
        rows: Float[Tensor, "c d"],
        classes: Sequence[str],
        scale: PositiveSingle = 100.0,
        blocks: Count = BLOCKS,
    ) -> None:
        """Take what was learnt.

        Args:
            inner: trained.
            rows: of the classes, of any length.
            classes: names in order.
            scale: multiplier of cosines.
            blocks: that were changed in training.

        Raises:
            InputError: a class twice or one alone, another number of rows, or numbers that are not finite.
        """
        super().__init__(rows, classes=classes, scale=scale)
        self.inner = inner.float().cpu().eval().requires_grad_(False)
        self.blocks = blocks
        self.check_numbers()

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse("excel", {"head": self.inner}, {"blocks": self.blocks})

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        own = {PREFIX + name: value.numpy() for name, value in self.inner.state_dict().items()}
        return {"rows": self.rows.numpy(), **own}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"inner": self.inner.settings, "scale": self.scale, "blocks": self.blocks}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> RelationHead:
        """See Head."""
        own = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
        try:
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                inner = ExcelAdapter(**settings["inner"])
            inner.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in own.items()}, assign=True)
        except RuntimeError as error:
            raise InputError(f"relation head: {error!s:.300}") from error
        rows = torch.from_numpy(np.array(arrays["rows"]))
        return cls(inner, rows=rows, classes=classes, scale=settings["scale"], blocks=settings["blocks"])
