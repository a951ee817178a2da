"""A denoiser trained on an encoder's embeddings, and whether it looks at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from tether.adaptation.finetune.descent import exactly
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, NonNegative, Positive, Share, checked
from tether.core.types import Batch
from tether.methods.un2clip.denoiser import ConditionalDenoiser
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.image_digest import image_digest
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.optim import AdamW, parameter_groups
from tether.training.schedules import Cosine

LEAST_GAIN = 0.05
"""Share by which exchanged embeddings must raise the denoiser's loss; below, its gradient says nothing of an image."""
LATENTS = "latent_image"
"""Where a batch may have what is denoised in the place of images, in its extra."""


@checked
def train_denoiser(
    denoiser: ConditionalDenoiser,
    model: Clip | WrappedEncoder,
    batches: Iterable[Batch],
    *,
    steps: Count,
    learning_rate: Positive = 1e-3,
    weight_decay: NonNegative = 0.0,
    drop: Share = 0.0,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[float, ...]:
    """Train a denoiser on the embeddings of an encoder at rest, and bind it to them: what stands for unCLIP here.

    Args:
        denoiser: in place.
        model: any encoder of ``tether.load``.
        batches: of images, or with ``extra["latent_image"]``; at least ``steps``.
        steps: of AdamW, whose rate falls to 0 as a cosine after a short warm-up.
        learning_rate: at its highest.
        weight_decay: of matrices.
        drop: share of embeddings that are set to zero, so that the denoiser also works without.
        seed: of the draws.
        on_step: called with (step, loss).

    Returns:
        The loss of each step.

    Raises:
        InputError: fewer batches than steps, images of another shape than the denoiser's, or another width.
    """
    optimizer = AdamW(parameter_groups(denoiser, weight_decay=weight_decay), lr=learning_rate)
    schedule, losses = Cosine(warmup=min(100, steps // 10)), list[float]()
    for number, batch in enumerate(exactly(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule.factor(number, steps=steps)
        loss = denoiser_loss(denoiser, model, batch, drop=drop, generator=drawn(number, seed=seed))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(number, losses[-1])
    optimizer.zero_grad(set_to_none=True)
    denoiser.reference = image_digest(model)
    return tuple(losses)


def denoiser_loss(
    denoiser: ConditionalDenoiser,
    model: Clip | WrappedEncoder,
    batch: Batch,
    *,
    drop: float = 0.0,
    generator: torch.Generator,
) -> Float[Tensor, ""]:
    """The loss of a batch for the denoiser alone; the encoder rests, in evaluation mode."""
    with torch.no_grad(), eval_mode(model):
        rows = model.encode_image(batch.image).pooled
    if drop:
        rows = rows * (torch.rand(len(rows), 1, generator=generator) >= drop).to(rows)
    return denoiser.loss(denoised(denoiser, model, batch), rows, generator=generator)


def denoised(denoiser: ConditionalDenoiser, model: Clip | WrappedEncoder, batch: Batch) -> Tensor:
    """What is denoised of a batch: its latents, or its images at the denoiser's size."""
    latents = batch.extra.get(LATENTS)
    return latents if isinstance(latents, Tensor) else denoiser.images(batch.image, spec=model.image_spec)


def drawn(step: int, *, seed: int) -> torch.Generator:
    """The generator of one step."""
    return torch.Generator().manual_seed(hash_int(str(step), seed=seed, salt="denoise") >> 1)


def check_gain(
    denoiser: ConditionalDenoiser,
    model: Clip | WrappedEncoder,
    probe: Batch,
    *,
    least: float = LEAST_GAIN,
    seed: int = 0,
) -> float:
    """By what share exchanged embeddings raise the denoiser's loss.

    Raises:
        InputError: by less than ``least``, so that nothing could be learnt of it.
    """
    with torch.no_grad(), eval_mode(model):
        rows = model.encode_image(probe.image).pooled
    gain = denoiser.gain(denoised(denoiser, model, probe), rows, generator=drawn(-1, seed=seed))
    if gain < least:
        raise InputError(
            f"denoiser: it does not look at its condition: the embeddings of other images raise its loss by "
            f"{100 * gain:.1f} %, expected at least {100 * least:.1f} %; train it longer, on more images"
        )
    return gain
