"""A maker of images trained on images with texts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn

from tether.core.errors import InputError, NotFiniteError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Limit, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch, Loss
from tether.generation.text_generator import TextGenerator
from tether.optim.clip import GlobalNorm, NoClip
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.tensor_batches import ReplayedBatches
from tether.training.tuning import Tuning, play


@checked
def train_generator(
    maker: TextGenerator,
    images: Tensor,
    texts: Sequence[Sequence[str]],
    *,
    steps: Count,
    batch_size: Count = 64,
    learning_rate: PositiveRate = 1e-3,
    weight_decay: Rate = 0.0,
    grad_clip: Limit = inf,
    seed: Whole = 0,
    folder: Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[float, ...]:
    """Train a maker of images in place; its encoder rests.

    Args:
        maker: on its device; left at rest, in evaluation mode.
        images: (n, 3, h, w) uint8, of the maker's size.
        texts: captions of each image, one of which is drawn each time.
        steps: of AdamW, whose rate falls to 0 as a cosine after a short warm-up.
        batch_size: images of a step, drawn with replacement.
        learning_rate: at its highest.
        weight_decay: of matrices.
        grad_clip: largest norm of the gradient; infinity sets none.
        seed: of the draws.
        folder: of checkpoints, from the newest of which it goes on; None keeps none.
        on_step: called with (step, loss).
        should_stop: asked after each step; when true a checkpoint is saved and ``StoppedError`` raised.

    Returns:
        The loss of each step that was taken.

    Raises:
        InputError: no such images, or one without a text.
        NotFiniteError: a loss that is not finite; the maker keeps the weights of the step before.

    Example:
        >>> import torch
        >>> from tether.generation import VarGenerator, train_generator
        >>> from tether.models import create
        >>> maker = VarGenerator(create("tiny").eval(), size=16, scales=(1, 2, 4), vocab=16, width=16, depth=1)
        >>> images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
        >>> len(train_generator(maker, images, [["a cat"]] * 4, steps=2, batch_size=4))
        2
    """
    wanted = (len(texts), 3, *maker.size)
    if images.dtype != torch.uint8 or tuple(images.shape) != wanted or not len(texts):
        raise InputError(f"images: expected {wanted} uint8, got {tuple(images.shape)} of {images.dtype}")
    for row, said in enumerate(texts):
        if isinstance(said, str) or not len(said):
            raise InputError(f"texts, row {row}: expected a list of at least one caption, got {said!r:.200}")
    losses = list[Tensor]()

    def look(report: StepReport) -> None:
        losses.append(report.loss)
        if on_step is not None:
            on_step(report.step, float(report.loss))

    maker.requires_grad_(False)
    maker.learns.requires_grad_(True)
    tuning = Tuning[None](
        step=MakerStep(maker, images, texts, batch_size=batch_size, seed=seed),
        batches=ReplayedBatches(lambda: itertools.repeat(NOTHING)),
        steps=steps,
        optimizer={"name": "adamw", "lr": learning_rate},
        weight_decay=weight_decay,
        schedule=Cosine(warmup=min(100, steps // 10)),
        clipper=NoClip() if grad_clip == inf else GlobalNorm(max_norm=grad_clip),
        training=[maker.learns],
    )
    maker.read_ahead([text for some in texts for text in some])
    try:
        play(tuning, maker, folder=folder, seed=seed, on_step=look, should_stop=should_stop)
    finally:
        for parameter in maker.parameters():
            parameter.grad = None
        maker.eval().requires_grad_(False)
    return tuple(float(loss) for loss in losses)


NOTHING = Batch(torch.empty(1, 0), torch.empty(1, 0).long())


class MakerStep:
    """The loss of a maker on images that are drawn by the number of the step and a seed alone; a ``Step``."""

    def __init__(
        self, maker: TextGenerator, images: Tensor, texts: Sequence[Sequence[str]], *, batch_size: int, seed: int
    ) -> None:
        """Args: maker: that learns. images: uint8. texts: of each. batch_size: of a step. seed: of the draws."""
        self._maker, self._images, self._texts, self._size, self._seed = maker, images, texts, batch_size, seed

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; neither model nor batch is looked at."""
        draw = torch.Generator().manual_seed(hash_int(str(step), seed=self._seed, salt="generator") >> 1)
        chosen = torch.randint(len(self._images), (self._size,), generator=draw)
        which = torch.rand(self._size, generator=draw).tolist()
        texts = [self._texts[row] for row in chosen.tolist()]
        said = [some[int(part * len(some))] for some, part in zip(texts, which, strict=True)]
        x = self._images[chosen].to(next(self._maker.parameters()).device).float().div(127.5).sub(1)
        loss = self.loss_on(x, said, rows=chosen, generator=draw)
        if not bool(loss.isfinite()):
            raise NotFiniteError(f"step {step}: the loss is {float(loss.detach())}; try a lower learning_rate")
        return Loss(loss)

    def loss_on(self, x: Tensor, said: Sequence[str], *, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of images in -1 to 1, their texts and their rows."""
        return self._maker.loss(x, said, generator=generator)
