"""AdaptCLIP: adapters that were trained on defects of other things, with a few good images of this one or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.geometry import check_finite
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, checked
from tether.data.images import resize
from tether.models.adaptclip import Judged, TrainedAdapters
from tether.models.defect_adapters import ComparedPatches
from tether.models.value_attention import ValueFeatures, ValueRows
from tether.tasks.anomaly.detector import ImageFeatures, check_images, unprepared
from tether.tasks.anomaly.harmonic import harmonic_mean

EPS = 1e-12
"""Of the harmonic means."""


@dataclass(frozen=True, slots=True)
class Fused:
    """One answer of several.

    Attributes:
        shares: mean probability that an image is defective, before its map is looked at.
        maps: of defects.
    """

    shares: Float[Tensor, " b"]
    maps: Float[Tensor, "b h w"]


def fuse(texts: Sequence[Judged], compared: ComparedPatches | None = None) -> Fused:
    """Bring together what texts and good images say.

    Without good images a map is the mean of those of texts. With them the mean over blocks of what was learnt of
    differences is one more of these, and the harmonic mean is taken of their mean and of how far patches are from good
    ones, itself the harmonic mean over blocks.

    Source: AdaptCLIP (arXiv 2505.09926), section 3.5, and its released code.
    """
    shares = [one.logits.softmax(dim=1)[:, 1] for one in texts]
    maps = [one.maps[:, 1] for one in texts]
    if compared is None:
        return Fused(torch.stack(shares).mean(dim=0), torch.stack(maps).mean(dim=0))
    shares.append(compared.logits.softmax(dim=2)[..., 1].mean(dim=0))
    maps.append(compared.maps[:, :, 1].mean(dim=0))
    away = harmonic_mean(list(compared.away), eps=EPS)
    found = harmonic_mean([torch.stack(maps).mean(dim=0), away], eps=EPS)
    return Fused(torch.stack(shares).mean(dim=0), found)


def image_scores(texts: Sequence[Judged], compared: ComparedPatches | None, *, maps: Float[Tensor, "b h w"]) -> Tensor:
    """(b,) scores of images.

    Without good images the mean of what each text answer says and of the map's highest value; with them the harmonic
    mean of ``Fused.shares`` and that value.

    Args:
        texts: their answers.
        compared: that of good images, or None.
        maps: of defects, smoothed.
    """
    highest = maps.flatten(1).amax(dim=1)
    if compared is None:
        return torch.stack([*(one.logits.softmax(dim=1)[:, 1] for one in texts), highest]).mean(dim=0)
    return harmonic_mean([fuse(texts, compared).shares, highest], eps=EPS)


class AdaptclipDetector:
    """Defects by adapters that learnt, once, from other things' defects: nothing is trained on what is looked at.

    An image is brought to the model's size, as a whole. Texts say how normal it and its patches are; with good images
    of the same thing in the same view each patch is compared besides with the nearest of theirs, wherever that is.

    Source: arXiv 2505.09926 and its released code. ``tether adapt --recipe anomaly-adapters`` trains the adapters; they
    hold no good images. Values above 1, which the harmonic mean has where cosines are below 0, are cut.

    Attributes:
        trained: the adapters, and how they read the model.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.adaptclip import AdaptClip, TrainedAdapters
        >>> from tether.tasks.anomaly.adaptclip import AdaptclipDetector
        >>> model = create("tiny").eval()
        >>> trained = TrainedAdapters(AdaptClip(torch.randn(2, model.dim), layers=2), layers=(0, 1))
        >>> detector = AdaptclipDetector(head=trained).prepare(model, "tile")
        >>> good = torch.zeros(3, 40, 40, dtype=torch.uint8)
        >>> first = detector.predict([good + 200])[0]
        >>> then = detector.remember(detector.look([good])).predict([good + 200])[0]
        >>> first.size, first.score != then.score
        ((40, 40), True)
    """

    needs_good: ClassVar[bool] = False
    recipe: ClassVar[str] = "anomaly-adapters"

    @checked
    def __init__(
        self, *, head: TrainedAdapters | None = None, sigma: NonNegative = 4 / 14, batch_size: Count = 16
    ) -> None:
        """Choose the adapters.

        Args:
            head: the trained adapters.
            sigma: of the Gaussian that smooths maps, in patches; the paper's is 4 pixels of patches of 14. 0 leaves it
                out.
            batch_size: images in one forward.
        """
        self.trained, self.sigma, self.batch_size = head, sigma, batch_size
        self.name = ""
        self._reader: ValueRows | None = None
        self._good: Float[Tensor, "layers k n d"] | None = None

    def prepare(self, model: DualEncoder, name: str) -> AdaptclipDetector:
        """See ``Detector``; the name is only told.

        Raises:
            InputError: no adapters, or some for another model.
            UnsupportedModelError: an image tower that is no plain vision transformer.
        """
        if self.trained is None:
            raise InputError(f"adaptclip: needs trained adapters, from tether adapt --recipe {self.recipe}; got none")
        check_finite(model)
        self._reader = self.trained.reader(model)
        self.name, self._good = name.strip(), None
        return self

    @torch.no_grad()
    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are the whole image, and its patches block by block."""
        reader = self._prepared()
        check_images(images)
        spec, found = reader.image_spec, list[ImageFeatures]()
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            pixels = torch.stack([resize(one, *spec.size, spec.interpolation) for one in some])
            rows = reader.encode_image(pixels.to(reader.logit_scale.device)).pooled.float().cpu()
            if not rows.isfinite().all():
                raise InputError("images: their embeddings are not finite; the model's weights are damaged")
            seen = reader.features(rows)
            for number, image in enumerate(some):
                tables = (seen.image[number : number + 1], *seen.patches[:, number])
                found.append(ImageFeatures((image.shape[1], image.shape[2]), reader.grid, tables))
        return found

    def remember(self, good: Sequence[ImageFeatures]) -> AdaptclipDetector:
        """See ``Detector``; with no image texts alone judge.

        Raises:
            InputError: an image that was looked at with another grid.
        """
        grid = self._prepared().grid
        for number, look in enumerate(good):
            if look.grid != grid:
                raise InputError(f"good image {number}: expected patches on a grid of {grid}, got {look.grid}")
        self._good = torch.stack([torch.stack(look.rows[1:]) for look in good], dim=1) if good else None
        return self

    @torch.no_grad()
    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """See ``Detector``.

        Raises:
            InputError: an image that was looked at with another grid.
        """
        reader, trained = self._prepared(), self.trained
        assert trained is not None  # prepare asked
        if look.grid != reader.grid:
            raise InputError(f"look: expected patches on a grid of {reader.grid}, got {look.grid}")
        size, seen = reader.image_spec.size, ValueFeatures(look.rows[0], torch.stack(look.rows[1:])[:, None])
        texts, compared = trained.adapters.by_texts(seen, grid=look.grid, size=size), None
        if self._good is not None:
            compared = trained.adapters.by_good(seen, self._good[:, None], grid=look.grid, size=size)
        maps = smoothed(fuse(texts, compared).maps, sigma=self.sigma * size[0] / look.grid[0])
        score = image_scores(texts, compared, maps=maps)
        return AnomalyMap(float(score.clamp(0, 1)), maps[0].float().clamp(0, 1).numpy(), look.size, self.name)

    def predict(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[AnomalyMap]:
        """See ``Detector``."""
        return [self.judge(look) for look in self.look(images)]

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        trained = self.trained
        assert trained is not None  # prepare asked
        return {
            "method": type(self).__name__,
            "name": self.name,
            "sigma": self.sigma,
            "adapters": model_digest(trained.adapters),
            **trained.settings(),
            **trained.adapters.settings,
        }

    def _prepared(self) -> ValueRows:
        if self._reader is None:
            raise unprepared(self)
        return self._reader


def smoothed(maps: Float[Tensor, "b h w"], *, sigma: float) -> Float[Tensor, "b h w"]:
    """Maps under a Gaussian of ``sigma`` pixels, mirrored at the borders, as ``scipy.ndimage.gaussian_filter`` does."""
    from scipy import ndimage

    if not sigma:
        return maps
    return torch.from_numpy(ndimage.gaussian_filter(maps.numpy(), sigma, axes=(1, 2))).to(maps)
