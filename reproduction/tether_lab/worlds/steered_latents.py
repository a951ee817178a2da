"""A CLIP on the latents of a small codec beside one on pixels, and noise that is moved towards what a text says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.methods.latent_clip import NormRegularizer, PromptReward, optimize_noise
from tether.methods.latent_clip.noise import NoiseResult
from tether.methods.latent_clip.prompt_reward import FULL
from tether.models.latent.clip import hold_codec_
from tether.models.latent.codec import ConvCodec, ScaledCodec
from tether.models.latent.codecs import load_codec, save_codec
from tether.models.latent.tower import tower_on_latents
from tether.models.towers.clip import Clip
from tether.training.codec_training import train_codec
from tether.training.kept_latents import keep_latents_
from tether_lab.lab.lab import Lab
from tether_lab.lab.model_cache import cached_model
from tether_lab.worlds.in_memory import percent, seconds_in_turn, unit_images
from tether_lab.worlds.plain_scenes import (
    SCENES,
    SIDE,
    PlainScenes,
    named,
    new_clip,
    pixel_clip,
    taught,
    things_called,
    told_scenes,
)

PATCH, STEPS = 16, 600
CHANNELS, DOWNSAMPLING, WIDTH = 4, 4, 16
CODEC_STEPS, CODEC_BATCH, CODEC_RATE = 250, 16, 3e-3
HELD_OUT = 1_000
GENERATED = 2_000
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
    held_out: PlainScenes


def prepare(lab: Lab) -> LatentBench:
    """Train codec and models on the same scenes."""
    told = told_scenes(lab, "train", count=lab.steps(SCENES, 32))
    codec = small_codec(lab, told)
    return LatentBench(
        codec,
        pixel_clip(lab, steps=STEPS, patch=PATCH),
        latent_clip(lab, codec, told),
        told_scenes(lab, "held out", count=lab.steps(HELD_OUT, 32), things=(1, 1)),
    )


def small_codec(lab: Lab, told: PlainScenes) -> ScaledCodec:
    """Trained at the first call of a seed, then read from the user's cache."""

    def make(folder: Path) -> None:
        folder.mkdir()
        codec = ConvCodec(channels=CHANNELS, downsampling=DOWNSAMPLING, width=WIDTH, seed=lab.seed)
        steps = lab.steps(CODEC_STEPS)
        train_codec(codec, told.pixels, steps=steps, batch_size=CODEC_BATCH, learning_rate=CODEC_RATE, seed=lab.seed)
        save_codec(codec, folder / "codec.safetensors")

    known = cached_model("scenes-codec", made_by=Path(__file__), facts=[lab.seed, lab.smoke], make=make)
    return load_codec(known / "codec.safetensors")


def latent_clip(lab: Lab, codec: ScaledCodec, told: PlainScenes) -> Clip:
    """A CLIP that differs from the one on pixels in what its patches are cut from, as ``model.codec=FILE`` makes it."""
    model = new_clip(lab.seed, patch=PATCH, vision={"tower": "latent", "latent": codec.latent})
    hold_codec_(model, codec)
    keep_latents_(model, against=None)  # as a run does, whose images are the same each time
    taught(lab, model, told, steps=STEPS)
    tower_on_latents(model).kept = None
    return model


def zero_shot(model: Clip, told: PlainScenes) -> dict[str, float]:
    """How often a model names shape, colour and size of single things right, from their pixels."""
    return named(model, told, unit_images(model, told.pixels))


@torch.inference_mode()
def codec_error(codec: ScaledCodec, told: PlainScenes) -> float:
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
    ways = (PromptReward(bed.latents, text), PromptReward(bed.pixels, text, through=bed.codec))
    latents, pixels = seconds_in_turn(ways, some, calls=CALLS)
    return pixels / latents


class NoiseToLatents(nn.Module):
    """A one-step generator: normal noise of a latent's shape to latents with the mean and covariance of those given."""

    def __init__(self, latents: Float[Tensor, "n c i j"]) -> None:
        """Take the symmetric square root of the covariance."""
        super().__init__()
        rows = latents.flatten(1).double()
        values, vectors = torch.linalg.eigh(rows.T.cov())
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        self.shape = latents.shape[1:]
        self.register_buffer("mean", rows.mean(dim=0).float())
        self.register_buffer("root", root.float())

    def forward(self, z: Float[Tensor, "b c i j"]) -> Float[Tensor, "b c i j"]:
        """Latents."""
        return (self.mean + z.flatten(1) @ self.root).unflatten(1, self.shape)


def one_step_generator(lab: Lab, codec: ScaledCodec) -> NoiseToLatents:
    """Fitted to latents of scenes that nothing else was trained on."""
    scenes = told_scenes(lab, "generator", count=lab.steps(GENERATED, 32))
    return NoiseToLatents(torch.cat([codec.encode(some) for some in scenes.pixels.split(250)]))


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
    reward, steps = _reward(at), lab.steps(MOVES, 3)
    found = optimize_noise(at.generator, rewards=[reward], z0=at.z0, steps=steps, regularizer=regularizer)
    return _judged(at, reward, found)


def drawn(lab: Lab, at: Studio) -> Steered:
    """The best of as many draws as cost as much."""
    reward, draws, more = _reward(at), lab.generator("draws"), lab.steps(DRAWS, 3) - 1
    found = optimize_noise(at.generator, rewards=[reward], z0=at.z0, steps=1, restarts=more, draws=draws)
    return _judged(at, reward, found)


def _reward(at: Studio) -> PromptReward:
    scale = float(at.bed.latents.logit_scale.detach())
    return PromptReward(at.bed.latents, at.texts, weight=1 / scale)  # theirs is 0.01 for a scale of 100


@torch.inference_mode()
def _judged(at: Studio, reward: PromptReward, found: NoiseResult) -> Steered:
    own = [_cosines(reward, loss) for loss in (found.history[0].rewards[0], found.loss / reward.weight)]
    judge = PromptReward(at.bed.pixels, at.texts, through=at.bed.codec)
    other = [_cosines(judge, judge(made)) for made in (at.generator(at.z0), found.made)]
    each = [PromptReward(at.bed.pixels, text, through=at.bed.codec)(found.made) for text in at.texts]
    nearest = torch.stack(each).argmin(dim=0) == torch.arange(len(at.texts))
    right = (found.z[0].numel() - 1) ** 0.5
    return Steered(
        rises=percent(own[1] > own[0]),
        judged_rises=percent(other[1] > other[0]),
        cosine=float(own[1].mean()),
        judged=float(other[1].mean()),
        found=percent(nearest),
        off=100 * float((found.z.flatten(1).norm(dim=1) / right - 1).abs().mean()),
    )


def _cosines(reward: PromptReward, loss: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    return (FULL - loss) / cast(Clip, reward.model).logit_scale
