"""A CLIP on the latents of a small codec beside one on pixels, and noise that is moved towards what a text says."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.generate import NormRegularizer, PromptReward, optimize_noise
from tether.generate.noise import NoiseResult
from tether.models.dual import Clip
from tether.models.embed import encode_images
from tether.models.latent.clip import hold_codec_
from tether.models.latent.codec import ConvCodec, KlBottleneck, ScaledCodec
from tether.models.latent.codecs import load_codec, save_codec
from tether.models.latent.tower import tower_on_latents
from tether.papers.reproduction.model_cache import cached_model
from tether.papers.testbeds.plain_scenes import (
    RATE,
    SCENES,
    SIDE,
    ToldScenes,
    named,
    new_clip,
    pixel_clip,
    taught,
    things_called,
    told_scenes,
)
from tether.train.codec_training import train_codec
from tether.train.kept_latents import keep_latents_

if TYPE_CHECKING:
    from tether.papers.reproduction.lab import Lab

PATCH, STEPS = 16, 600
CHANNELS, DOWNSAMPLING, WIDTH = 4, 4, 16
CODEC_STEPS, CODEC_BATCH, CODEC_RATE = 250, 16, 3e-3
HELD_OUT = 1_000
MAKER_WIDTH, MAKER_STEPS, MAKER_BATCH, MAKER_RATE, MAKER_PENALTY = 64, 250, 64, 2e-3, 0.1
PROMPTS, MOVES, DRAWS = 50, 50, 150
"""Texts, iterations of each, and draws that cost as much: an iteration has a forward and a backward of twice that."""
CALLS, AT_ONCE = 10, 64


@dataclass(frozen=True, slots=True)
class LatentBench:
    """Of a seed.

    Attributes:
        codec: at rest.
        pixels: the CLIP on pixels, which never saw an image of the codec.
        latents: the CLIP on latents, with the codec.
        held_out: other scenes, of one thing.
    """

    codec: ScaledCodec
    pixels: Clip
    latents: Clip
    held_out: ToldScenes


def prepare(lab: Lab, *, rate: float = RATE, pixel_rate: float = RATE) -> LatentBench:
    """Train codec and models on the same scenes."""
    told = told_scenes(lab, "train", count=lab.steps(SCENES, 32))
    codec = small_codec(lab, told)
    return LatentBench(
        codec,
        pixel_clip(lab, steps=STEPS, rate=pixel_rate, patch=PATCH),
        latent_clip(lab, codec, told, rate=rate),
        told_scenes(lab, "held out", count=lab.steps(HELD_OUT, 32), things=(1, 1)),
    )


def small_codec(lab: Lab, told: ToldScenes) -> ScaledCodec:
    """Trained at the first call of a seed, then read from the user's cache."""

    def make(folder: Path) -> None:
        folder.mkdir()
        codec = ConvCodec(channels=CHANNELS, downsampling=DOWNSAMPLING, width=WIDTH, seed=lab.seed)
        steps = lab.steps(CODEC_STEPS)
        train_codec(codec, told.pixels, steps=steps, batch_size=CODEC_BATCH, learning_rate=CODEC_RATE, seed=lab.seed)
        save_codec(codec, folder / "codec.safetensors")

    known = cached_model("scenes-codec", made_by=Path(__file__), facts=[lab.seed, lab.smoke], make=make)
    return load_codec(known / "codec.safetensors")


def latent_clip(lab: Lab, codec: ScaledCodec, told: ToldScenes, *, rate: float = RATE) -> Clip:
    """A CLIP that differs from the one on pixels in what its patches are cut from, as ``model.codec=FILE`` makes it."""
    model = new_clip(lab.seed, patch=PATCH, vision={"tower": "latent", "latent": codec.latent})
    hold_codec_(model, codec)
    keep_latents_(model, against=None)  # as a run does, whose images are the same each time
    taught(lab, model, told, steps=STEPS, rate=rate)
    tower_on_latents(model).kept = None
    return model


def zero_shot(model: Clip, told: ToldScenes) -> dict[str, float]:
    """How often a model names shape, colour and size of single things right, from their pixels."""
    return named(model, told, F.normalize(encode_images(model, told.pixels.split(256)), dim=1))


@torch.inference_mode()
def codec_error(codec: ScaledCodec, told: ToldScenes) -> float:
    """Mean absolute error of held-out images made again, in steps of 255."""
    off = codec.decode(codec.encode(told.pixels)) - told.pixels.float().div(127.5).sub(1)
    return 127.5 * float(off.abs().mean())


@torch.inference_mode()
def speedup(lab: Lab, bed: LatentBench) -> float:
    """Processor time of scoring latents by the decoder and the model on pixels, over that of scoring them as they are.

    Both ways in turn, after one call of each; 0 in a smoke run, whose figures must not move.
    """
    if lab.smoke:
        return 0.0
    some = bed.codec.encode(bed.held_out.pixels[:AT_ONCE])
    text = bed.held_out.texts[0]
    ways: list[Callable[[Tensor], Tensor]] = [
        PromptReward(bed.latents, text),
        PromptReward(bed.pixels, text, through=bed.codec),
    ]
    spent = [0.0, 0.0]
    for call in range(CALLS + 1):
        for place, way in enumerate(ways):
            begun = time.process_time()
            way(some)
            if call:  # the first warms up
                spent[place] += time.process_time() - begun
    return spent[1] / spent[0]


