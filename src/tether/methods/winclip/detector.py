"""WinCLIP: small windows of an image compared with texts of normal and damaged things, and with good images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import MinLen
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.anomaly_map import AnomalyMap
from tether.core.geometry import Geometry, check_finite, geometry_of
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, checked
from tether.methods.winclip.token_windows import window_embeddings, window_masks
from tether.models.embed import encode_texts
from tether.models.features.find import anatomy_of
from tether.models.features.penultimate import grid_of, read_each
from tether.tasks.anomaly.detector import Detector, ImageFeatures, looks_of, unprepared
from tether.tasks.anomaly.harmonic import harmonic_map, harmonic_mean
from tether.tasks.anomaly.memory import association
from tether.tasks.anomaly.registry import DETECTORS
from tether.tasks.anomaly.states import prompt_ensemble


class WinclipDetector(Detector):
    """Defects from words alone, or from words and a few good images.

    An image is brought to the model's size, as a whole. Each small window of patches is embedded by itself and scored
    against the two texts; a patch has the harmonic mean of the windows over it, so that one normal window clears it.
    With good images there is besides how far patches and windows are from the nearest of theirs.

    Source: arXiv 2303.14814; no code of the authors is public. As in anomalib, texts are averaged before they are
    scaled to length 1, the mean is of scores of defects, the whole image is one more scale, and the score with good
    images is the mean of the image's own and the map's highest. Differences: each window is run by itself in any
    version of any library, 22 templates in place of 21 with one twice, and the model's own temperature.

    Attributes:
        texts: (2, d) normal and defective point of the model's geometry, once prepared.
        grid: rows and columns of patches, once prepared.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.methods.winclip import WinclipDetector
        >>> detector = WinclipDetector().prepare(create("tiny").eval(), "tile")
        >>> images = [torch.zeros(3, 50, 120, dtype=torch.uint8), torch.full((3, 9, 9), 200, dtype=torch.uint8)]
        >>> found = detector.predict(images)
        >>> found[0].values.shape, found[0].size, found[1].size
        ((4, 4), (50, 120), (9, 9))
    """

    needs_good: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        *,
        scales: Annotated[Sequence[Count], MinLen(1)] = (2, 3),
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        batch_size: Count = 16,
    ) -> None:
        """Choose the windows and the texts.

        Args:
            scales: sides of the windows, in patches.
            templates: sentences with ``{}`` for the thing and its state; None takes the paper's.
            temperature: similarities are divided by it; None takes the model's own scale.
            batch_size: images in one forward.
        """
        self.scales, self.temperature, self.batch_size = tuple(scales), temperature, batch_size
        self.templates = None if templates is None else tuple(templates)
        self.name = ""
        self.texts: Float[Tensor, "2 d"] = torch.empty(0, 0)
        self.grid = (0, 0)
        self.scale = 1.0
        self.geometry = Geometry()
        self._model: DualEncoder | None = None
        self._masks: tuple[Tensor, ...] = ()
        self._memory: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def prepare(self, model: DualEncoder, name: str) -> WinclipDetector:
        """See ``Detector``.

        Raises:
            InputError: a grid of patches smaller than a window.
            UnsupportedModelError: an image tower that is no vision transformer, or whose patches cannot be left out.
        """
        check_finite(model)
        prompts = prompt_ensemble(name, templates=self.templates)
        tower = anatomy_of(model)
        blank = torch.zeros(1, 3, *model.image_spec.size, dtype=torch.uint8, device=model.logit_scale.device)
        self.grid = grid_of(tower, tower.embed(blank), size=model.image_spec.size)
        self._masks = tuple(window_masks(self.grid, side=side) for side in self.scales)
        self.geometry = geometry_of(model).detached()
        self.texts = self.geometry.points(torch.stack([encode_texts(model, one).mean(dim=0) for one in prompts]))
        self.scale = float(model.logit_scale.detach()) if self.temperature is None else 1 / self.temperature
        self.name, self._model, self._memory = name.strip(), model, ()
        self._read(model, blank)  # a tower that cannot be asked so says it now
        return self

    def look(self, images: Sequence[UInt8[Tensor, "3 h w"]]) -> list[ImageFeatures]:
        """See ``Detector``; the rows are the whole image, its patches, and its windows by scale."""
        model = self._model
        if model is None:
            raise unprepared(self)
        return looks_of(
            lambda pixels: self._read(model, pixels), images, model=model, grid=self.grid, batch_size=self.batch_size
        )

    def remember(self, good: Sequence[ImageFeatures]) -> WinclipDetector:
        """See ``Detector``."""
        if self._model is None:
            raise unprepared(self)
        tables = zip(*(look.rows[1:] for look in good), strict=True)
        self._memory = tuple(torch.cat(table) for table in tables)
        return self

    def judge(self, look: ImageFeatures) -> AnomalyMap:
        """See ``Detector``."""
        if self._model is None:
            raise unprepared(self)
        whole, patches, *windows = (rows[None] for rows in look.rows)
        score, scores = self.defect_scores(whole[:, 0]), [self.defect_scores(rows) for rows in windows]
        found = zero_shot_map(score, scores, masks=self._masks, grid=self.grid)
        if self._memory:
            few = few_shot_map(patches, windows, memory=self._memory, masks=self._masks, grid=self.grid)
            score, found = (score + few.amax(dim=(1, 2))) / 2, (found + few) / 2
        return AnomalyMap(float(score), found[0].float().clamp(0, 1).numpy(), look.size, self.name)

    def settings(self) -> dict[str, Any]:
        """See ``Detector``."""
        names = ("name", "scales", "templates", "temperature")
        return {"method": DETECTORS.name_of(type(self)), **{name: getattr(self, name) for name in names}}

    def defect_scores(self, rows: Float[Tensor, "... d"]) -> Float[Tensor, ...]:
        """Probability of the defective text against the normal one."""
        points = self.geometry.points(rows.reshape(-1, rows.shape[-1]))
        similar = self.geometry.similarity(points, self.texts.to(points))
        return (self.scale * similar).softmax(dim=1)[:, 1].view(rows.shape[:-1])

    @torch.no_grad()
    def _read(self, model: DualEncoder, pixels: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _ d"]]:
        tower = anatomy_of(model)
        stream = tower.embed(pixels)
        last = tower.run(stream)
        tables = [tower.read_out(last)[:, None], read_each(tower, last)[:, tower.prefix :]]
        return tables + [window_embeddings(tower, stream, masks=masks) for masks in self._masks]


def zero_shot_map(
    whole: Float[Tensor, " b"],
    windows: Sequence[Float[Tensor, "b _"]],
    *,
    masks: Sequence[Tensor],
    grid: tuple[int, int],
) -> Float[Tensor, "b r c"]:
    """The harmonic mean of the maps of all scales, of which the whole image is one.

    Args:
        whole: scores of images.
        windows: scores of their windows, by scale.
        masks: patches of the windows, by scale.
        grid: rows and columns of patches.
    """
    maps = [harmonic_map(scores, masks=one, grid=grid) for scores, one in zip(windows, masks, strict=True)]
    return harmonic_mean([whole[:, None, None].expand(-1, *grid), *maps])


def few_shot_map(
    patches: Float[Tensor, "b n w"],
    windows: Sequence[Float[Tensor, "b _ _"]],
    *,
    memory: Sequence[Float[Tensor, "_ _"]],
    masks: Sequence[Tensor],
    grid: tuple[int, int],
) -> Float[Tensor, "b r c"]:
    """The plain mean of how far patches, and windows by scale, are from the nearest of good images.

    Args:
        patches: last states of images' patches.
        windows: embeddings of their windows, by scale.
        memory: the same tables of good images, all their rows together: patches first, then windows by scale.
        masks: patches of the windows, by scale.
        grid: rows and columns of patches.
    """
    away = [
        association(rows.flatten(0, 1), known).view(rows.shape[:2])
        for rows, known in zip((patches, *windows), memory, strict=True)
    ]
    maps = [harmonic_map(scores, masks=one, grid=grid) for scores, one in zip(away[1:], masks, strict=True)]
    return torch.stack([away[0].unflatten(1, grid), *maps]).mean(dim=0)
