"""AdaptCLIP: adapters that were trained on defects of other things, with a few good images of this one or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.geometry import check_finite
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, checked
from tether.methods.adaptclip.adapters import Judged, TrainedAdapters
from tether.models.features.value_attention import ValueFeatures, ValueRows
from tether.models.heads.defect_adapters import ComparedPatches
from tether.tasks.anomaly.detector import Detector, ImageFeatures, unprepared
from tether.tasks.anomaly.harmonic import harmonic_mean
from tether.tasks.anomaly.memory import memory_of
from tether.tasks.anomaly.registry import DETECTORS
from tether.tasks.anomaly.value_looks import BLUR, blurred, check_cosine, value_looks

EPS = 1e-12
"""Of the harmonic means."""


def fused_maps(texts: Sequence[Judged], compared: ComparedPatches | None = None) -> Float[Tensor, "b h w"]:
    """Bring together where texts and good images see defects.

    Without good images a map is the mean of those of texts. With them the mean over blocks of what was learnt of
    differences is one more of these, and the harmonic mean is taken of their mean and of how far patches are from good
    ones, itself the harmonic mean over blocks.

    Source: AdaptCLIP (arXiv 2505.09926), section 3.5, and its released code.
    """
    maps = [one.maps[:, 1] for one in texts]
    if compared is None:
        return torch.stack(maps).mean(dim=0)
    maps.append(compared.maps[:, :, 1].mean(dim=0))
    away = harmonic_mean(list(compared.away), eps=EPS)
    return harmonic_mean([torch.stack(maps).mean(dim=0), away], eps=EPS)


def image_scores(texts: Sequence[Judged], compared: ComparedPatches | None, *, maps: Float[Tensor, "b h w"]) -> Tensor:
    """(b,) scores of images.

    Without good images the mean of what each text answer says and of the map's highest value; with them the harmonic
    mean of that value and of what all answers say, on average.

    Args:
        texts: their answers.
        compared: that of good images, or None.
        maps: of defects, smoothed.
    """
    highest, shares = maps.flatten(1).amax(dim=1), [one.logits.softmax(dim=1)[:, 1] for one in texts]
    if compared is None:
        return torch.stack([*shares, highest]).mean(dim=0)
    shares.append(compared.logits.softmax(dim=2)[..., 1].mean(dim=0))
    return harmonic_mean([torch.stack(shares).mean(dim=0), highest], eps=EPS)


class AdaptclipDetector(Detector):
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
        >>> from tether.methods.adaptclip.adapters import AdaptClip, TrainedAdapters
        >>> from tether.methods.adaptclip import AdaptclipDetector
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
        self,
        *,
        head: TrainedAdapters | None = None,
        memory: Count = 4000,
        blur: NonNegative = BLUR,
        batch_size: Count = 16,
    ) -> None:
        """Choose the adapters.

        Args:
            head: the trained adapters.
            memory: patches of good images that are kept of each block, at most; the paper keeps all.
            blur: deviation of the map's blur, as a share of its side.
            batch_size: images in one forward.
        """
        self.trained, self.memory, self.blur, self.batch_size = head, memory, blur, batch_size
        self.name = ""
        self._reader: ValueRows | None = None
        self._good: Float[Tensor, "layers 1 m d"] | None = None

    def prepare(self, model: DualEncoder, name: str) -> AdaptclipDetector:
        """See ``Detector``; the name is only told.

        Raises:
            InputError: no adapters, or some for another model.
            UnsupportedModelError: an image tower that is no plain vision transformer, or a model of another geometry.
        """
        if self.trained is None:
            raise InputError(f"adaptclip: needs --head FOLDER, from tether adapt --recipe {self.recipe}")
        check_cosine(model, method="adaptclip")
        check_finite(model)
        self._reader = self.trained.reader(model)
        self.name, self._good = name.strip(), None
        return self

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are the whole image, and its patches block by block."""
        return value_looks(self._prepared(), images, batch_size=self.batch_size)

    def remember(self, good: Sequence[ImageFeatures]) -> AdaptclipDetector:
        """See ``Detector``; with no image texts alone judge.

        Raises:
            InputError: an image that was looked at with another grid.
        """
        grid = self._prepared().grid
        for number, look in enumerate(good):
            if look.grid != grid:
                raise InputError(f"good image {number}: expected patches on a grid of {grid}, got {look.grid}")
        self._good = None
        if good:
            blocks = zip(*(look.rows[1:] for look in good), strict=True)
            known = [memory_of(block, size=self.memory) for block in blocks]
            self._good = F.normalize(torch.stack(known), dim=2)[:, None]
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
            compared = trained.adapters.compare.against(seen.patches, self._good, grid=look.grid, size=size)
        values = blurred(fused_maps(texts, compared)[0].clamp(0, 1).numpy(), share=self.blur)
        score = image_scores(texts, compared, maps=torch.from_numpy(values)[None])
        return AnomalyMap(float(score), values, look.size, self.name)

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        trained = self.trained
        assert trained is not None  # prepare asked
        return {
            "method": DETECTORS.name_of(type(self)),
            "name": self.name,
            "memory": self.memory,
            "blur": self.blur,
            "adapters": model_digest(trained.adapters),
            **trained.settings(),
            **trained.adapters.settings,
        }

    def _prepared(self) -> ValueRows:
        if self._reader is None:
            raise unprepared(self)
        return self._reader