class NoiseToLatents(nn.Module):
    """A one-step generator: normal noise of a latent's shape to a latent, the decoder of a variational auto-encoder."""

    def __init__(self, codec: ScaledCodec) -> None:
        """Layers on a grid of four by four, where a place sees nearly all of the image."""
        super().__init__()
        latent = codec.latent
        self.fold = SIDE // latent.downsampling // 4
        numbers = latent.channels * self.fold**2
        self.encoder = _convolutions(numbers, MAKER_WIDTH, 2 * numbers)
        self.decoder = _convolutions(numbers, MAKER_WIDTH, MAKER_WIDTH, numbers)
        self.bottleneck = KlBottleneck()
        self.register_buffer("mean", torch.tensor(latent.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(latent.std).view(-1, 1, 1))

    def forward(self, z: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        """Latents."""
        return self._made(F.pixel_unshuffle(z, self.fold)) * self.std + self.mean

    def loss(self, latents: Float[Tensor, "b c i j"], noise: Tensor) -> Tensor:
        """Of making latents again from what their encoder says of them, and of how far that is from normal noise."""
        wanted = (latents - self.mean) / self.std
        z, divergence = self.bottleneck(self.encoder(F.pixel_unshuffle(wanted, self.fold)), noise)
        return F.mse_loss(self._made(z), wanted) + MAKER_PENALTY * divergence

    def _made(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(self.decoder(z), self.fold)


def _convolutions(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def one_step_generator(lab: Lab, codec: ScaledCodec) -> NoiseToLatents:
    """Trained on latents of scenes that nothing else was trained on, and frozen."""
    latents = codec.encode(told_scenes(lab, "generator", count=lab.steps(1_000, 32)).pixels)
    maker, draws = NoiseToLatents(codec), lab.generator("generator")
    optimizer = torch.optim.Adam(maker.parameters(), lr=MAKER_RATE)
    for _ in range(lab.steps(MAKER_STEPS)):
        some = latents[torch.randint(len(latents), (MAKER_BATCH,), generator=draws)]
        noise = torch.randn(F.pixel_unshuffle(some, maker.fold).shape, generator=draws)
        optimizer.zero_grad()
        maker.loss(some, noise).backward()
        optimizer.step()
    return maker.eval().requires_grad_(False)


@dataclass(frozen=True, slots=True)
class Steered:
    """Of all texts; a rise is from what the first noise of each text makes.

    Attributes:
        rises: texts whose cosine rises for the model that steers, in percent.
        judged_rises: the same for the model on pixels, which steers nothing.
        cosine: of the model that steers, the mean.
        judged: of the model on pixels, the mean.
        found: texts that are the nearest of all to what was made for them, for the model on pixels, in percent.
        off: mean distance of the noise's length from sqrt(n - 1), in percent of it.
    """

    rises: float
    judged_rises: float
    cosine: float
    judged: float
    found: float
    off: float


@dataclass(frozen=True, slots=True)
class Studio:
    """What all ways of choosing noise share: a generator, texts, and noise of each to begin with."""

    bed: LatentBench
    generator: NoiseToLatents
    texts: list[str]
    z0: Float[Tensor, "n c i j"]


def studio(lab: Lab, bed: LatentBench) -> Studio:
    """Texts of single things, drawn without repeats, and noise."""
    every, draws = things_called("medium") + things_called("large"), lab.generator("noise")
    texts = [every[row] for row in torch.randperm(len(every), generator=draws)[: lab.steps(PROMPTS, 4)].tolist()]
    z0 = torch.randn(len(texts), CHANNELS, *bed.codec.latent.size((SIDE, SIDE)), generator=draws)
    return Studio(bed, one_step_generator(lab, bed.codec), texts, z0)


def steered(lab: Lab, at: Studio, regularizer: NormRegularizer | None) -> Steered:
    """Noise that was moved with the defaults of ``optimize_noise``, the text weighing as by CLIP's own scale."""
    weight = 1 / float(at.bed.latents.logit_scale.detach())  # theirs is 0.01 for a scale of 100
    reward, steps = PromptReward(at.bed.latents, at.texts, weight=weight), lab.steps(MOVES, 3)
    return _judge(at, optimize_noise(at.generator, rewards=[reward], z0=at.z0, steps=steps, regularizer=regularizer))


def drawn(lab: Lab, at: Studio) -> Steered:
    """The best of as many draws as cost as much."""
    reward, more = PromptReward(at.bed.latents, at.texts), lab.steps(DRAWS, 3) - 1
    found = optimize_noise(
        at.generator, rewards=[reward], z0=at.z0, steps=1, restarts=more, draws=lab.generator("draws")
    )
    return _judge(at, found)


@torch.inference_mode()
def _judge(at: Studio, found: NoiseResult) -> Steered:
    bed, first = at.bed, at.generator(at.z0)
    steers = PromptReward(bed.latents, at.texts)
    judge = PromptReward(bed.pixels, at.texts, through=bed.codec)
    own, other = ([_cosines(reward, made) for made in (first, found.made)] for reward in (steers, judge))
    every = torch.stack([_cosines(PromptReward(bed.pixels, text, through=bed.codec), found.made) for text in at.texts])
    nearest = every.argmax(dim=0) == torch.arange(len(at.texts))
    right = (found.z[0].numel() - 1) ** 0.5
    return Steered(
        rises=100 * float((own[1] > own[0]).float().mean()),
        judged_rises=100 * float((other[1] > other[0]).float().mean()),
        cosine=float(own[1].mean()),
        judged=float(other[1].mean()),
        found=100 * float(nearest.float().mean()),
        off=100 * float((found.z.flatten(1).norm(dim=1) / right - 1).abs().mean()),
    )


def _cosines(reward: PromptReward, made: Tensor) -> Float[Tensor, " n"]:
    return (100 - reward(made)) / cast(Clip, reward.model).logit_scale
