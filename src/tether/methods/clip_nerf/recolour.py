"""One scene's colours changed by a text: the last layers of its field are tuned on patches of views."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.cameras import camera_rays
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, NonNegative, PositiveRate, Whole, checked
from tether.data.posed import PosedViews
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.goals import ClipGoal, Moment, PlainView, TextAim
from tether.generation.painting import paint
from tether.methods.clip_nerf.rays import patch_grid
from tether.methods.clip_nerf.scenes import FieldScenes
from tether.models.embed import encode_texts

Layer = Literal["rgb", "density", "feature", "view"]
_GREY = (0.299, 0.587, 0.114)
_DECAY_STEPS = 500_000
"""Steps in which the rate falls to a tenth."""


@checked
def recolour(
    scenes: FieldScenes,
    views: PosedViews,
    prompt: str,
    *,
    model: DualEncoder,
    scene: int | str = 0,
    steps: Count = 1_000,
    patch: Count = 60,
    w_clip: NonNegative = 1.0,
    layers: Annotated[tuple[Layer, ...], MinLen(1)] = ("rgb",),
    rate: PositiveRate = 5e-4,
    seed: Whole = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> FieldScenes:
    """Give one scene the colours of a text, its grey values staying those of its views.

    A step sees one random patch of one view, and moves the last layer of colours alone, of both fields where there are
    two. It is ``generation.paint`` with two goals: the squared error of grey values, and 1 minus the cosine of the
    patch and the text. Nothing is learnt beforehand, and other scenes of the field change, too.

    Args:
        scenes: learnt; they are left as they are.
        views: of the scene, or of all scenes.
        prompt: what it shall look like.
        model: any encoder, in evaluation mode.
        scene: by name or number.
        steps: of Adam.
        patch: pixels along a side of a patch.
        w_clip: weight of the text.
        layers: that move; the density among them lets the shape change.
        rate: of Adam.
        seed: of views and patches.
        on_progress: called with steps done and in all.
        should_stop: asked after each step; when true ``StoppedError`` is raised.

    Returns:
        A copy with other layers.

    Raises:
        InputError: a text without words, no such scene, or no view of it.

    Source: ``run_nerf_clip.py`` of cassiePython/CLIPNeRF, the one part of CLIP-NeRF (arXiv 2112.05139) that is public.
    There the cosine is the model's logit over 100, and images are not normalised.

    Example:
        >>> from tether.data.sets.solids import solid_views
        >>> from tether.methods.clip_nerf import ConditionalField, FieldScenes, March, recolour
        >>> from tether.models import create
        >>> views = solid_views(["red cone"], poses=2, size=8)
        >>> scenes = FieldScenes(ConditionalField(4, 4, width=8, depth=1), views, march=March(samples=4))
        >>> found = recolour(scenes, views, "a blue cone", model=create("tiny").eval(), steps=2, patch=4)
        >>> same = [name for name, value in found.named_parameters() if value.equal(scenes.get_parameter(name))]
        >>> sorted(set(dict(scenes.named_parameters())) - set(same))
        ['field.rgb.bias', 'field.rgb.weight']
    """
    if not prompt.strip():
        raise InputError("prompt: expected a text with words, got none")
    number = scenes.names.index(scene) if scene in scenes.names else scene
    scenes.codes(number)  # refuses what is none
    name = scenes.names[int(number)]
    mine = views.scenes == views.names.index(name) if name in views.names else torch.zeros(0, dtype=torch.bool)
    if not bool(mine.any()):
        raise InputError(f"views: expected some of scene {name!r:.80}, got none")
    made = copy.deepcopy(scenes).requires_grad_(False)
    canvas = _PatchCanvas(
        made, int(number), views.images[mine], views.poses[mine], layers=layers, patch=patch, rate=rate
    )
    with torch.no_grad():
        row = encode_texts(model, [prompt])
    grey = torch.tensor(_GREY, device=made.shape.device).view(3, 1, 1)

    def error(image: Tensor, moment: Moment) -> Tensor:
        look = moment.look
        assert isinstance(look, _PatchLook)
        assert look.target is not None
        return ((image - look.target) * grey).sum(dim=1).square().mean(dim=(1, 2)).sum()

    goals = {"grey": error, "prompt": ClipGoal(model, [TextAim(row, weight=w_clip)], views=PlainView())}
    paint(canvas, goals, steps=steps, seed=seed, frames=0, on_progress=on_progress, should_stop=should_stop)
    return made.requires_grad_(True)


@dataclass(frozen=True, slots=True)
class _PatchLook(Viewpoint):
    begin: Tensor | None = None
    way: Tensor | None = None
    target: Tensor | None = None
    draws: torch.Generator | None = None


class _PatchCanvas(Canvas):
    """Layers of a field as a canvas: a step sees a patch of one view."""

    scenes: FieldScenes

    def __init__(
        self,
        scenes: FieldScenes,
        scene: int,
        images: Tensor,
        poses: Tensor,
        *,
        layers: Sequence[Layer],
        patch: int,
        rate: float,
    ) -> None:
        super().__init__()
        self.__dict__["scenes"] = scenes
        fields = [one for one in (scenes.fine, scenes.field) if one is not None]
        self.layers = nn.ModuleDict(
            {name: nn.ModuleList(one.get_submodule(name) for one in fields) for name in dict.fromkeys(layers)}
        ).requires_grad_(True)
        self._codes, self._images, self._poses, self._patch = scenes.codes(scene), images, poses.float(), patch
        self.rates = dict.fromkeys(self.layers, rate)

    def parameters_by_role(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {name: list(part.parameters()) for name, part in self.layers.items()}

    def pace(self, role: str, step: int, steps: int) -> float:
        return 0.1 ** (step / _DECAY_STEPS)

    def looks(self, step: int, draws: torch.Generator) -> Sequence[Viewpoint]:
        view = int(torch.randint(len(self._images), (), generator=draws))
        grid = patch_grid(self._patch, step, generator=draws)[None]
        rays = camera_rays(self._poses[view], self.scenes.lens)
        maps = [one.permute(2, 0, 1) for one in rays] + [self._images[view].float() / 255]
        begin, way, target = (
            F.grid_sample(one[None], grid, align_corners=True)[0].to(self.scenes.shape) for one in maps
        )
        return (_PatchLook(begin=begin.permute(1, 2, 0), way=way.permute(1, 2, 0), target=target, draws=draws),)

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "passes 3 h w"]:
        if not isinstance(look, _PatchLook) or look.begin is None or look.way is None:
            return self.scenes.view(self._codes, self._poses[0].to(self.scenes.shape)).image[None]
        seen = self.scenes.look_along(self._codes, look.begin, look.way, generator=look.draws)
        passes = [seen.rgb] if seen.coarse is None else [seen.rgb, seen.coarse]
        return torch.stack([one.permute(2, 0, 1) for one in passes])
