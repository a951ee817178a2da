"""A captioner learns by cross-entropy: what is told of each row of data, and the words that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.hash_rng import hash_int
from tether.core.protocols import Step
from tether.core.ranges import Count, PositiveRate, Rate, Whole, checked
from tether.core.types import Batch, Loss
from tether.models.train_mode import at_rest
from tether.tasks.caption.captioner import PrefixCaptioner
from tether.training.loop import StepReport
from tether.training.schedules import Cosine
from tether.training.tensor_batches import ReplayedBatches
from tether.training.tuning import Played, Tuning, play

Tune = Literal["adaptor", "all"]
Memory = Callable[[Tensor, torch.Generator], Float[Tensor, "b k d"]]
"""From rows of data to what is told of them, drawing from a generator on the CPU."""
LEARNING_RATE, WARMUP, BATCH = 1e-4, 200, 16
"""Of MacCap's release."""


class CaptionStep:
    """The loss of a captioner on a batch whose images are rows of data; a ``core.protocols.Step``.

    What is drawn in a step depends on the seed and on the number of the step alone.
    """

    def __init__(self, captioner: PrefixCaptioner, *, memory: Memory, seed: int) -> None:
        """Args: captioner: that learns. memory: of the batch's rows. seed: of the draws."""
        self._captioner, self._memory, self._seed = captioner, memory, seed

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See Step; the model that is given is not looked at."""
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self._seed, salt="memory") >> 1)
        return Loss(self._captioner.loss(self._memory(batch.image, generator), batch.text))


def check_captions(texts: Sequence[str]) -> None:
    """Refuse none, and empty ones by their place.

    Raises:
        InputError: none, or empty ones.
    """
    if not texts:
        raise InputError("texts: expected at least one caption, got none")
    if empty := [place for place, text in enumerate(texts) if not text.strip()]:
        raise InputError(f"texts: {len(empty)} of {len(texts)} captions are empty, the first at place {empty[0]}")


def caption_batches(
    rows: Float[Tensor, "n ..."], tokens: Int[Tensor, "m l"], *, owner: Int[Tensor, " m"], batch_size: int, seed: int
) -> Iterator[Batch]:
    """Endless batches of captions with their rows of data, each pass in a new order; short batches are left out."""
    size = min(batch_size, len(tokens))
    place = len(tokens)
    epoch, order = 0, torch.empty(0, dtype=torch.int64)
    while True:
        if place + size > len(tokens):
            generator = torch.Generator().manual_seed(hash_int(str(epoch), seed=seed, salt="captions") >> 1)
            place, epoch, order = 0, epoch + 1, torch.randperm(len(tokens), generator=generator)
        some = order[place : place + size]
        place += size
        yield Batch(rows[owner[some]], tokens[some])


def teach_(
    captioner: PrefixCaptioner,
    step: Step,
    batches: Callable[[], Iterator[Batch]],
    *,
    tune: Tune,
    steps: int,
    learning_rate: float,
    weight_decay: float,
    play: Callable[[Tuning[None], nn.Module], Played[None]],
) -> Played[None]:
    """Let a captioner learn by a step; it is in eval mode afterwards, and asks for gradients where it did before.

    Args:
        captioner: that learns.
        step: gives the loss.
        batches: gives the same endless batches each time.
        tune: what learns.
        steps: of AdamW.
        learning_rate: after the published warm-up of 200 steps, or a tenth where that is less; it falls as a cosine.
        weight_decay: on matrices only.
        play: takes the steps; ``training.tuning.play``, told where and how.
    """
    with at_rest(captioner):
        captioner.requires_grad_(True)
        captioner.language_model.requires_grad_(tune == "all")
        tuning = Tuning[None](
            step=step,
            batches=ReplayedBatches(batches),
            steps=steps,
            optimizer={"name": "adamw", "lr": learning_rate},
            weight_decay=weight_decay,
            schedule=Cosine(warmup=min(WARMUP, steps // 10)),
            training=[captioner] if tune == "all" else [captioner.adaptor],
        )
        played = play(tuning, captioner)
    captioner.eval()
    return played


@checked
def fit_pairs(
    captioner: PrefixCaptioner,
    rows: Float[Tensor, "n ..."],
    texts: Sequence[str],
    *,
    owner: Sequence[int] | None = None,
    memory: Memory = lambda rows, generator: rows,
    tune: Tune = "all",
    steps: Count = 1000,
    batch_size: Count = BATCH,
    learning_rate: PositiveRate = LEARNING_RATE,
    weight_decay: Rate = 0.0,
    longest: Count = 64,
    seed: Whole = 0,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> PrefixCaptioner:
    """Teach a captioner on pairs in place, of image tokens and captions; it is in eval mode afterwards.

    Args:
        captioner: that learns.
        rows: data, such as (n, k, d) image tokens; the default memory takes them as they are.
        texts: captions.
        owner: row of data that each caption belongs to; None where there is one for each.
        memory: what is told of rows of data; it draws from a generator, which depends on seed and step.
        tune: what learns.
        steps: of AdamW.
        batch_size: captions of a step.
        learning_rate: after the warm-up of 200 steps, or a tenth where that is less; it falls to 0 as a cosine.
        weight_decay: on matrices only.
        longest: most tokens of a caption; longer ones are cut.
        seed: of the order, the memories and dropout; torch's own generator stays as it is.
        on_step: told each step.

    Raises:
        InputError: no captions, empty ones, or owners that are no rows.
    """
    check_captions(texts)
    owners = torch.tensor(range(len(texts)) if owner is None else list(owner), dtype=torch.int64)
    if len(owners) != len(texts) or not 0 <= int(owners.min()) <= int(owners.max()) < len(rows):
        raise InputError(f"owner: expected one of {len(rows)} rows for each of {len(texts)} captions")
    tokens = captioner.language_model.tokens(texts, longest=longest)
    teach_(
        captioner,
        CaptionStep(captioner, memory=memory, seed=seed),
        partial(caption_batches, rows, tokens, owner=owners, batch_size=batch_size, seed=seed),
        tune=tune,
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        play=partial(play, seed=seed, on_step=on_step),
    )
    return captioner
