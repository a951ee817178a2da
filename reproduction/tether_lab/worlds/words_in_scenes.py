"""Words that name a thing in their scene, as crops and as smudges in drawn scenes, and readers that go on with both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from tether.data.lettering.signs import lexicon
from tether.data.sets.scenes import Scene
from tether.models.towers.clip import Clip
from tether.tasks.read import DualReader, SceneReader
from tether_lab.lab.lab import Lab
from tether_lab.lab.trace import saw
from tether_lab.worlds import drawn_shapes, drawn_words, in_memory
from tether_lab.worlds.drawn_shapes import COLOURS, DRAWN, SHAPES
from tether_lab.worlds.drawn_words import right

BLUR = {"clean": 0.0, "light": 2.0, "heavy": 5.0}
"""Standard deviation in pixels of a crop 8 pixels high, by grade."""
NAMES = (*COLOURS, *SHAPES)
LISTED = 40
"""Words of the list: colours, shapes, and others that are true of nothing."""
TIED = 0.8
"""How often a word is the colour or the shape of the thing beside it; else it is any word of the list."""
LETTER = 3
"""Pixels of a letter in the drawn scene, which is then made smaller still."""
READER = {"crops": 6_000, "clip_steps": 300, "steps": 450, "rate": 4e-3, "perms": 4, "dropout": 0.0}
"""Of the reader that both arms go on from: crops of the list in all grades."""
TRAIN, TEST, STEPS, BATCH = 2_000, 500, 150, 64
CROPS_RATE, SCENES_RATE, FUSION_RATE = 4e-3, 2e-3, 10.0
"""Learning rate of each arm, and how many times faster the fusion learns, by the pilots."""


@dataclass(frozen=True, slots=True)
class SceneWords:
    """Words, as crops in all grades and in their scenes.

    Attributes:
        words: one a scene.
        crops: by grade, (n, 3, 8, 64) each.
        scenes: (n, 3, 48, 48) as the scene encoder sees them.
        blank: the same with nothing but paper where the word stands.
    """

    words: tuple[str, ...]
    crops: dict[str, UInt8[Tensor, "n 3 h w"]]
    scenes: UInt8[Tensor, "n 3 s s"]
    blank: UInt8[Tensor, "n 3 s s"]


def word_list(lab: Lab) -> tuple[str, ...]:
    """All words of a seed."""
    others = [word for word in lexicon(2 * LISTED, longest=drawn_words.LONGEST, seed=lab.seed) if word not in NAMES]
    return (*NAMES, *others[: LISTED - len(NAMES)])


def scene_words(lab: Lab, name: str, *, count: int, tied: float = TIED, mixed: bool = False) -> SceneWords:
    """Scenes of one or two things with a word beside the first.

    Args:
        lab: seed.
        name: of the draws.
        count: of scenes.
        tied: how often the word is true of that thing.
        mixed: one crop of each word, of any grade, under the name ``mixed``; else one of each grade.
    """
    dice, rng = in_memory.dice_of(lab, name, salt="scene words"), drawn_words.generator_of(lab, name)
    world, listed = drawn_shapes.shape_world((1, 2)), word_list(lab)
    scenes = [world.draw(dice) for _ in range(count)]
    words = []
    for scene in scenes:
        thing = scene.things[0]
        words.append(dice.pick((thing.colour, thing.shape)) if dice.chance(tied) else dice.pick(listed))
    grades = {grade: drawn_words.draw_words(words, rng=rng, blur=blur) for grade, blur in BLUR.items()}
    if mixed:
        drawn = rng.integers(0, len(BLUR), count)
        grades = {"mixed": torch.stack([[*grades.values()][grade][row] for row, grade in enumerate(drawn)])}
    pixels = in_memory.drawn(scenes, size=DRAWN)
    written, blank = pixels.clone(), pixels.clone()
    signs = drawn_words.draw_words(words, rng=rng)
    for row, (scene, word) in enumerate(zip(scenes, words, strict=True)):
        sign = signs[row][:, :, : drawn_words.CELL * len(word)].float()
        high, wide = LETTER + 1, LETTER * len(word)
        small = F.interpolate(sign[None], (high, wide), mode="area")[0].round().to(torch.uint8)
        top, left = _beside(scene, high=high, wide=wide)
        written[row, :, top : top + high, left : left + wide] = small
        blank[row, :, top : top + high, left : left + wide] = 128
    return SceneWords(
        tuple(words),
        grades,
        torch.stack([drawn_shapes.seen(one) for one in written]),
        torch.stack([drawn_shapes.seen(one) for one in blank]),
    )


def _beside(scene: Scene, *, high: int, wide: int) -> tuple[int, int]:
    """Top and left of a word under the first thing of a scene, or above it where there is no room."""
    thing = scene.things[0]
    radius = thing.units / 128
    below = thing.y + radius < 1 - high / DRAWN
    middle = thing.y + radius if below else thing.y - radius - high / DRAWN
    top = round(middle * DRAWN)
    return min(max(top, 0), DRAWN - high), min(max(round(thing.x * DRAWN - wide / 2), 0), DRAWN - wide)


def taught_reader(lab: Lab) -> DualReader:
    """The reader that both arms go on from; from the user's cache after the first call."""

    def make() -> DualReader:
        rng, count = drawn_words.generator_of(lab, "reader"), lab.steps(READER["crops"], 96)
        listed = word_list(lab)
        words = [listed[place] for place in rng.integers(0, len(listed), count)]
        parts = np.array_split(np.arange(count), len(BLUR))
        crops = torch.cat(
            [
                drawn_words.draw_words([words[row] for row in rows], rng=rng, blur=blur)
                for rows, blur in zip(parts, BLUR.values(), strict=True)
            ]
        )
        clip = drawn_words.word_clip(lab, "scene words", crops, words, steps=READER["clip_steps"])
        reader = DualReader(
            clip,
            charset=drawn_words.LETTERS,
            max_length=drawn_words.LONGEST,
            heads=4,
            perms=READER["perms"],
            dropout=READER["dropout"],
            decoder_rate=1.0,
            text_length=8,
            seed=lab.seed,
        )
        return reader.fit(
            crops,
            words,
            steps=lab.steps(READER["steps"]),
            batch_size=BATCH,
            learning_rate=READER["rate"],
            seed=lab.seed,
        )

    return drawn_words.kept_reader(lab, "scene-words", facts=[READER, BLUR, LISTED], make=make)


