"""A small auto-encoder trained on images, and scaled."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, PositiveRate, Whole, checked
from tether.models.latent.codec import ConvCodec
from tether.optim import AdamW, parameter_groups
from tether.train.schedules import Cosine

PENALTY = 1e-6
"""Weight of the divergence of the latents, as latent diffusion's."""


@checked
def train_codec(
    codec: ConvCodec,
    images: Tensor,
    *,
    steps: Count = 2000,
    batch_size: Count = 32,
    learning_rate: PositiveRate = 1e-3,
    seed: Whole = 0,
) -> tuple[float, ...]:
    """Train an auto-encoder in place to make images again, then set its scale and note what its latents are like.

    The scale gives latents a deviation of 1 over all channels together, as latent diffusion's is (arXiv 2112.10752,
    appendix G); unlike there, the loss is the mean absolute error alone, without a critic.

    Args:
        codec: on its device; left at rest, in evaluation mode.
        images: (n, 3, h, w) uint8, of sides that the down-sampling divides.
        steps: of AdamW, whose rate falls to 0 as a cosine after a short warm-up.
        batch_size: images of a step, drawn with replacement.
        learning_rate: at its highest.
        seed: of the draws.

    Returns:
        The loss of each step.

    Raises:
        InputError: no such images.

    Example:
        >>> import torch
        >>> from tether.models.latent.codec import ConvCodec
        >>> from tether.train.codec_training import train_codec
        >>> codec = ConvCodec(channels=2, downsampling=4, width=8)
        >>> images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
        >>> losses = train_codec(codec, images, steps=3, batch_size=4)
        >>> len(losses), round(codec.encode(images).std().item(), 2)
        (3, 1.0)
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise InputError(f"images: expected (n, 3, h, w) uint8, got {tuple(images.shape)} of {images.dtype}")
    size = codec.latent.size((images.shape[2], images.shape[3]))
    device = next(codec.parameters()).device
    optimizer = AdamW(parameter_groups(codec, weight_decay=0.0), lr=learning_rate)
    schedule, losses = Cosine(warmup=min(100, steps // 10)), list[float]()
    codec.train().requires_grad_(True)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule.factor(step, steps=steps)
        draw = torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt="codec") >> 1)
        chosen = torch.randint(len(images), (batch_size,), generator=draw)
        noise = torch.randn(batch_size, codec.latent.channels, *size, generator=draw)
        x = images[chosen].to(device).float().div(127.5).sub(1)
        made, divergence = codec(x, noise.to(device))
        loss = (made - x).abs().mean() + PENALTY * divergence
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    optimizer.zero_grad(set_to_none=True)
    codec.eval().requires_grad_(False)
    with torch.no_grad():
        codec.latent = replace(codec.latent, scale=1.0, mean=(), std=())
        found = torch.cat([codec.encode(some.to(device)).double().cpu() for some in images.split(batch_size)])
        codec.latent = replace(codec.latent, scale=float(1 / found.std()))
        codec.measure_(images.to(device), batch_size=batch_size)
    return tuple(losses)
