"""Small makers of scenes for VAR-CLIP's check: scale by scale, in raster order, and what is judged of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tether.generation.autoregress.generator import VarGenerator
from tether.generation.autoregress.sampling import draw, sample
from tether.generation.autoregress.transformer import LevelTransformer, Memory
from tether.generation.training import train_generator
from tether.models.towers.clip import Clip
from tether.training.codec_training import train_codec
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.lab.trace import saw
from tether_lab.worlds import in_memory
from tether_lab.worlds.made_scenes import (
    SIDE,
    ToldThings,
    classifier,
    filled,
    prompts,
    scene_clip,
    things,
    write_net,
)

CODEC: dict[str, Any] = {"size": SIDE, "channels": 16, "vocab": 256, "codec_width": 32}
SCENES, CODEC_STEPS, CODEC_BATCH, CODEC_RATE = 4_000, 500, 16, 2e-3
SIDE_CODES = 8
"""Of the last scale."""
SIZES: dict[str, Any] = {"width": 128, "depth": 4, "heads": 4}
STEPS, BATCH, RATE, DECAY, GRAD_CLIP = 300, 24, 2e-3, 0.05, 2.0
IMAGES, CFG = 4, 2.0
"""Images made of each prompt, and the guidance that is claimed."""
CALLS = 25


def new_maker(lab: Lab, clip: Clip, told: ToldThings) -> VarGenerator:
    """A maker whose codec is trained, kept in the user's cache, and whose transformer is not."""
    maker = VarGenerator(clip, **CODEC, **SIZES, seed=lab.seed)

    def make(folder: Path) -> None:
        folder.mkdir()
        steps = lab.steps(CODEC_STEPS)
        train_codec(
            maker.codec, told.pixels, steps=steps, batch_size=CODEC_BATCH, learning_rate=CODEC_RATE, seed=lab.seed
        )
        write_net(maker.codec, folder / "net")

    facts = [lab.seed, lab.smoke, SCENES, CODEC, CODEC_STEPS, CODEC_BATCH, CODEC_RATE]
    folder = cached_model("made-scenes-codec", made_by=Path(__file__), facts=facts, make=make)
    filled(maker.codec, folder / "net").requires_grad_(False)
    return maker.eval()


def taught_maker(lab: Lab, maker: VarGenerator, told: ToldThings) -> VarGenerator:
    """Its transformer trained on codewords of scenes."""
    train_generator(
        maker, told.pixels, [[text] for text in told.texts], steps=lab.steps(STEPS), batch_size=BATCH,
        learning_rate=RATE, weight_decay=DECAY, grad_clip=GRAD_CLIP, seed=lab.seed,
    )  # fmt: skip
    return maker


@dataclass(frozen=True, slots=True)
class JudgedImages:
    """Of images of the 48 texts, in percent.

    Attributes:
        colour: that the classifier calls by the text's colour.
        shape: likewise.
        found: whose text is the nearest of all 48 for the second CLIP.
    """

    colour: float
    shape: float
    found: float


def judged(lab: Lab, made: Float[Tensor, "n 3 h w"]) -> JudgedImages:
    """Images of all texts, ``IMAGES`` of each in turn."""
    saw(made)
    texts, labels = prompts()
    colour, shape = classifier(lab).right(made, labels.repeat_interleave(IMAGES, dim=0))
    pixels = ((made + 1) * 127.5).round_().to(torch.uint8)
    image, text = in_memory.unit_pairs(scene_clip(lab, judge=True), pixels, texts)
    own = torch.arange(len(texts)).repeat_interleave(IMAGES)
    return JudgedImages(colour, shape, in_memory.percent((image @ text.T).argmax(dim=1) == own))


def made_of_texts(lab: Lab, maker: VarGenerator, *, cfg: float) -> Float[Tensor, "n 3 h w"]:
    """Images of all texts, the same draws whatever the guidance."""
    rows = maker.cond([text for text in prompts()[0] for _ in range(IMAGES)])
    return maker.of_rows(rows, generator=lab.generator("images"), cfg=cfg)


def made_of_nothing(lab: Lab, maker: VarGenerator) -> Float[Tensor, "n 3 h w"]:
    """As many images of the row that stands for no text."""
    rows = maker.transformer.null.detach().expand(IMAGES * len(prompts()[0]), -1)
    return maker.of_rows(rows, generator=lab.generator("images"), cfg=0.0)


class RasterOrder:
    """One codeword after the other, row by row, by the same transformer: the usual order, keys and values kept."""

    def __init__(self, lab: Lab, maker: VarGenerator) -> None:
        """A transformer of the same size; it is not trained, as only its time is asked for."""
        self.places, self.table = SIDE_CODES**2, maker.quantizer.codewords.detach()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(lab.seed)
            self.transformer = LevelTransformer(
                cond_dim=maker.transformer.cond_dim, lengths=(1,) * self.places, vocab=len(self.table),
                told=self.table.shape[1], **SIZES,
            ).eval()  # fmt: skip

    @torch.no_grad()
    def sample(self, cond: Float[Tensor, "b d"], *, cfg: float, rng: torch.Generator) -> Float[Tensor, "b c h w"]:
        """Features of new images, guided alike at all places."""
        both = torch.cat([cond, self.transformer.null.expand(len(cond), -1)])
        about, memory, told, found = self.transformer.about(both), Memory(), None, list[Tensor]()
        for place in range(self.places):
            logits = self.transformer.step(about, told, level=place, memory=memory)
            with_text, without = logits.chunk(2)
            found.append(self.table[draw((1 + cfg) * with_text - cfg * without, rng=rng)])
            told = found[-1].repeat(2, 1, 1)
        return torch.cat(found, dim=1).transpose(1, 2).unflatten(2, (SIDE_CODES, SIDE_CODES))


def speedups(lab: Lab, maker: VarGenerator) -> dict[str, float]:
    """Processor time of drawing codewords in raster order over that of drawing them scale by scale.

    Both in turn, after one call of each, with guidance: one image at a time, and 48 at once; 0 in a smoke run, whose
    figures must not move.
    """
    if lab.smoke:
        return {"speedup": 0.0, "speedup_48": 0.0}
    raster, rows, rng = RasterOrder(lab, maker), maker.cond(prompts()[0]), lab.generator("time")
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda some: raster.sample(some, cfg=CFG, rng=rng),
        lambda some: sample(maker.transformer, maker.quantizer, some, cfg=CFG, rng=rng),
    ]
    found = {}
    for name, some, calls in (("speedup", rows[:1], CALLS), ("speedup_48", rows, 1)):
        by_raster, by_scale = in_memory.seconds_in_turn(ways, some, calls=calls)
        found[name] = by_raster / by_scale
    return found


def rebuilt(lab: Lab, maker: VarGenerator) -> dict[str, float]:
    """What the codec keeps of held-out scenes of all pairs, and how many codewords it uses: the makers' ceiling."""
    shown = things(lab, "rebuilt", count=lab.steps(500, 16), every=True)
    with torch.no_grad():
        ids = maker.codec.ids(shown.pixels)
        colour, shape = classifier(lab).right(maker.codec.shown(ids), shown.labels)
    used = float(len(torch.cat(ids, dim=1).unique()))
    return {"colour_rebuilt": colour, "shape_rebuilt": shape, "codewords_used": used}
