"""What a text's embedding is projected from: the pooled and normed state of its tower, for heads of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.features.find import text_anatomy, tower_of
from tether.models.features.penultimate import read_each, read_state
from tether.models.texts.text_vectors import placed


def text_state(model: DualEncoder, text: Int[Tensor, "b l"]) -> Features:
    """Embed texts, and also give what the embeddings are projections of; ``image_state`` for the other side.

    Args:
        model: any model that ``tether.load`` gives, but those whose text tower gives rows alone.
        text: token ids as the tokenizer gives them.

    Returns:
        ``pooled`` (b, d), and as ``tokens`` (b, 1, w) one row of the tower's width, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> from tether.models import create
        >>> from tether.models.texts.text_state import text_state
        >>> model = create("tiny").eval()
        >>> text_state(model, model.tokenizer(["a cat", "a dog"])).tokens.shape
        torch.Size([2, 1, 64])
    """
    tower = tower_of(model, "text")
    return read_state(tower, tower.run(tower.embed(text)))


def text_tokens(
    model: DualEncoder, text: Int[Tensor, "b l"], *, rows: Float[Tensor, "b n w"] | None = None
) -> Features:
    """Embed texts, and also give every token in the tower's width: what a generator of images reads of a text.

    Args:
        model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
        text: token ids as the tokenizer gives them.
        rows: read in place of the token table's, as ``TextAnatomy.embed`` takes them.

    Returns:
        ``pooled`` (b, d), ``tokens`` (b, n, w) with the final norm, with gradient, and ``mask`` (b, n), False at
        padding.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``models.refusals``.

    Example:
        >>> from tether.models import create
        >>> from tether.models.texts.text_state import text_tokens
        >>> model = create("tiny").eval()
        >>> found = text_tokens(model, model.tokenizer(["a cat", "a black cat"]))
        >>> found.tokens.shape, found.mask.sum(1).tolist()
        (torch.Size([2, 5, 64]), [4, 5])
    """
    tower = text_anatomy(model)
    stream = tower.run(tower.embed(text, rows=rows))
    real = placed(tower, text, torch.zeros_like(text)) >= 0
    tokens = read_each(tower, stream)
    mask = F.pad(real, (0, tokens.shape[1] - real.shape[1]), value=False)
    return Features(tower.read_out(stream), tokens, mask, extra=stream.extra)
