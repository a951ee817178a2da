"""Short clips of a thing that moves, whose thing is replaced by words and a reference image: Cut-and-Paste's check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from tether.data.sets.scenes import Scene, Thing, render
from tether.data.sets.scenes.captions import PLACES
from tether.data.sets.scenes.world import Dice
from tether.generation.diffuse.text_diffusion import TextDiffusion
from tether.methods.cut_and_paste.reference import ReferencePrompt, train_referenced
from tether.methods.cut_and_paste.video import EditResult, VideoEditor
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds import in_memory
from tether_lab.worlds.made_scenes import COLOURS, GROUNDS, SHAPES, filled, scene_clip, write_net

SIDE, DRAWN, SEEN = 16, 64, 32
"""Pixels of a frame, of a scene as it is drawn, and of a reference image as the encoder sees it."""
FRAMES, CLIPS, SCENES = 5, 8, 3_000
CHANNELS, PLAIN, STEPS, BATCH, RATE = (32, 64), 1, 1_500, 16, 2e-3
"""Of the diffusion, whose maps of attention have 8 x 8 pixels."""
SAMPLING = 25
SPEEDS, SWEPT = (0, 1, 2), 4
"""Pixels a frame, and clips of each speed but the second, which is the check's."""
CROP, CLASSIFIER_STEPS = 16, 300


@dataclass(frozen=True, slots=True)
class EditedClip:
    """One clip and its edit.

    Attributes:
        frames: (f, 3, 16, 16) in -1 to 1.
        things: (f, 16, 16) where the moving thing is.
        speed: pixels to the right a frame.
        said: what it shows, and what it shall show.
        word: of the first that names what is replaced.
        reference: (3, 32, 32) the new thing alone.
        labels: (2,) numbers of the new colour and shape.
    """

    frames: Float[Tensor, "f 3 h w"]
    things: Bool[Tensor, "f h w"]
    speed: int
    said: tuple[str, str]
    word: str
    reference: UInt8[Tensor, "3 s s"]
    labels: Int[Tensor, " 2"]


@dataclass(frozen=True, slots=True)
class ClipBench:
    """What all ways of a seed share.

    Attributes:
        diffusion: trained on single frames.
        references: trained with it.
        clips: at speed 1.
        judge: colour and shape of the thing in a crop; it steers nothing.
    """

    diffusion: TextDiffusion
    references: ReferencePrompt
    clips: list[EditedClip]
    judge: CropClassifier


