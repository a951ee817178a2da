"""Scenes learnt from views with poses: one field for all, and codes of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.cameras import Lens, camera_rays, pixel_ways
from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.data.posed import PosedViews
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.goals import Moment
from tether.generation.painting import PaintingProgress, paint
from tether.methods.clip_nerf.field import Codes, ConditionalField
from tether.methods.clip_nerf.rays import March, RaysSeen, march_rays
from tether.models.convert.weights import filled

FORMAT = "tether-field-scenes-1"
_FIRST_CODES = 0.1
"""Standard deviation of codes at first."""
_WHITE = 0.99
"""Least share of each colour in a pixel that counts as empty."""
_CHUNK = 2**16
"""Samples that are asked at once where no gradient is needed."""


@dataclass(frozen=True, slots=True)
class SceneView:
    """A scene from one side.

    Attributes:
        image: in 0 to 1.
        acc: how much of each ray is stopped; above 0.5 is the silhouette.
    """

    image: Float[Tensor, "3 h w"]
    acc: Float[Tensor, "h w"]

    @property
    def silhouette(self) -> Bool[Tensor, "h w"]:
        """Where more than half of a ray is stopped."""
        return self.acc > 0.5


class FieldScenes(nn.Module):
    """Scenes that share a field: the field, and a code of each kind for each scene.

    Attributes:
        field: that all scenes share.
        fine: the field of the fine pass, or None where the same one is asked again.
        shape: (scenes, s) codes.
        appearance: (scenes, a) codes.
        poses: (n, 4, 4) of the views that it is learnt from.
        names: of the scenes.

    Example:
        >>> from tether.methods.clip_nerf import ConditionalField, FieldScenes, March, learn_scenes
        >>> from tether.data.sets.solids import solid_views
        >>> views = solid_views(["red cone", "blue box"], poses=2, size=8)
        >>> scenes = FieldScenes(ConditionalField(4, 4, width=8, depth=1), views, march=March(samples=4))
        >>> losses = learn_scenes(scenes, views, steps=3, rays=16)
        >>> scenes.view(scenes.codes("red cone"), scenes.poses[0]).image.shape
        torch.Size([3, 8, 8])
    """

    poses: Tensor

    def __init__(
        self,
        field: ConditionalField,
        views: PosedViews,
        *,
        march: March | None = None,
        fine: ConditionalField | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the codes.

        Args:
            field: that all scenes share.
            views: which scenes there are, and the camera.
            march: where the field is asked along rays; None takes 24 samples in a ball of radius 1.
            fine: another field, of the same codes, for the fine pass.
            generator: of the codes, on the CPU; None takes seed 0.

        Raises:
            InputError: a second field of other codes, or without a fine pass.
        """
        super().__init__()
        self.field, self.fine, self.lens, self.names = field, fine, views.lens, views.names
        self.march = march or March()
        if fine is not None and (not self.march.importance or _widths(fine) != _widths(field)):
            raise InputError("fine: expected a field of the same codes, and a march with importance above 0")
        draws = generator or torch.Generator().manual_seed(0)
        shape, appearance = _widths(field)
        count = len(views.names)
        self.shape = nn.Parameter(_FIRST_CODES * torch.randn(count, shape, generator=draws))
        self.appearance = nn.Parameter(_FIRST_CODES * torch.randn(count, appearance, generator=draws))
        self.register_buffer("poses", views.poses.float())

    def codes(self, scene: int | str) -> Codes:
        """Of a scene, by its name or number, without gradient.

        Raises:
            InputError: no such scene.
        """
        number = self.names.index(scene) if scene in self.names else scene
        if not isinstance(number, int) or not 0 <= number < len(self.names):
            raise InputError(f"scene: expected one of {len(self.names)}, by name or number, got {scene!r:.80}")
        return Codes(self.shape[number].detach(), self.appearance[number].detach())

    def mean_codes(self) -> Codes:
        """Of all scenes."""
        return Codes(self.shape.detach().mean(dim=0), self.appearance.detach().mean(dim=0))

    def look_along(
        self,
        codes: Codes,
        begin: Float[Tensor, "*rays 3"],
        way: Float[Tensor, "*rays 3"],
        *,
        generator: torch.Generator | None = None,
    ) -> RaysSeen:
        """What rays see, with gradient to codes, rays and field; see ``march_rays``."""
        return march_rays(self.field, codes, begin, way, self.march, fine=self.fine, generator=generator)

    def view(self, codes: Codes, pose: Float[Tensor, "4 4"], *, lens: Lens | None = None) -> SceneView:
        """A scene from one side, with gradient to codes and pose.

        Args:
            codes: of the scene.
            pose: of the camera.
            lens: of the camera; None takes that of the views.
        """
        begin, way = camera_rays(pose, lens or self.lens)
        rows = 1 if torch.is_grad_enabled() else -(-way[..., 0].numel() * self.march.samples // _CHUNK)
        parts = [
            self.look_along(codes, one, other) for one, other in zip(begin.chunk(rows), way.chunk(rows), strict=True)
        ]
        return SceneView(torch.cat([one.rgb for one in parts]).permute(2, 0, 1), torch.cat([one.acc for one in parts]))

    def plain(self) -> dict[str, Any]:
        """What decides it besides its arrays, in plain values."""
        march, lens = self.march, self.lens
        return {
            "field": self.field.settings,
            "fine": None if self.fine is None else self.fine.settings,
            "names": list(self.names),
            "lens": [lens.height, lens.width, lens.focal],
            "march": [march.radius, march.samples, march.importance],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """All that it has learnt, by name."""
        return {name: wide_array(value) for name, value in self.state_dict().items()}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, where: Path | str) -> FieldScenes:
        """Made of what ``plain`` and ``arrays`` gave; anything else is an InputError."""
        try:
            lens, names = Lens(*plain["lens"]), tuple(map(str, plain["names"]))
            poses = torch.from_numpy(arrays["poses"])
            march = March(*plain["march"])

            def make() -> FieldScenes:
                made = cls.__new__(cls)
                nn.Module.__init__(made)
                made.field, made.lens, made.names = ConditionalField(**plain["field"]), lens, names
                made.fine = None if plain["fine"] is None else ConditionalField(**plain["fine"])
                made.march = march
                for name, width in zip(("shape", "appearance"), _widths(made.field), strict=True):
                    setattr(made, name, nn.Parameter(torch.zeros(len(names), width)))
                made.register_buffer("poses", torch.zeros(poses.shape))
                return made

            return filled(make, arrays, where=where)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{where}: expected a field with its scenes: {error!s:.300}") from error

    def save(self, path: Path | str) -> None:
        """Write it to one safetensors file, atomically."""
        write_state(path, format=FORMAT, settings=self.plain(), arrays=self.arrays())

    @classmethod
    def load(cls, path: Path | str) -> FieldScenes:
        """Read what ``save`` wrote, with nothing unpickled; files of another kind are an InputError."""
        plain, arrays = read_state(path, what="field with its scenes", format=FORMAT)
        return cls.of_plain(plain, arrays, where=path)


def _widths(field: ConditionalField) -> tuple[int, int]:
    return field.shape_dim, field.appearance_dim


@dataclass(frozen=True, slots=True)
class RaysLook(Viewpoint):
    """Some pixels of some views.

    Attributes:
        begin: of their rays.
        way: of their rays.
        target: their colours, in 0 to 1.
        scenes: whose they are.
        draws: of the places along rays.
    """

    begin: Float[Tensor, "n 3"] = field(default_factory=lambda: torch.empty(0, 3))
    way: Float[Tensor, "n 3"] = field(default_factory=lambda: torch.empty(0, 3))
    target: Float[Tensor, "n 3"] = field(default_factory=lambda: torch.empty(0, 3))
    scenes: Int[Tensor, " n"] = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    draws: torch.Generator | None = None


class RaysCanvas(Canvas):
    """Scenes as a canvas for ``paint``: a step sees pixels that are drawn anew among all views."""

    def __init__(self, scenes: FieldScenes, views: PosedViews, *, rays: int, rate: float) -> None:
        """Args: scenes: that move. views: to learn. rays: of a step. rate: of the field; codes move twice as fast."""
        super().__init__()
        self.scenes, self._views, self._rays = scenes, views, rays
        self.rates = {"field": rate, "codes": 2 * rate}

    def parameters_by_role(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """See Canvas."""
        codes = (self.scenes.shape, self.scenes.appearance)
        rest = [value for value in self.scenes.parameters() if not any(value is code for code in codes)]
        return {"field": rest, "codes": codes}

    def pace(self, role: str, step: int, steps: int) -> float:
        """See Canvas: a cosine down to 0."""
        return (1 + math.cos(math.pi * step / steps)) / 2

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        """See Canvas."""
        views, count = self._views, (self._rays,)
        view = torch.randint(len(views.images), count, generator=draws)
        y, x = (torch.randint(side, count, generator=draws) for side in (views.lens.height, views.lens.width))
        pose, device = views.poses[view].float(), self.scenes.shape.device
        way = (pose[:, :3, :3] @ pixel_ways(x, y, views.lens)[..., None])[..., 0]
        target = views.images[view, :, y, x].float() / 255
        begin, way, target, scenes = (one.to(device) for one in (pose[:, :3, 3], way, target, views.scenes[view]))
        return (RaysLook(begin=begin, way=way, target=target, scenes=scenes, draws=draws),)

    def render(self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None) -> Float[Tensor, ...]:
        """(passes, 4, 1, n) of a look at pixels, colours and how much is stopped; else the first view."""
        if not isinstance(look, RaysLook):
            return self.scenes.view(self.scenes.codes(0), self.scenes.poses[0]).image
        codes = Codes(self.scenes.shape[look.scenes], self.scenes.appearance[look.scenes])
        seen = self.scenes.look_along(codes, look.begin, look.way, generator=look.draws)
        passes = [seen.rgb] if seen.coarse is None else [seen.coarse, seen.rgb]
        return torch.stack([torch.cat([one, seen.acc[:, None]], dim=1).T[:, None] for one in passes])


@checked
def learn_scenes(
    scenes: FieldScenes,
    views: PosedViews,
    *,
    steps: Count = 3_000,
    rays: Count = 512,
    rate: PositiveRate = 5e-3,
    penalty: NonNegative = 1e-4,
    clear: NonNegative = 0.01,
    seed: Whole = 0,
    progress: PaintingProgress | None = None,
    save: Callable[[PaintingProgress], None] | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[float]:
    """Learn field and codes together from views, in place: an auto-decoder, in place of the paper's critic.

    It is ``generation.paint`` on rays, so that it goes on from a ``progress`` bit for bit.

    Args:
        scenes: made for these views; a GPU is used where they are on one.
        views: with poses; the scenes must lie in the march's ball around the origin.
        steps: of Adam, whose rates fall to 0 as a cosine.
        rays: pixels of a step, drawn among all views.
        rate: of the field at first; codes move twice as fast.
        penalty: of a code's squared length.
        clear: of what stops a ray whose pixel is white in the view; without it a field may fill what is empty with
            white. 0 for scenes with white things.
        seed: of the draws.
        progress: of a run to go on with; see ``generation.paint``, as for the rest.
        save: called with the progress every 50 steps.
        on_progress: called with steps done and in all.
        should_stop: asked after each step.

    Returns:
        Mean squared error of each step, summed over passes.

    Raises:
        InputError: views of other scenes.
        NotFiniteError: the loss is not finite again and again; the scenes are as in the last good step.
        StoppedError: ``should_stop`` said so, after ``save``.
    """
    if tuple(views.names) != tuple(scenes.names):
        raise InputError(
            f"views: expected those of {len(scenes.names)} scenes, got others: {', '.join(views.names):.100}"
        )

    def error(image: Tensor, moment: Moment) -> Tensor:
        look = moment.look
        assert isinstance(look, RaysLook)
        return (image[:, :3] - look.target.T[:, None]).square().mean(dim=(1, 2, 3)).sum()

    def stopped(image: Tensor, moment: Moment) -> Tensor:
        look = moment.look
        assert isinstance(look, RaysLook)
        return clear * (image[-1, 3, 0] * (look.target > _WHITE).all(dim=1)).mean()

    def length(image: Tensor, moment: Moment) -> Tensor:
        look = moment.look
        assert isinstance(look, RaysLook)
        both = torch.cat([scenes.shape[look.scenes], scenes.appearance[look.scenes]], dim=1)
        return penalty * both.square().sum(dim=1).mean()

    canvas = RaysCanvas(scenes, views, rays=rays, rate=rate)
    found = paint(
        canvas, {"error": error, "codes": length, "clear": stopped}, steps=steps, seed=seed, frames=0,
        progress=progress, save=save, on_progress=on_progress, should_stop=should_stop,
    )  # fmt: skip
    return found.losses["error"]
