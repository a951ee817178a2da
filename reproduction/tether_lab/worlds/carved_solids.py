"""Coloured solids in space: fields learnt from their views, and edits that ask for combinations no view showed."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.cameras import Lens
from tether.data.posed import PosedViews
from tether.data.sets.solids import ANGLE, COLOURS, SHAPES, Solid, circle_of_poses, solid_view, solid_views
from tether.methods.clip_nerf import Codes, ConditionalField, FieldEditor, FieldScenes, March, invert_view, learn_scenes
from tether.methods.clip_nerf.editor import Which
from tether.methods.clip_nerf.field import beside
from tether.methods.clip_nerf.volume import positional_encoding
from tether.models.embed import encode_images
from tether.models.towers.clip import Clip
from tether_lab.lab.lab import Lab
from tether_lab.worlds.in_memory import unit_texts
from tether_lab.worlds.small_clip import small_clip

SIDE, SAMPLES, CODE = 32, 16, 16
POSES, OTHER_POSES = 8, 3
"""From which fields learn, and from which edits are looked at."""
FIELD_STEPS, FIELD_RATE = 500, 5e-3
SIZES = (0.9, 1.0)
"""Of solids: texts do not name them, so that what an edit should come to must not depend on them much."""
MAP_STEPS, IMAGES, MAP_SIDE = 500, 2, 24
"""Of a map, images of a step, and their height; the joint code's maps move together, twice as long."""
RATES = {"own": 1e-2, "joint": 4e-3}
"""Of the maps: of two each the one with the higher IoU of edited shapes, the mean of two pilot seeds."""
SOURCES = 3
"""Scenes that are edited towards each held-out combination."""
INVERTED, INVERT_STEPS = 3, 180
JUDGE = 1_000
"""What is added to the seed of the CLIP that steers, for one that steers nothing."""
Arm = Literal["own", "joint"]
LENS = Lens.of_angle(ANGLE, height=SIDE, width=SIDE)


class JointField(ConditionalField):
    """The baseline: both codes as one, beside the encoding and every layer, colours' too; nothing is bent."""

    def __init__(self, shape_dim: int, appearance_dim: int, *, generator: torch.Generator) -> None:
        """Draw the weights of a field of the usual size, its layers wider by the code."""
        super().__init__(shape_dim, appearance_dim, generator=generator)
        self.deformation = nn.Sequential()
        code = shape_dim + appearance_dim
        self.trunk = nn.ModuleList(_wider(one, code, generator) for one in self.trunk)
        self.view = _wider(self.view, shape_dim, generator)

    def forward(self, x: Float[Tensor, "*n 3"], view: Float[Tensor, "*m 3"], codes: Codes) -> Float[Tensor, "*n 4"]:
        """See ConditionalField."""
        z = torch.cat([codes.shape, codes.appearance], dim=-1)
        hidden = positional_encoding(x, self.freqs, include_input=False)
        for layer in self.trunk:
            hidden = beside(cast(nn.Linear, layer), hidden, z).relu()
        density, feature = self.density(hidden), self.feature(hidden)
        way = positional_encoding(F.normalize(view, dim=-1), self.view_freqs)
        way, z = (one.expand(*torch.broadcast_shapes(way.shape[:-1], z.shape[:-1]), -1) for one in (way, z))
        return torch.cat([self.rgb(beside(self.view, feature, torch.cat([way, z], dim=-1)).relu()), density], dim=-1)


