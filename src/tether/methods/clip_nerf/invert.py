"""An image as a known field sees it: from where, and with which codes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Decay, NonNegative, Rate, Whole, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.goals import ClipGoal, Goal, Moment, PlainView, TextAim
from tether.generation.painting import paint
from tether.generation.seen import unit_images
from tether.methods.clip_nerf.field import Codes
from tether.methods.clip_nerf.scenes import FieldScenes

_ROLES = ("pose", "shape", "appearance")
"""In the order in which they move, one a step."""
_COARSE = 8
"""Pixels of an image, along its height, by which the first pose is chosen."""


@dataclass(frozen=True, slots=True)
class InvertedView:
    """What was found.

    Attributes:
        pose: from the camera to the world.
        codes: averages over the steps.
        image: what the field shows from there, in 0 to 1.
        psnr: of it against the image, in decibels.
        losses: of each goal, of each step.
    """

    pose: Float[Tensor, "4 4"]
    codes: Codes
    image: Float[Tensor, "3 h w"]
    psnr: float
    losses: Mapping[str, list[float]]


@checked
def invert_view(
    field: FieldScenes,
    image: Float[Tensor, "3 h w"],
    *,
    steps: Count = 450,
    start: Float[Tensor, "4 4"] | None = None,
    codes: Codes | None = None,
    model: DualEncoder | None = None,
    perceptual: NonNegative = 0.1,
    average: Decay = 0.9,
    noise: NonNegative = 0.05,
    rates: Mapping[str, Rate] | None = None,
    seed: Whole = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> InvertedView:
    """Find pose, shape and appearance of an image, one of the three moving a step while the others rest.

    Args:
        field: learnt; it rests.
        image: in 0 to 1, of the views' size, on white.
        steps: of Adam, a third for each.
        start: the first pose; None takes the known one from which the scene of the first codes is nearest.
        codes: the first codes; None takes the mean of the known scenes.
        model: any encoder; how far its row of the view is from that of the image counts, too. It makes each step see
            the whole view.
        perceptual: weight of that.
        average: of the codes over the steps: how much of the past stays; the averages are what is given back.
        noise: standard deviation of what is added to the codes in a step, at first; it falls to 0 as a square.
        rates: of ``pose``, ``shape`` and ``appearance``, in place of 0.01, 0.03 and 0.03; they fall to 0 evenly.
        seed: of the draws.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true ``StoppedError`` is raised.

    Raises:
        InputError: an image of another size, or not in 0 to 1.

    Source: CLIP-NeRF (arXiv 2112.05139, section 3.4), whose weights are not known. The pose moves along a twist from
    the first one.

    Example:
        >>> from tether.methods.clip_nerf import ConditionalField, FieldScenes, March, invert_view
        >>> from tether.data.sets.solids import solid_views
        >>> views = solid_views(["red cone", "blue box"], poses=2, size=8)
        >>> scenes = FieldScenes(ConditionalField(4, 4, width=8, depth=1), views, march=March(samples=4))
        >>> invert_view(scenes, views.images[0] / 255, steps=3).pose.shape
        torch.Size([4, 4])
    """
    wanted = (3, field.lens.height, field.lens.width)
    if tuple(image.shape) != wanted or not image.is_floating_point() or not bool(((image >= 0) & (image <= 1)).all()):
        raise InputError(f"image: expected {wanted} numbers from 0 to 1, got {tuple(image.shape)} of {image.dtype}")
    image = image.to(field.shape)
    first = codes or field.mean_codes()
    pose = (start if start is not None else nearest_pose(field, first, image)).to(field.shape)
    resting = [value for value in field.parameters() if value.requires_grad]
    for value in resting:
        value.requires_grad_(False)
    try:
        canvas = _ViewCanvas(field, pose, first, average=average, noise=noise, steps=steps)
        found = paint(
            canvas, _goals(image, model, perceptual), steps=steps, rates=rates, seed=seed, frames=0,
            on_progress=on_progress, should_stop=should_stop,
        )  # fmt: skip
    finally:
        for value in resting:
            value.requires_grad_(True)
    with torch.no_grad():
        codes, pose = canvas.averages(), canvas.pose().detach()
        seen = field.view(codes, pose).image
        error = float((seen - image).square().mean().clamp(min=1e-10).log10())
    return InvertedView(pose, codes, seen, -10 * error, found.losses)


def _goals(wanted: Tensor, model: DualEncoder | None, perceptual: float) -> dict[str, Goal]:
    def photo(image: Tensor, moment: Moment) -> Tensor:
        return (image - wanted).square().mean()

    goals: dict[str, Goal] = {"photo": photo}
    if model is not None and perceptual:
        with torch.no_grad():
            row = unit_images(model, wanted[None])
        aim = TextAim(row, weight=perceptual, reduction="mean")
        goals["perceptual"] = ClipGoal(model, [aim], views=PlainView())
    return goals


@torch.no_grad()
def nearest_pose(field: FieldScenes, codes: Codes, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "4 4"]:
    """The known pose from which a scene is nearest to an image, looked at coarsely."""
    small = field.lens.scaled(_COARSE)
    wanted = F.interpolate(image[None], size=(small.height, small.width), mode="bilinear", antialias=True)[0]
    poses = field.poses.unique(dim=0)
    errors = [(field.view(codes, pose, lens=small).image - wanted).square().mean() for pose in poses]
    return poses[int(torch.stack(errors).argmin())]


@dataclass(frozen=True, slots=True)
class _NoisyLook(Viewpoint):
    shape: Tensor | None = None
    appearance: Tensor | None = None


class _ViewCanvas(Canvas):
    """Pose and codes as a canvas."""

    scenes: FieldScenes
    first: Tensor
    mean_shape: Tensor
    mean_appearance: Tensor

    def __init__(
        self, scenes: FieldScenes, pose: Tensor, codes: Codes, *, average: float, noise: float, steps: int
    ) -> None:
        super().__init__()
        self.__dict__["scenes"], self._average, self._noise = scenes, average, noise
        self._steps = steps
        self.twist = nn.Parameter(torch.zeros(6, dtype=pose.dtype, device=pose.device))
        self.shape, self.appearance = (nn.Parameter(code.clone()) for code in (codes.shape, codes.appearance))
        self.register_buffer("first", pose.clone())
        self.register_buffer("mean_shape", codes.shape.clone())
        self.register_buffer("mean_appearance", codes.appearance.clone())
        self.rates = {"pose": 0.01, "shape": 0.03, "appearance": 0.03}
        self._followed = 0

    def parameters_by_role(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"pose": (self.twist,), "shape": (self.shape,), "appearance": (self.appearance,)}

    def pace(self, role: str, step: int, steps: int) -> float:
        return (1 - step / steps) if role == _ROLES[step % 3] else 0.0

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        self.follow_(step)
        level = self._noise * (1 - step / self._steps) ** 2
        shape, appearance = (
            level * torch.randn(code.shape, generator=draws).to(code) for code in (self.shape, self.appearance)
        )
        return (_NoisyLook(shape=shape, appearance=appearance),)

    @torch.no_grad()
    def follow_(self, step: int) -> None:
        """Average what the steps before have made of the codes, once a step."""
        if step > self._followed:
            self._followed = step
            for mean, code in ((self.mean_shape, self.shape), (self.mean_appearance, self.appearance)):
                mean.lerp_(code, 1 - self._average)

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 h w"]:
        added = look if isinstance(look, _NoisyLook) else _NoisyLook()
        codes = Codes(
            self.shape if added.shape is None else self.shape + added.shape,
            self.appearance if added.appearance is None else self.appearance + added.appearance,
        )
        return self.scenes.view(codes, self.pose()).image

    def pose(self) -> Float[Tensor, "4 4"]:
        """The first one, moved along the twist: turned about the origin, and shifted."""
        x, y, z = self.twist[:3]
        none = torch.zeros_like(x)
        rows = [[none, -z, y, self.twist[3]], [z, none, -x, self.twist[4]], [-y, x, none, self.twist[5]], [none] * 4]
        return torch.linalg.matrix_exp(torch.stack([torch.stack(row) for row in rows])) @ self.first

    def averages(self) -> Codes:
        """Of the codes over all steps, the last one too."""
        self.follow_(self._steps)
        return Codes(self.mean_shape.clone(), self.mean_appearance.clone())