@dataclass(frozen=True, slots=True)
class Arms:
    """Both readers after as many steps.

    Attributes:
        start: the reader that both went on from.
        closed: that reader with the fusion, before it learnt.
        crops: went on with crops alone.
        scenes: went on with crops and scenes.
        gate: |tanh alpha| after each step.
    """

    start: DualReader
    closed: SceneReader
    crops: DualReader
    scenes: SceneReader
    gate: tuple[float, ...]


def crops_arm(lab: Lab, start: DualReader, train: SceneWords) -> DualReader:
    """The reader after it went on with crops alone."""
    return copy.deepcopy(start).fit(train.crops["mixed"], train.words, **_settings(lab, CROPS_RATE))


def scenes_arm(
    lab: Lab,
    closed: SceneReader,
    train: SceneWords,
    *,
    on_step: Callable[[SceneReader], None] = lambda reader: None,
) -> SceneReader:
    """The reader after it went on with crops and scenes; ``on_step`` is shown it after each step."""
    reader = copy.deepcopy(closed)
    return reader.fit(
        train.crops["mixed"],
        train.words,
        scenes=train.scenes,
        on_step=lambda report: on_step(reader),
        **_settings(lab, SCENES_RATE),
    )


def _settings(lab: Lab, rate: float) -> dict[str, Any]:
    return {"steps": lab.steps(STEPS), "batch_size": BATCH, "learning_rate": rate, "seed": lab.seed}


def both_arms(lab: Lab, clip: Clip) -> Arms:
    """Let the reader go on in both ways."""
    start, gate = taught_reader(lab), list[float]()
    train = scene_words(lab, "train", count=lab.steps(TRAIN, 64), mixed=True)
    closed = SceneReader(start, clip, heads=4, fusion_rate=FUSION_RATE, seed=lab.seed)
    scenes = scenes_arm(
        lab, closed, train, on_step=lambda reader: gate.append(float(reader.fusion.alpha.detach().tanh().abs()))
    )
    return Arms(start, closed, crops_arm(lab, start, train), scenes, tuple(gate))


def share_right(
    reader: DualReader | SceneReader,
    test: SceneWords,
    *,
    grade: str,
    scenes: UInt8[Tensor, "n 3 s s"] | None = None,
) -> float:
    """Words read right, in percent."""
    crops = test.crops[grade]
    found = reader.read(crops) if isinstance(reader, DualReader) else reader.read(crops, scenes=scenes)
    saw(torch.as_tensor(found.confidence))
    return right(found.words, test.words)


def shuffled(images: UInt8[Tensor, "n 3 s s"]) -> UInt8[Tensor, "n 3 s s"]:
    """Each scene at another word."""
    return images.roll(len(images) // 2, dims=0)


def same(arms: Arms, test: SceneWords) -> float:
    """Share of crops that the closed gate reads as the reader did, word and confidence, bit for bit."""
    total = equal = 0
    for crops in test.crops.values():
        plain, closed = arms.start.read(crops), arms.closed.read(crops, scenes=test.scenes)
        pairs = zip(plain.words, closed.words, plain.confidence == closed.confidence, strict=True)
        equal += sum(one == other and bool(sure) for one, other, sure in pairs)
        total += len(crops)
    return equal / total
