"""A memory of patches of good images: the plain baseline, which needs no words and works on any encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.errors import InputError
from tether.core.geometry import check_finite
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Part, checked
from tether.models.features.find import tower_of
from tether.models.features.penultimate import patch_grid
from tether.models.features.windows import Windows, window_maps
from tether.tasks.anomaly.detector import Detector, ImageFeatures, pixels_of, unprepared
from tether.tasks.anomaly.memory import association, memory_of
from tether.tasks.anomaly.registry import DETECTORS


class PatchesDetector(Detector):
    """How far each patch is from the nearest patch of good images; the image has the score of its farthest patch.

    Source: PatchCore (arXiv 2106.08265), on the patches of any encoder that ``tether.load`` gives. Differences: rows
    are compared by direction; the farthest patch's score is not weighted by its neighbours; the map is not blurred.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.tasks.anomaly import PatchesDetector
        >>> detector = PatchesDetector().prepare(create("tiny").eval(), "tile")
        >>> good = torch.zeros(3, 40, 40, dtype=torch.uint8)
        >>> found = detector.remember(detector.look([good])).predict([good, good + 200])
        >>> found[0].score < 1e-6 < found[1].score
        True
    """

    needs_good: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        *,
        block: int | None = None,
        size: Count | None = None,
        stride: Part = 0.5,
        around: Annotated[int, Ge(0), Le(3)] = 0,
        memory: Count = 4000,
        batch_size: Count = 16,
    ) -> None:
        """Choose what is compared.

        Args:
            block: of a vision transformer, after which patches are read; negative from the end; None is the last one,
                and the last map of a network of convolutions.
            size: pixels of the image's short side when it is looked at; None takes the model's. A larger one finds
                smaller defects, at the price of more windows.
            stride: from one window of the model's size to the next, as a share of it.
            around: patches to each side of a patch that are averaged into it; PatchCore has 1.
            memory: patches that are kept, at most.
            batch_size: windows in one forward.
        """
        self.block, self.around, self.memory = block, around, memory
        self.windows = Windows(size=size, stride=stride, batch_size=batch_size)
        self.name = ""
        self.rows: Float[Tensor, "m d"] = torch.empty(0, 0)
        self._model: DualEncoder | None = None
        self._grid = (0, 0)

    def prepare(self, model: DualEncoder, name: str) -> PatchesDetector:
        """See ``Detector``; the name is only told.

        Raises:
            InputError: no such block.
            UnsupportedModelError: an encoder that shows no patches, or whose blocks cannot be told apart.
        """
        check_finite(model)
        if self.block is not None:
            tower_of(model).opened().place(self.block)
        self.name, self._model, self._grid = name.strip(), model, patch_grid(model)
        self.rows = torch.empty(0, 0)
        return self

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are the image's patches."""
        model = self._model
        if model is None:
            raise unprepared(self)
        images = pixels_of(images)
        maps = window_maps(self._read, images, spec=model.image_spec, grid=self._grid, windows=self.windows)
        found = []
        for image, patches in zip(images, maps, strict=True):
            if not patches.isfinite().all():
                raise InputError("images: their patches are not finite; the model's weights are damaged")
            if self.around:
                side = 2 * self.around + 1
                patches = F.avg_pool2d(patches, side, stride=1, padding=self.around, count_include_pad=False)
            grid = (patches.shape[1], patches.shape[2])
            found.append(ImageFeatures((image.shape[1], image.shape[2]), grid, (patches.flatten(1).T,)))
        return found

    def remember(self, good: Sequence[ImageFeatures]) -> PatchesDetector:
        """See ``Detector``."""
        if self._model is None:
            raise unprepared(self)
        self.rows = memory_of((look.rows[0] for look in good), size=self.memory) if good else torch.empty(0, 0)
        return self

    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """See ``Detector``.

        Raises:
            InputError: nothing is remembered.
        """
        if self._model is None:
            raise unprepared(self)
        if not len(self.rows):
            raise InputError("patches: expected good images to compare with, got none")
        values = association(look.rows[0], self.rows).unflatten(0, look.grid)
        return AnomalyMap(float(values.max()), values.numpy(), look.size, self.name)

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        said = {name: getattr(self, name) for name in ("name", "block", "around", "memory")}
        return {
            "method": DETECTORS.name_of(type(self)),
            **said,
            "size": self.windows.size,
            "stride": self.windows.stride,
        }

    def _read(self, pixels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b d r c"]:
        assert self._model is not None  # look asked
        tower = tower_of(self._model)
        stop = None if self.block is None else tower.opened().place(self.block) + 1
        stream = tower.run(tower.embed(pixels.to(self._model.logit_scale.device)), stop=stop)
        return stream.x[:, tower.prefix :].transpose(1, 2).unflatten(2, self._grid)
