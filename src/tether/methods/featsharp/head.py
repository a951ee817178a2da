"""FeatSharp's sharpener as a head of ``tether adapt``: fine maps of the encoder that it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head, HeadUse
from tether.core.errors import InputError
from tether.core.state_file import wide_array
from tether.methods.featsharp import Sharpener

CLASSES: tuple[str, ...] = ("places",)


@final
class SharpenerHead(Head):
    """It names no classes: ``tether segment --sharpen`` compares its fine maps with texts. Its one score is a distance.

    Source: FeatSharp (arXiv 2502.16025); the recipe ``sharpen`` trains it.

    Attributes:
        sharpener: the trained part.
    """

    kind = "sharpener"
    verb, recipe = "sharpen", "sharpen"

    def __init__(self, sharpener: Sharpener) -> None:
        """Take what was learnt.

        Raises:
            InputError: numbers that are not finite.
        """
        super().__init__(CLASSES, least=1)
        self.sharpener = sharpener.float().cpu().eval().requires_grad_(False)
        self.check_numbers()

    @property
    def dim(self) -> int:
        """See Head; channels of the maps."""
        return int(self.sharpener.mean.shape[0])

    @torch.no_grad()
    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        """How far each row is from the mean patch, where every channel of patches has a variance of one."""
        return self.sharpener.alpha * (image - self.sharpener.mean).norm(dim=1, keepdim=True)

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse("sharp", {"sharpener": self.sharpener})

    def names_none(self) -> str:
        """See Head."""
        return "makes maps of patches finer and names none; use tether segment --sharpen"

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {name: wide_array(value) for name, value in self.sharpener.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"sharpener": self.sharpener.settings}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> SharpenerHead:
        """See Head."""
        try:
            given: dict[str, Any] = dict(settings["sharpener"])
            given["grid"] = tuple(given["grid"])
            with torch.device("meta"):  # nothing is allocated for what a file merely says
                made = Sharpener(**given)
            made.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in arrays.items()}, assign=True)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"sharpener: {error!s:.300}") from error
        return cls(made)
