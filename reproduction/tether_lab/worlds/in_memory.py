"""Draw, train and measure in memory: what test beds share.

The loops are a run's without its files, for checks that train many models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.gather import LOCAL
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder, GradClipper, Step
from tether.core.types import Batch
from tether.data.sets.scenes import Dice, Scene, World, render
from tether.evaluate.retrieval import recall_at_k
from tether.losses import ClipLoss
from tether.models.embed import encode_images, encode_texts
from tether.models.presets import create
from tether.models.towers.clip import Clip
from tether.optim import AdamW, parameter_groups
from tether.optim.clip import GlobalNorm
from tether.training.loop import Player, Precision, fit
from tether.training.schedules import Cosine
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep
from tether_lab.lab.lab import Lab
from tether_lab.lab.trace import saw

WARM_FRACTION = 0.1
BETAS = (0.9, 0.98)  # arXiv 2103.00020, table 6
LARGEST_GRADIENT = 1.0

plain_world = partial(World, textures=("plain",), broken=0.0, pairs="all")
"""Whole things without a texture, in all pairs of colour and shape."""


def dice_of(lab: Lab, name: str, *, salt: str) -> Dice:
    """Draws that depend on the seed, a name and a salt alone."""
    return Dice(np.random.default_rng(hash_int(name, seed=lab.seed, salt=salt)))


def drawn(scenes: Iterable[Scene], *, size: int) -> UInt8[Tensor, "n 3 h w"]:
    """Images of scenes."""
    return torch.stack([torch.from_numpy(render(scene, size=size).pixels).permute(2, 0, 1) for scene in scenes])


def small_drawn(scenes: Iterable[Scene], *, size: int) -> UInt8[Tensor, "n 3 h w"]:
    """Images of scenes, drawn at twice the size and averaged."""
    return F.avg_pool2d(drawn(scenes, size=2 * size).float(), 2).round_().to(torch.uint8)


def draws(count: int, *, size: int, generator: torch.Generator, repeats: bool = False) -> Iterator[Int[Tensor, " b"]]:
    """Rows of batches without end.

    Args:
        count: rows to choose from.
        size: of a batch; without repeats at most ``count``.
        generator: draws them.
        repeats: whether each batch is drawn anew; else all rows come once in a random order, again and again, and what
            does not fill a batch is left out.
    """
    size = size if repeats else min(size, count)
    while True:
        if repeats:
            yield torch.randint(count, (size,), generator=generator)
        else:
            yield from torch.randperm(count, generator=generator)[: count // size * size].split(size)


def shuffled(pixels: Tensor, tokens: Tensor, *, size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of pairs without end, by ``draws`` without repeats."""
    return (Batch(pixels[rows], tokens[rows]) for rows in draws(len(pixels), size=size, generator=generator))


def unit_images(model: DualEncoder, pixels: UInt8[Tensor, "n 3 h w"], *, batch: int = 256) -> Float[Tensor, "n d"]:
    """Unit embeddings of images, so many in a forward."""
    return F.normalize(encode_images(model, pixels.split(batch)), dim=1)


