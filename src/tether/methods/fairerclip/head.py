"""Codes of images and class texts that ignore an attribute, compared by cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.heads.head import Head, Multiplier
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.methods.fairerclip.hsic import RandomFeatures
from tether.methods.fairerclip.solver import cosines

if TYPE_CHECKING:
    from tether.methods.fairerclip.debiaser import FairerClip

_ARRAYS = ("weights", "offsets", "image_map", "centre", "codes")


@final
class KernelHead(Head):
    """``scale`` times the cosines of an image's code with each class's: FairerCLIP.

    The code of an embedding x, scaled to length 1, is ``sqrt(2 / r) * cos(weights @ x + offsets) @ image_map``;
    ``centre`` is taken off all codes. Reckoned in float64, so that it names every image as the estimator does. Codes of
    one number, the default for two classes, have cosines of 1 and -1 alone: the confidence then says nothing.

    Source: arXiv 2403.15593; ``FairerClip`` finds what it holds.

    Example:
        >>> import torch
        >>> from tether.methods.fairerclip import KernelHead
        >>> one, none = torch.eye(2), torch.zeros(2)
        >>> head = KernelHead(
        ...     one, offsets=none, image_map=one, centre=none, codes=one.flip(0), classes=["east", "north"], scale=1.0
        ... )
        >>> head.logits(torch.tensor([[2.0, 0.0]])).argmax().item()  # its code is [cos 1, cos 0]
        0
    """

    kind = "kernel"

    @checked
    def __init__(
        self,
        weights: Float[Tensor, "r d"],
        *,
        offsets: Float[Tensor, " r"],
        image_map: Float[Tensor, "r k"],
        centre: Float[Tensor, " k"],
        codes: Float[Tensor, "c k"],
        classes: Sequence[str],
        scale: Multiplier,
    ) -> None:
        """Take what was learnt.

        Args:
            weights: projections of the random features.
            offsets: their phases.
            image_map: from the random features to codes.
            centre: taken off the codes of both sides; zeros for none.
            codes: of the class texts, as the text side's map gives them.
            classes: c names.
            scale: multiplier of the cosines.

        Raises:
            InputError: shapes that do not fit, or numbers that are not finite.
        """
        super().__init__(classes)
        parts = (weights, offsets, image_map, centre, codes)
        self.parts = {name: part.detach().double().cpu().numpy() for name, part in zip(_ARRAYS, parts, strict=True)}
        self.scale = float(scale)
        shapes = [part.shape for part in self.parts.values()]
        features, width = weights.shape if weights.ndim == 2 else (0, 0)
        length, count = image_map.shape[-1] if image_map.ndim else 0, len(self.classes)
        if shapes != [(features, width), (features,), (features, length), (length,), (count, length)] or not features:
            raise InputError(
                f"kernel head: expected (r, d) weights, (r,) offsets, an (r, k) map, a (k,) centre and ({count}, k) "
                f"codes, got {[tuple(shape) for shape in shapes]}"
            )
        self.check_numbers()

    @classmethod
    def of(cls, estimator: FairerClip, *, classes: Sequence[str], scale: float) -> KernelHead:
        """From an estimator that was fitted on rows of length 1 and the numbers 0 to c - 1."""
        features, mean = estimator.kernels_.image, estimator.image_mean_
        centre = mean if estimator.centre == "images" else np.zeros_like(mean)
        codes = estimator.transform_text(estimator.text_features_)
        found = features.weights, features.offsets, estimator.image_map_, centre, codes
        return cls.restore(dict(zip(_ARRAYS, found, strict=True)), classes=classes, settings={"scale": scale})

    @property
    def dim(self) -> int:
        """Length of the embeddings."""
        return self.parts["weights"].shape[1]

    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """See Head; float64."""
        features = RandomFeatures(self.parts["weights"], self.parts["offsets"])
        code = features(F.normalize(image, dim=1).double().numpy()) @ self.parts["image_map"]
        centre = self.parts["centre"]
        return torch.from_numpy(self.scale * cosines(code - centre, self.parts["codes"] - centre))

    def arrays(self) -> dict[str, np.ndarray]:
        """See Head."""
        return dict(self.parts)

    def settings(self) -> dict[str, Any]:
        """See Head."""
        return {"scale": self.scale}

    @classmethod
    def restore(
        cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]
    ) -> KernelHead:
        """See Head."""
        weights, offsets, image_map, centre, codes = (torch.from_numpy(np.array(arrays[name])) for name in _ARRAYS)
        return cls(
            weights,
            offsets=offsets,
            image_map=image_map,
            centre=centre,
            codes=codes,
            classes=classes,
            scale=settings["scale"],
        )