class CropClassifier(nn.Module):
    """Colour and shape of the thing in a crop of 16 px."""

    def __init__(self) -> None:
        """Two convolutions that halve, and a layer."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(64 * (CROP // 4) ** 2, len(COLOURS) + len(SHAPES)),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, Tensor]:
        """Logits of colours and of shapes."""
        colour, shape = self.net(x).split([len(COLOURS), len(SHAPES)], dim=1)
        return colour, shape


def prepare(lab: Lab) -> ClipBench:
    """A diffusion with its map of references, from the cache, a judge, and clips."""
    dice = in_memory.dice_of(lab, "train", salt="edited clips")
    scenes = [drawn_scene(dice) for _ in range(lab.steps(SCENES, 32))]
    shown = [shot(scene) for scene in scenes]
    pixels = torch.stack([one for one, _ in shown])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lab.seed)
        diffusion = TextDiffusion(scene_clip(lab), size=SIDE, channels=CHANNELS, plain=PLAIN)
        judge = CropClassifier()
    references = ReferencePrompt(diffusion, seed=lab.seed)

    def make(folder: Path) -> None:
        folder.mkdir()
        alone = torch.stack([reference_of(scene.things[0]) for scene in scenes])
        train_referenced(
            diffusion, references, pixels, [[said(scene)] for scene in scenes], alone, steps=lab.steps(STEPS),
            batch_size=BATCH, learning_rate=RATE, seed=lab.seed,
        )  # fmt: skip
        write_net(nn.ModuleList([diffusion, references]), folder / "net")

    facts = [lab.seed, lab.smoke, SCENES, CHANNELS, PLAIN, STEPS, BATCH, RATE]
    folder = cached_model("edited-clips", made_by=Path(__file__), facts=facts, make=make)
    filled(nn.ModuleList([diffusion, references]), folder / "net").requires_grad_(False)
    teach(lab, judge, in_range(pixels), torch.stack([mask for _, mask in shown]), [one.things[0] for one in scenes])
    return ClipBench(diffusion, references, clips(lab, speed=1, count=lab.steps(CLIPS, 1)), judge)


def drawn_scene(dice: Dice) -> Scene:
    """A large thing and a small one of other colour and shape, one in the upper and one in the lower half."""
    colours, shapes = dice.shuffled(COLOURS), dice.shuffled(SHAPES)
    low = dice.chance(0.5)
    large = _thing(dice, colours[0], shapes[0], units=26, x=dice.uniform(0.22, 0.78), y=0.7 if low else 0.3)
    small = _thing(dice, colours[1], shapes[1], units=13, x=dice.uniform(0.12, 0.88), y=0.14 if low else 0.86)
    return Scene((large, small), dice.pick(GROUNDS), dice.below(4))


def _thing(dice: Dice, colour: str, shape: str, *, units: int, x: float, y: float) -> Thing:
    size = "large" if units > 20 else "small"
    return Thing(shape, colour, size, "plain", "whole", x, y, units, shade=dice.uniform(-1, 1))


def said(scene: Scene) -> str:
    """Both things and the ground."""
    large, small = (f"a {thing.colour} {thing.shape}" for thing in scene.things)
    return f"{large} and {small} {PLACES[scene.background]}"


def shot(scene: Scene) -> tuple[UInt8[Tensor, "3 h w"], Bool[Tensor, "h w"]]:
    """A scene as a frame, and where its first thing is: at least a quarter of a pixel."""
    drawn = render(scene, size=DRAWN)
    pixels = torch.from_numpy(drawn.pixels).permute(2, 0, 1)[None].float()
    mask = torch.from_numpy(drawn.mask(0)).float()[None, None]
    return (
        F.avg_pool2d(pixels, DRAWN // SIDE)[0].round().to(torch.uint8),
        F.avg_pool2d(mask, DRAWN // SIDE)[0, 0] >= 0.25,
    )


def reference_of(thing: Thing) -> UInt8[Tensor, "3 s s"]:
    """A thing alone, in the middle of a white ground."""
    alone = Thing(thing.shape, thing.colour, "huge", "plain", "whole", 0.5, 0.5, 36)
    pixels = torch.from_numpy(render(Scene((alone,), "paper"), size=DRAWN).pixels).permute(2, 0, 1)[None].float()
    return F.avg_pool2d(pixels, DRAWN // SEEN)[0].round().to(torch.uint8)


def in_range(pixels: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
    """Pixels in -1 to 1."""
    return pixels.float().div(127.5).sub(1)


def clips(lab: Lab, *, speed: int, count: int) -> list[EditedClip]:
    """Clips of scenes that were not trained on; the large thing goes to the right and gets another colour and shape."""
    dice, found = in_memory.dice_of(lab, f"clips {speed}", salt="edited clips"), list[EditedClip]()
    for _ in range(count):
        scene = drawn_scene(dice)
        large, small = scene.things
        taken = {large.colour, small.colour}
        colour = dice.pick([one for one in COLOURS if one not in taken])
        shape = dice.pick([one for one in SHAPES if one not in (large.shape, small.shape)])
        moved = [_at(large, at * speed) for at in range(FRAMES)]
        shots = [shot(Scene((one, small), scene.background, scene.variant)) for one in moved]
        new = Thing(shape, colour, "large", "plain", "whole", 0.5, 0.5, large.units)
        found.append(
            EditedClip(
                in_range(torch.stack([pixels for pixels, _ in shots])),
                torch.stack([mask for _, mask in shots]),
                speed,
                (said(scene), said(Scene((new, small), scene.background))),
                f"{large.colour} {large.shape}",
                reference_of(new),
                torch.tensor([COLOURS.index(colour), SHAPES.index(shape)]),
            )
        )
    return found


def _at(thing: Thing, pixels: int) -> Thing:
    x = 0.21 + pixels / SIDE
    return Thing(thing.shape, thing.colour, thing.size, "plain", "whole", x, thing.y, thing.units, shade=thing.shade)


def crops(images: Float[Tensor, "n 3 h w"], masks: Bool[Tensor, "n h w"]) -> Float[Tensor, "n 3 c c"]:
    """What lies in the box around each mask, a pixel more on each side, enlarged."""
    found = []
    for image, mask in zip(images, masks, strict=True):
        rows, columns = (mask.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        top, left = max(0, int(rows[0]) - 1), max(0, int(columns[0]) - 1)
        part = image[:, top : int(rows[-1]) + 2, left : int(columns[-1]) + 2]
        found.append(F.interpolate(part[None], size=(CROP, CROP), mode="bilinear", align_corners=False)[0])
    return torch.stack(found)


def teach(lab: Lab, judge: CropClassifier, images: Tensor, masks: Tensor, things: Sequence[Thing]) -> None:
    """The judge learns crops of the scenes that the diffusion learns."""
    x = crops(images, masks)
    labels = torch.tensor([(COLOURS.index(one.colour), SHAPES.index(one.shape)) for one in things])
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3)
    rows = in_memory.draws(len(x), size=64, generator=lab.generator("judge"), repeats=True)
    for _, some in zip(range(lab.steps(CLASSIFIER_STEPS)), rows, strict=False):
        optimizer.zero_grad()
        shown = x[some] + 0.1 * torch.randn(x[some].shape, generator=lab.generator(f"noise {int(some[0])}"))
        losses = [F.cross_entropy(logits, labels[some, k]) for k, logits in enumerate(judge(shown))]
        torch.stack(losses).sum().backward()
        optimizer.step()
    judge.eval().requires_grad_(False)


def editor(bed: ClipBench, **settings: Any) -> VideoEditor:
    """One of a few steps; blending is off where it is not asked for."""
    given: dict[str, Any] = {"steps": SAMPLING, "blending": False, **settings}
    return VideoEditor(bed.diffusion, bed.references, **given)


def edited(bed: ClipBench, **settings: Any) -> dict[str, float]:
    """All clips edited.

    Returns:
        ``psnr`` of what lies a pixel or more from the thing, in decibels; ``colour`` and ``shape`` of the thing's
        place that are the new ones, percent; ``flicker``, see ``flicker_of``.
    """
    found = [_figures(bed, clip, editor(bed, **settings)) for clip in bed.clips]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def _figures(bed: ClipBench, clip: EditedClip, used: VideoEditor) -> dict[str, float]:
    made: EditResult = used.edit(clip.frames, *clip.said, word=clip.word, reference=clip.reference)
    near = F.max_pool2d(clip.things[:, None].float(), 3, stride=1, padding=1).expand_as(made.frames) > 0
    error = (made.frames - clip.frames)[~near].square().mean().clamp(min=1e-8)
    found = torch.stack([one.argmax(dim=1) for one in bed.judge(crops(made.frames, clip.things))], dim=1)
    colour, shape = (100 * (found == clip.labels).float().mean(dim=0)).tolist()
    psnr = float(10 * torch.log10(4 / error))
    return {"psnr": psnr, "colour": colour, "shape": shape, "flicker": flicker_of(made.masks, speed=clip.speed)}


def flicker_of(masks: Bool[Tensor, "f h w"], *, speed: int) -> float:
    """How much of a mask is not the one of the frame before, moved with the thing: in percent of the mean mask."""
    width = masks.shape[2] - speed
    before, now = masks[:-1, :, :width], masks[1:, :, speed:]
    return 100 * float((before ^ now).float().sum()) / max(1.0, float(masks[1:].float().sum()))


def overlap(masks: Bool[Tensor, "f h w"], things: Bool[Tensor, "f h w"]) -> float:
    """Intersection over union with the thing, the mean of frames, in percent."""
    both, either = ((a.float().sum(dim=(1, 2))) for a in (masks & things, masks | things))
    return 100 * float((both / either.clamp(min=1)).mean())


def swept(lab: Lab, bed: ClipBench) -> dict[str, float]:
    """Masks with fused maps less those without, at each speed: overlap with the thing, and flicker."""
    notes = dict[str, float]()
    for speed in SPEEDS:
        some = clips(lab, speed=speed, count=lab.steps(SWEPT, 1))
        figures = {}
        for fuse in (0.5, 0.0):
            used = editor(bed, fuse=fuse)
            masks = [used.masks(clip.frames, clip.said[0], word=clip.word) for clip in some]
            figures[fuse] = (
                sum(overlap(mask, clip.things) for mask, clip in zip(masks, some, strict=True)) / len(some),
                sum(flicker_of(mask, speed=speed) for mask in masks) / len(some),
            )
        for name, one, other in zip(("overlap", "flicker"), figures[0.5], figures[0.0], strict=True):
            notes[f"{name}_gain_{speed}"] = one - other
        notes[f"overlap_{speed}"] = figures[0.5][0]
    return notes
