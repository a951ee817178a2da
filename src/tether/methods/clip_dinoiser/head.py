"""CLIP-DINOiser's head as a head of ``tether adapt``: which patches belong together, and which to a thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head, HeadUse
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Layer, checked
from tether.methods.clip_dinoiser.patch_affinity import Cosine
from tether.models.features.patch_grouping import THIRD_FROM_THE_END, DinoiserHead
from tether.models.features.token_rows import TokenRows

CLASSES: tuple[str, ...] = ("things",)


@final
class GroupingHead(Head):
    """It names no classes: ``tether segment --head`` brings patches together with it. Its one score is a share.

    Source: arXiv 2312.12359; the recipe ``grouping`` trains it.
    """

    kind = "grouping"
    verb, recipe = "segment", "grouping"

    @checked
    def __init__(
        self, inner: DinoiserHead, *, grid: tuple[int, int], layer: Layer = THIRD_FROM_THE_END, gamma: Cosine = 0.2
    ) -> None:
        """Take what was learnt.

        Args:
            inner: trained.
            grid: rows and columns of patches of an image of the model's size.
            layer: block whose patches it reads, see ``models.features.patch_grouping.inner_and_tokens``.
            gamma: cosine below which patches do not belong together.

        Raises:
            InputError: numbers that are not finite.
        """
        super().__init__(CLASSES, least=1)
        if not all(torch.isfinite(value).all() for value in inner.state_dict().values()):
            raise InputError("grouping head: expected finite numbers, got NaN or infinity")
        self.inner = inner.float().cpu().eval().requires_grad_(False)
        self.grid, self.layer, self.gamma = grid, layer, gamma

    @property
    def dim(self) -> int:
        """Length of the rows of inner patches."""
        return self.grid[0] * self.grid[1] * self.inner.features

    def reader(self, model: DualEncoder) -> DualEncoder:
        """See Head."""
        return TokenRows(model, inner=self.layer)

    @torch.no_grad()
    def scores(self, image: Float[Tensor, "n w"]) -> Float[Tensor, "n 1"]:
        """Share of each image that things cover, 0 to 1."""
        rows = image.unflatten(1, (*self.grid, self.inner.features)).movedim(3, 1)
        return (self.inner.things(rows) > 0).float().flatten(1).mean(dim=1, keepdim=True)

    def use(self) -> HeadUse:
        """See Head."""
        return HeadUse("dinoiser", {"head": self.inner}, {"gamma": self.gamma}, {"layer": self.layer})

    def names_none(self) -> str:
        """See Head."""
        return "says which patches belong together and names none; use tether segment --head"

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return {name: value.numpy() for name, value in self.inner.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        """See Head."""
        made = {"features": self.inner.features, "dim": self.inner.dim, "kernel": self.inner.kernel}
        return {"inner": made, "grid": self.grid, "layer": self.layer, "gamma": self.gamma}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> GroupingHead:
        """See Head."""
        said = settings["inner"]
        shape = (said["dim"], said["features"], said["kernel"], said["kernel"])
        if arrays["obj_proj.weight"].shape != shape:  # before memory is set aside for what a file merely says
            raise InputError(f"inner: expected the shape of its arrays, {arrays['obj_proj.weight'].shape}, got {shape}")
        try:
            inner = DinoiserHead(**said)
            inner.load_state_dict({name: torch.from_numpy(np.array(one)) for name, one in arrays.items()})
            rows, columns = (int(side) for side in settings["grid"])
        except (RuntimeError, ValueError, OverflowError) as error:
            raise InputError(f"grouping head: {error!s:.300}") from error
        return cls(inner, grid=(rows, columns), layer=settings["layer"], gamma=settings["gamma"])