def unit_texts(model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """Unit embeddings of texts."""
    return F.normalize(encode_texts(model, texts), dim=1)


def unit_pairs(
    model: DualEncoder, pixels: UInt8[Tensor, "n 3 h w"], texts: Sequence[str]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Unit embeddings of images and texts."""
    image, text = unit_images(model, pixels), unit_texts(model, texts)
    saw(torch.cat([image, text]))
    return image, text


def percent(holds: Tensor) -> float:
    """How often something holds."""
    return 100 * float(holds.float().mean())


def mean_recall(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], *, k: int = 1) -> float:
    """Recall at ``k``, the mean of both directions."""
    found = recall_at_k(image, text, k=(k,))
    return (found[f"image_to_text_r{k}"] + found[f"text_to_image_r{k}"]) / 2


def seconds_in_turn(ways: Sequence[Callable[[Tensor], object]], given: Tensor, *, calls: int) -> list[float]:
    """Processor time of each way, over so many calls of all in turn, after one call of each."""
    spent = [0.0] * len(ways)
    for call in range(calls + 1):
        for place, way in enumerate(ways):
            begun = time.process_time()
            way(given)
            if call:  # the first warms up
                spent[place] += time.process_time() - begun
    return spent


def fit_pairs(
    model: Clip, pixels: Tensor, tokens: Tensor, *, rows: Iterator[Tensor], steps: int, warmup: int, seed: int
) -> Clip:
    """Train on pairs with ``fit_batches``; equal captions of a batch are each other's positives.

    Args:
        model: its vocabulary may be pruned; it comes back whole and in evaluation mode.
        pixels: (n, 3, h, w).
        tokens: (n, l).
        rows: of each batch.
        steps: optimiser steps.
        warmup: see ``fit_batches``.
        seed: of the step.
    """
    step = ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=seed)
    fit_batches(model, step, (Batch(pixels[some], tokens[some]) for some in rows), steps=steps, warmup=warmup)
    model.restore_vocabulary_()
    return model


def taught(lab: Lab, pixels: Tensor, texts: Sequence[str], *, steps: int, further: Sequence[str] = ()) -> Clip:
    """A tiny CLIP of 64 dimensions after ``steps`` batches of 128 pairs, in eval mode.

    Args:
        lab: seed of the weights and the batches.
        pixels: (n, 3, 32, 32).
        texts: a caption of each.
        steps: optimiser steps.
        further: texts whose tokens keep their place in the table besides those of the captions.
    """
    model = create("tiny", seed=lab.seed, dim=64, image_size=32)
    chance = lab.generator("batches")
    return fit_captions(model, pixels, texts, steps=steps, seed=lab.seed, generator=chance, further=further)


def fit_captions(
    model: Clip,
    pixels: Tensor,
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    generator: torch.Generator,
    further: Sequence[str] = (),
    batch_size: int = 128,
    learning_rate: float = 2e-3,
) -> Clip:
    """Train on images with a caption each with ``fit_rows``; equal captions of a batch are each other's positives.

    Args:
        model: as ``create`` or ``load`` gave it; it comes back in evaluation mode.
        pixels: (n, 3, h, w).
        texts: n captions.
        steps: optimiser steps.
        seed: of the step.
        generator: of the batches.
        further: texts whose tokens keep their place in the table besides those of the captions.
        batch_size: see ``fit_rows``.
        learning_rate: the highest.
    """
    ids = model.tokenizer(list(texts))
    model.prune_vocabulary_(model.tokenizer([*texts, *further]))
    fit_rows(
        model,
        lambda rows: Batch(pixels[rows], ids[rows]),
        rows=len(texts),
        step=ContrastiveStep(ClipLoss(duplicates="positives"), steps=steps, seed=seed),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=generator,
    )
    model.restore_vocabulary_()
    return model


def fit_rows(
    model: Clip,
    batch_of: Callable[[Tensor], Batch],
    *,
    rows: int,
    step: Step,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    weight_decay: float = 0.2,
) -> Clip:
    """Train a model in place: AdamW, a warm-up and a cosine, gradients clipped at a norm of 1.

    Args:
        model: as ``create`` or ``load`` gave it; it comes back in evaluation mode.
        batch_of: indices (b,) to a batch.
        rows: how many there are to choose from.
        step: from a batch to a loss.
        steps: optimiser steps.
        batch_size: rows of each, drawn without repeats.
        learning_rate: the highest.
        generator: of the batches.
        weight_decay: of matrices.

    Returns:
        The model.
    """
    forward = StepModule(model.train())
    optimizer = torch.optim.AdamW(
        parameter_groups(model, weight_decay=weight_decay), lr=learning_rate, betas=BETAS, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=max(steps, 2), pct_start=WARM_FRACTION, cycle_momentum=False
    )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for at in range(steps):
        batch = batch_of(torch.randperm(rows, generator=generator)[:batch_size])
        optimizer.zero_grad()
        step(forward, batch, step=at, gather=LOCAL).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        model.clamp_logit_scale_()
    return model.eval()


def fit_batches(
    model: Clip,
    step: Step,
    batches: Iterator[Batch],
    *,
    steps: int,
    warmup: int,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.1,
    clipper: GradClipper | None = None,
    optimizer: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None,
) -> Clip:
    """Train a model in place by the loop of a run, with a cosine, on the CPU in float32.

    Args:
        model: as ``create`` gave it; it comes back in evaluation mode.
        step: from a batch to a loss.
        batches: without end.
        steps: optimiser steps.
        warmup: steps until the learning rate is reached.
        learning_rate: the highest.
        weight_decay: of matrices.
        clipper: of gradients; default: a global norm of 1.
        optimizer: from groups of parameters, with a learning rate of its own; default: our AdamW.

    Returns:
        The model.
    """
    groups = parameter_groups(model, weight_decay=weight_decay)
    made = AdamW(groups, lr=learning_rate) if optimizer is None else optimizer(groups)
    for group in made.param_groups:
        group["initial_lr"] = group["lr"]
    player = Player(step, made, list(model.named_parameters()), Cosine(warmup=warmup), clipper or GlobalNorm())
    fit(
        StepModule(model.train()),
        [player],
        batches,
        start=0,
        steps=steps,
        accumulate=1,
        precision=Precision(torch.device("cpu"), torch.float32),
        gather=LOCAL,
        on_step=lambda report: model.clamp_logit_scale_(),
    )
    return model.eval()
