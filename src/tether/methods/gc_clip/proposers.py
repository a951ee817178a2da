"""What finds an object in an image for guided cropping: the encoder's own heat map, an open detector, or a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.runtime_protocol import ByAttributes
from tether.data.images import resize_and_crop
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.find import tower_of
from tether.tasks.classify.views import image_draws

Box = Tensor | Sequence[float]
LEAST, MOST = 0.2, 0.6
"""Of a random box, shares of the image's sides."""


@runtime_checkable
class Proposer(Protocol, metaclass=ByAttributes):
    """Finds a class in an image."""

    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Box | None, float]:
        """The box, x0, y0, x1, y1 in the image's pixels, or None where nothing was found; and how sure it is."""
        ...


class WholeImage:
    """The whole image: crops without guidance."""

    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Box | None, float]:
        """All of it."""
        return None, 0.0


class CenterBox:
    """The middle of the image: half of its width and of its height."""

    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Box | None, float]:
        """That box."""
        height, width = image.shape[1:]
        return torch.tensor([width / 4, height / 4, 3 * width / 4, 3 * height / 4], dtype=torch.float64), 0.0


class RandomBox:
    """Anywhere: each side evenly from 0.2 to 0.6 of the image's, the place evenly."""

    def __init__(self, *, seed: int = 0) -> None:
        """Args: seed: of the draws, which hang on the image and the class besides."""
        self._seed = seed

    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Box | None, float]:
        """A box drawn for this image and class."""
        draws = image_draws(image, seed=self._seed, salt=f"random box {label}")
        sides, place = torch.rand(2, 2, generator=draws, dtype=torch.float64)
        sides = LEAST + (MOST - LEAST) * sides
        size = torch.tensor([image.shape[2], image.shape[1]], dtype=torch.float64)
        start = place * (1 - sides)
        return torch.cat([start * size, (start + sides) * size]), 0.0


class HeatMapBox:
    """The box of the largest connected region where patches speak for a class.

    MaskCLIP's map of patches, the probability of the class among all classes, is enlarged to the model's image; what
    lies above its mean and one standard deviation makes the regions. The whole image is looked at, resized directly.

    Source: MaskCLIP, arXiv 2112.01071; of a network of convolutions it is the last map, as there.
    """

    def __init__(self, model: DualEncoder, *, names: Sequence[str], texts: Float[Tensor, "c d"]) -> None:
        """Take a model and its classes.

        Args:
            model: any model whose image tower shows tokens or a map.
            names: of the classes.
            texts: a row for each.

        Raises:
            UnsupportedModelError: another tower, with the reason.
        """
        self._model, self._number = model, {name: number for number, name in enumerate(names)}
        self._device = model.logit_scale.device
        self._texts = F.normalize(texts.float(), dim=1).to(self._device)
        self._spec = replace(model.image_spec.fixed(), resize="squash", resized=None)
        self._path = DensePath() if tower_of(model).sealed is None else None
        self._last: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def maps(self, image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "c H W"]:
        """Probability of each class at each pixel of the model's image."""
        pixels = resize_and_crop(image, self._spec)[None].to(self._device)
        found = dense_image(self._model, pixels, path=self._path)
        assert found.tokens is not None  # they are what it is for
        scale = self._model.logit_scale.detach().float()
        shares = (scale * F.normalize(found.tokens[0].float(), dim=1) @ self._texts.T).softmax(1)
        patches = shares.T.unflatten(1, tower_of(self._model).grid(pixels))
        return F.interpolate(patches[None], size=self._spec.size, mode="bilinear")[0].cpu()

    def __call__(self, image: UInt8[Tensor, "3 h w"], label: str, /) -> tuple[Box | None, float]:
        """The box of a class, and its mean probability there.

        Raises:
            InputError: none of the classes.
        """
        if label not in self._number:
            raise InputError(f"label: {closest(label, self._number)}, got {label!r}")
        if self._last is None or self._last[0] is not image:
            self._last = image, self.maps(image)
        heat = self._last[1][self._number[label]].double().numpy()
        region = largest_region(heat > heat.mean() + heat.std())
        if region is None:
            return None, 0.0
        rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
        down, across = image.shape[1] / heat.shape[0], image.shape[2] / heat.shape[1]
        box = (columns[0] * across, rows[0] * down, (columns[-1] + 1) * across, (rows[-1] + 1) * down)
        return torch.tensor(box, dtype=torch.float64), float(heat[region].mean())


def largest_region(mask: np.ndarray) -> np.ndarray | None:
    """The largest region of an (h, w) mask whose pixels touch at their sides, the first of equals; None of nothing."""
    from scipy import ndimage

    regions, count = ndimage.label(mask)
    if not count:
        return None
    return regions == 1 + int(np.bincount(regions.ravel())[1:].argmax())


_CONTROLS: Mapping[str, Callable[[int], Proposer]] = {
    "center": lambda seed: CenterBox(),
    "random": lambda seed: RandomBox(seed=seed),
    "whole": lambda seed: WholeImage(),
}


def open_proposer(
    given: Any, *, model: DualEncoder, names: Sequence[str], texts: Float[Tensor, "c d"], seed: int
) -> Proposer:
    """The proposer of a name, of the folder of a detector, or the callable itself.

    Raises:
        InputError: no such name or folder.
    """
    if callable(given):
        return given
    if given == "heat_map":
        return HeatMapBox(model, names=names, texts=texts)
    if given in _CONTROLS:
        return _CONTROLS[given](seed)
    if Path(given).is_dir():
        from tether.methods.gc_clip.detector import OpenDetector

        return OpenDetector.open(given, device=model.logit_scale.device)
    known = ("heat_map", *_CONTROLS)
    raise InputError(f"propose: {str(given)!r} is no folder of a detector; {closest(str(given), known)}")