def _wider(layer: Any, more: int, generator: torch.Generator) -> nn.Linear:
    made = nn.Linear(layer.in_features + more, layer.out_features)
    with torch.no_grad():
        nn.init.kaiming_uniform_(made.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(made.bias)
    return made


@dataclass(frozen=True, slots=True)
class SolidsBench:
    """Of a seed.

    Attributes:
        model: the CLIP that steers.
        judge: another one, which steers nothing.
        solids: of the scenes, 24 of the 32 combinations and eight of them twice.
        held_out: the other eight combinations.
        views: of the scenes.
        poses: others, from which edits are looked at.
    """

    model: Clip
    judge: Clip
    solids: list[Solid]
    held_out: list[Solid]
    views: PosedViews
    poses: Float[Tensor, "n 4 4"]


def prepare(lab: Lab) -> SolidsBench:
    """Scenes and models; each colour misses one shape, and each shape two colours."""
    draws = lab.generator("solids")
    combinations = [(shape, colour) for colour in COLOURS for shape in SHAPES]
    missing = {(SHAPES[(row + lab.seed) % len(SHAPES)], colour) for row, colour in enumerate(COLOURS)}
    shown = [one for one in combinations if one not in missing]
    again = [shown[row] for row in torch.randperm(len(shown), generator=draws)[:8].tolist()]
    sizes = (SIZES[0] + (SIZES[1] - SIZES[0]) * torch.rand(len(shown) + len(again), generator=draws)).tolist()
    solids = [Solid(shape, colour, size) for (shape, colour), size in zip(shown + again, sizes, strict=True)]
    poses = circle_of_poses(lab.steps(POSES), generator=draws)
    return SolidsBench(
        model=_clip(lab, 0),
        judge=_clip(lab, JUDGE),
        solids=solids,
        held_out=[Solid(*one) for one in combinations if one in missing],
        views=solid_views(solids, poses=poses, size=SIDE),
        poses=circle_of_poses(lab.steps(OTHER_POSES, 1), generator=draws),
    )


def _clip(lab: Lab, more: int) -> Clip:
    seed = lab.seed + more
    rows = lab.steps(2_048, 64)
    data = f"solids:size={SIDE},rows={rows},captions=several,seed={seed}"
    model = {"size": "tiny", "image_size": SIDE, "patch": 8, "context": 16}
    found = small_clip(lab, seed=seed, steps=200, data=data, settings={"model": model, "vocabulary": "used"})
    assert isinstance(found, Clip)
    return found


def learnt(lab: Lab, bench: SolidsBench, arm: Arm) -> tuple[FieldScenes, FieldEditor]:
    """Field, codes and maps of one way; both see the same pixels, poses, scenes and texts in the same order."""
    draws = lab.generator("field")
    own = arm == "own"
    field = ConditionalField(CODE, CODE, generator=draws) if own else JointField(CODE, CODE, generator=draws)
    scenes = FieldScenes(field, bench.views, march=March(samples=lab.steps(SAMPLES)), generator=draws)
    learn_scenes(scenes, bench.views, steps=lab.steps(FIELD_STEPS), rate=FIELD_RATE, seed=lab.seed)
    editor = FieldEditor(scenes, bench.model, seed=lab.seed)
    teach(lab, bench, editor, arm)
    return scenes, editor


def teach(lab: Lab, bench: SolidsBench, editor: FieldEditor, arm: Arm) -> None:
    """Maps: of shape and of appearance one after the other, or both at once as one map of the joint code."""
    for which in ("shape", "appearance") if arm == "own" else ("both",):
        steps = lab.steps(MAP_STEPS if arm == "own" else 2 * MAP_STEPS)
        texts = [_texts(bench, solid, which) for solid in bench.solids]
        editor.learn_(texts, which=which, steps=steps, images=IMAGES, height=MAP_SIDE, rate=RATES[arm], seed=lab.seed)


def _texts(bench: SolidsBench, solid: Solid, which: Which) -> list[str]:
    """Combinations that views show and an edit of this solid may ask for: its colour, its shape, or either."""
    shown = {(one.shape, one.colour): one.caption for one in bench.solids}
    return [
        caption
        for (shape, colour), caption in shown.items()
        if (colour == solid.colour and which != "appearance") or (shape == solid.shape and which != "shape")
    ]


@dataclass(frozen=True, slots=True)
class Edits:
    """Of all edits and looks; silhouettes are what stops more than half of a ray.

    Attributes:
        shape_iou: of edited silhouettes and the wanted solid's, for edits of shape.
        unedited: of the silhouettes before, and the wanted solid's.
        hue_shift: how far the mean colour's hue moves by an edit of shape, degrees.
        colour_right: edits of colour whose mean colour is nearest to the wanted one of the eight, percent.
        colour_iou: of silhouettes before and after an edit of colour.
        judged: edits of either kind that the other CLIP calls by the prompt, of all 32, percent.
    """

    shape_iou: float
    unedited: float
    hue_shift: float
    colour_right: float
    colour_iou: float
    judged: float


@torch.no_grad()
def edited(lab: Lab, bench: SolidsBench, scenes: FieldScenes, editor: FieldEditor, arm: Arm) -> Edits:
    """Ask for every combination that no view showed: by its shape, of scenes of its colour, and the other way round."""
    found: dict[str, list[float]] = {name: [] for name in Edits.__dataclass_fields__}
    images, wanted = list[Tensor](), list[str]()
    for asked in bench.held_out[: lab.steps(len(bench.held_out))]:
        for number in _sources(lab, bench, asked, "colour"):
            before, size = scenes.codes(number), bench.solids[number].size
            after = editor.edit(asked.caption, before, which="shape" if arm == "own" else "both")
            for pose in bench.poses:
                was, now = scenes.view(before, pose), scenes.view(after, pose)
                target = solid_view(Solid(asked.shape, asked.colour, size), pose, LENS).mask
                found["shape_iou"].append(_iou(now.silhouette, target))
                found["unedited"].append(_iou(was.silhouette, target))
                found["hue_shift"].append(_apart(_mean_colour(was), _mean_colour(now)))
                images.append(now.image)
                wanted.append(asked.caption)
        for number in _sources(lab, bench, asked, "shape"):
            before, size = scenes.codes(number), bench.solids[number].size
            after = editor.edit(asked.caption, before, which="appearance" if arm == "own" else "both")
            for pose in bench.poses:
                was, now = scenes.view(before, pose), scenes.view(after, pose)
                found["colour_iou"].append(_iou(was.silhouette, now.silhouette))
                found["colour_right"].append(
                    100.0 * (_nearest(_mean_colour(now), asked.shape, size, pose) == asked.colour)
                )
                images.append(now.image)
                wanted.append(asked.caption)
    names = [Solid(shape, colour).caption for shape in SHAPES for colour in COLOURS]
    rows = F.normalize(encode_images(bench.judge, [(torch.stack(images) * 255).round().to(torch.uint8)]), dim=1)
    called = (rows @ unit_texts(bench.judge, names).T).argmax(dim=1).tolist()
    found["judged"] = [100.0 * (names[one] == want) for one, want in zip(called, wanted, strict=True)]
    return Edits(**{name: sum(values) / len(values) for name, values in found.items()})


def _sources(lab: Lab, bench: SolidsBench, asked: Solid, same: Literal["colour", "shape"]) -> list[int]:
    rows = [number for number, one in enumerate(bench.solids) if getattr(one, same) == getattr(asked, same)]
    order = torch.randperm(len(rows), generator=lab.generator(f"sources {asked.caption} {same}")).tolist()
    return [rows[place] for place in order[: lab.steps(SOURCES, 1)]]


def _iou(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def _mean_colour(view: Any) -> Float[Tensor, " 3"]:
    """Of the silhouette; of the darkest pixels where there is none."""
    mask = view.silhouette if bool(view.silhouette.any()) else view.acc >= view.acc.max()
    return view.image[:, mask].mean(dim=1)


def _apart(one: Tensor, other: Tensor) -> float:
    """Degrees between hues."""
    first, second = (360 * colorsys.rgb_to_hsv(*colour.tolist())[0] for colour in (one, other))
    return abs((first - second + 180) % 360 - 180)


def _nearest(colour: Tensor, shape: Any, size: float, pose: Tensor) -> str:
    """The colour in which a solid's mean is nearest."""
    drawn = {name: solid_view(Solid(shape, name, size), pose, LENS) for name in COLOURS}
    means = {name: one.pixels[:, one.mask].float().mean(dim=1) / 255 for name, one in drawn.items()}
    return min(means, key=lambda name: float((means[name] - colour).norm()))


def inverted(lab: Lab, bench: SolidsBench, scenes: FieldScenes) -> dict[str, float]:
    """Decibels of views of known scenes from unseen poses, as found from the mean of all codes, and before."""
    rows = torch.randperm(len(bench.solids), generator=lab.generator("inverted"))[: lab.steps(INVERTED, 1)].tolist()
    found: dict[str, list[float]] = {"inversion": [], "inversion_start": [], "inversion_known": []}
    for place, number in enumerate(rows):
        pose = bench.poses[place % len(bench.poses)]
        image = solid_view(bench.solids[number], pose, LENS).pixels.float() / 255
        one = invert_view(scenes, image, steps=lab.steps(INVERT_STEPS), seed=lab.seed)
        with torch.no_grad():
            start = invert_start(scenes, image)
            known = scenes.view(scenes.codes(number), pose).image
        found["inversion"].append(one.psnr)
        found["inversion_start"].append(_psnr(start, image))
        found["inversion_known"].append(_psnr(known, image))
    return {name: sum(values) / len(values) for name, values in found.items()}


def invert_start(scenes: FieldScenes, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """What the inversion begins with."""
    from tether.methods.clip_nerf.invert import nearest_pose

    return scenes.view(scenes.mean_codes(), nearest_pose(scenes, scenes.mean_codes(), image)).image


def _psnr(one: Tensor, other: Tensor) -> float:
    return -10 * math.log10(max(float((one - other).square().mean()), 1e-10))
