"""A small auto-encoder trained on images, and scaled."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, PositiveRate, Whole, checked
from tether.core.types import Batch, Loss
from tether.models.latent.codec import ConvCodec
from tether.models.latent.style import StyleCodec
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.tensor_batches import ReplayedBatches
from tether.training.tuning import Tuning, play


@checked
def train_codec(
    codec: ConvCodec | StyleCodec,
    images: Tensor,
    *,
    steps: Count = 2000,
    batch_size: Count = 32,
    learning_rate: PositiveRate = 1e-3,
    seed: Whole = 0,
    folder: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[float, ...]:
    """Train an auto-encoder in place to make images again; one of latents gets its scale and notes what they are like.

    The scale gives latents a deviation of 1 over all channels together, as latent diffusion's is (arXiv 2112.10752,
    appendix G); unlike there, the loss is the mean absolute error and the bottleneck's penalty, without a critic.

    Args:
        codec: on its device; left at rest, in evaluation mode.
        images: (n, 3, h, w) uint8, of sides that the down-sampling divides.
        steps: of AdamW, whose rate falls to 0 as a cosine after a short warm-up.
        batch_size: images of a step, drawn with replacement.
        learning_rate: at its highest.
        seed: of the draws.
        folder: of checkpoints, from the newest of which it goes on; None keeps none.
        on_step: called after each step.
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Returns:
        The loss of each step that was taken.

    Raises:
        InputError: no such images.

    Example:
        >>> import torch
        >>> from tether.models.latent.codec import ConvCodec
        >>> from tether.training.codec_training import train_codec
        >>> codec = ConvCodec(channels=2, downsampling=4, width=8)
        >>> images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
        >>> losses = train_codec(codec, images, steps=3, batch_size=4)
        >>> len(losses), round(codec.encode(images).std().item(), 2)
        (3, 1.0)
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise InputError(f"images: expected (n, 3, h, w) uint8, got {tuple(images.shape)} of {images.dtype}")
    shape = (batch_size, *codec.noise_shape((images.shape[2], images.shape[3])))
    losses = list[Tensor]()

    def batches() -> Iterator[Batch]:
        for step in itertools.count():
            draw = torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt="codec") >> 1)
            chosen = torch.randint(len(images), (batch_size,), generator=draw)
            noise = torch.randn(shape, generator=draw)
            yield Batch(images[chosen], torch.empty(batch_size, 0).long(), {"noise": noise})

    def look(report: StepReport) -> None:
        losses.append(report.loss)
        if on_step is not None:
            on_step(report)

    codec.requires_grad_(True)
    tuning = Tuning[None](
        step=CodecStep(codec),
        batches=ReplayedBatches(batches),
        steps=steps,
        optimizer={"name": "adamw", "lr": learning_rate},
        schedule=Cosine(warmup=min(100, steps // 10)),
        training=[codec],
    )
    play(tuning, codec, folder=folder, seed=seed, on_step=look, should_stop=should_stop)
    for parameter in codec.parameters():
        parameter.grad = None
    codec.eval().requires_grad_(False)
    if isinstance(codec, ConvCodec):
        _scale_(codec, images, batch_size=batch_size)
    return tuple(float(loss) for loss in losses)


@torch.no_grad()
def _scale_(codec: ConvCodec, images: Tensor, *, batch_size: int) -> None:
    device = next(codec.parameters()).device
    codec.latent = replace(codec.latent, scale=1.0, mean=(), std=())
    found = torch.cat([codec.encode(some.to(device)).double().cpu() for some in images.split(batch_size)])
    codec.latent = replace(codec.latent, scale=float(1 / found.std()))
    codec.measure_(images.to(device), batch_size=batch_size)


class CodecStep:
    """How far images that were made again are from what they were, and what the bottleneck asks; a ``Step``."""

    def __init__(self, codec: ConvCodec | StyleCodec) -> None:
        """Args: codec: that learns."""
        self._codec = codec

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is not looked at."""
        device = next(self._codec.parameters()).device
        x = batch.image.to(device).float().div(127.5).sub(1)
        made, penalty = self._codec(x, cast(Tensor, batch.extra["noise"]).to(device))
        return Loss((made - x).abs().mean() + self._codec.bottleneck.weight * penalty)
