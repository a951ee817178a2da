"""A text tower learns to give the embeddings that another one gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.losses import closeness_loss, proclip_loss
from tether.models.embed import encode_texts
from tether.models.tokenizer import LongText, lengths
from tether.optim import AdamW, parameter_groups
from tether.training.locked_towers import kept_where_resting
from tether.training.schedules import Cosine

WARMUP_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Distilled:
    """How far the student came.

    Attributes:
        before: mean cosine of student and teacher on the texts before.
        after: the same afterwards.
        losses: of every step.
    """

    before: float
    after: float
    losses: tuple[float, ...]


def distil_text(
    student: DualEncoder,
    *,
    teacher: DualEncoder,
    texts: Sequence[str],
    loss: Literal["cosine", "proclip"] = "cosine",
    long_text: LongText = "raise",
    steps: int = 1000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    generator: torch.Generator,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> Distilled:
    """Train the student's text side, in place, to give what the teacher gives (arXiv 2508.02329, 2510.18795).

    The teacher reads every text once, before the first step; so does a student's tower that rests, whose rows are kept.
    Whatever else the student has (its images' side, its scale) gets no gradient and stays as it is; so do parameters
    that are frozen.

    Args:
        student: any model of ours or of ``tether.load``, such as ``resized(how="rotary")`` makes; left in eval mode.
        teacher: any model of the same embedding size, with a vocabulary of its own if it likes.
        texts: short captions, that is, such as the teacher can read to the end; equal ones count once.
        loss: ``cosine`` is ``mean(1 - cos(student, teacher))``; ``proclip`` the first stage of ProCLIP, for which a
            batch has at least 2 texts, see ``proclip_loss``.
        long_text: of a text that the teacher would cut, ``raise``, or let it teach what it makes of the beginning.
        steps: of AdamW, with a short warm-up and then half a cosine.
        batch_size: texts in a step; at most as many as there are.
        learning_rate: at its highest.
        weight_decay: of matrices.
        generator: draws the texts of each step.
        on_progress: called with (steps done, steps).

    Raises:
        InputError: no text, one that the teacher would cut, embeddings of different sizes, or no step.
    """
    if steps < 1 or batch_size < 1:
        raise InputError(f"expected steps and batch_size of at least 1, got {steps} and {batch_size}")
    if student.dim != teacher.dim:
        raise InputError(f"student and teacher: expected one embedding size, got {student.dim} and {teacher.dim}")
    if not isinstance(student, nn.Module):
        raise InputError(f"student: expected a module, got {type(student).__name__}")
    texts = list(dict.fromkeys(texts))
    if not texts:
        raise InputError("texts: expected at least one, got none")
    tokens = student.tokenizer(texts)
    long = lengths(tokens)
    wanted = encode_texts(teacher, texts, long_text=long_text)
    device = student.logit_scale.device
    before = _agreement(student, texts, wanted)
    tokens, target, reader = tokens.to(device), wanted.to(device), kept_where_resting(student)
    optimizer = AdamW(parameter_groups(student, weight_decay=weight_decay), lr=learning_rate)
    schedule = Cosine(warmup=min(steps - 1, round(WARMUP_SHARE * steps)))
    student.train()
    losses: list[Tensor] = []
    for step in range(steps):
        drawn = torch.randperm(len(texts), generator=generator)[:batch_size]
        rows = drawn.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule.factor(step, steps=steps)
        found = reader.encode_text(tokens[rows, : int(long[drawn].max())]).pooled  # long is on the CPU: no wait
        far = closeness_loss(found, target[rows]) if loss == "cosine" else proclip_loss(found, target[rows]).total
        optimizer.zero_grad(set_to_none=True)
        far.backward()
        optimizer.step()
        losses.append(far.detach())
        if on_progress is not None:
            on_progress(step + 1, steps)
    optimizer.zero_grad(set_to_none=True)
    student.eval()
    return Distilled(before, _agreement(student, texts, wanted), tuple(torch.stack(losses).tolist()))


@torch.no_grad()
def _agreement(student: DualEncoder, texts: Sequence[str], wanted: Float[Tensor, "n d"]) -> float:
    assert isinstance(student, nn.Module)  # checked at the start
    mode = student.training
    student.eval()
    found = encode_texts(kept_where_resting(student), texts)
    student.train(mode)
    return float(F.cosine_similarity(found, wanted).mean())
