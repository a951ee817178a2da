"""Contrastive training whose objective is told what each caption means, by a frozen encoder or by its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.protocols import DualEncoder, Objective
from tether.core.types import Batch, Loss
from tether.train.steps.contrastive import ContrastiveStep

WORDS = "words"
BUCKETS = 1024
"""Of the counts of a caption's tokens; two of a vocabulary's words share one by chance."""
_MIX = -7046029254386353131  # the odd constant of SplitMix64; products wrap around on purpose


class SemanticStep:
    """The contrastive step for ``align_clip``: ``batch.extra["semantic"]`` (b, e) holds each caption's meaning.

    The paper asks a frozen sentence encoder (arXiv 2406.17639, section 4). ``encoder: NAME`` is any model that
    ``tether.load`` gives, whose text tower reads the captions without gradient; it is named in the run's configuration
    and never saved with the model. ``words`` counts tokens, which costs nothing and needs no model: captions are alike
    as far as they share words.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        encoder: str = WORDS,
        keep_patches: float = 1.0,
        full_last: float = 0.0,
    ) -> None:
        """Args: the loss, who reads the captions, and how much of a picture is seen.

        objective: the loss, such as ``align_clip``.
        steps: length of the run.
        seed: see ``ContrastiveStep``.
        encoder: ``words``, or the name of a model for ``tether.load``.
        keep_patches: see ``ContrastiveStep``.
        full_last: see ``ContrastiveStep``.
        """
        self.inner = ContrastiveStep(objective, steps=steps, seed=seed, keep_patches=keep_patches, full_last=full_last)
        self._reader = None if encoder == WORDS else _frozen(encoder)

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward.

        Raises:
            InputError: an encoder shall read captions that the batch does not hold.
        """
        meaning = count_words(batch.text) if self._reader is None else self._read(batch)
        extra = {**batch.extra, "semantic": meaning}
        return self.inner(model, Batch(batch.image, batch.text, extra), step=step, gather=gather)

    @torch.no_grad()
    def _read(self, batch: Batch) -> Tensor:
        """Embeddings of the captions as the other model's tokenizer has them, on the batch's device."""
        texts = batch.extra.get("texts")
        if not isinstance(texts, Sequence) or len(texts) != len(batch.text):
            raise InputError("semantic: expected the captions in batch.extra['texts'], as tether's loader gives them")
        reader = cast(DualEncoder, self._reader)
        cast(nn.Module, reader).to(batch.text.device)
        ids = reader.tokenizer([str(text) for text in texts]).to(batch.text.device, non_blocking=True)
        return reader.encode_text(ids).pooled.float()


def _frozen(name: str) -> nn.Module:
    from tether.models.load import load

    return cast(nn.Module, load(name)).eval().requires_grad_(False)


def count_words(text: Int[Tensor, "b l"]) -> Float[Tensor, "b 1024"]:
    """How often each token stands in each caption, in 1024 buckets by hash; without the start, the end and padding.

    The same on every process and for any padding. A caption without words counts in a bucket of its own.
    """
    places = torch.arange(text.shape[1], device=text.device)
    length = torch.where(text != 0, places, -1).amax(dim=1) + 1  # 0 is padding, and inside a caption CLIP's token "!"
    word = (places > 0) & (places < (length - 1)[:, None])
    mixed = text.to(torch.int64) * _MIX
    bucket = ((mixed ^ (mixed >> 29)) % (BUCKETS - 1)) + 1
    counts = torch.zeros(len(text), BUCKETS, device=text.device)
    counts.scatter_add_(1, bucket * word, word.to(counts.dtype))
    counts[:, 0] = (~word.any(dim=1)).to(counts.dtype)
    return counts
