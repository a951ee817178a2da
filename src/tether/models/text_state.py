"""What a text's embedding is projected from: the pooled and normed state of its tower, for heads of its own."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.models.anatomy.find import tower_of
from tether.models.tower_state import read_state


def text_state(model: DualEncoder, text: Int[Tensor, "b l"]) -> Features:
    """Embed texts, and also give what the embeddings are projections of; ``image_state`` for the other side.

    Args:
        model: any model that ``tether.load`` gives, but those whose text tower gives rows alone.
        text: token ids as the tokenizer gives them.

    Returns:
        ``pooled`` (b, d), and as ``tokens`` (b, 1, w) one row of the tower's width, with gradient.

    Raises:
        UnsupportedModelError: a tower of another kind, with a reason of ``anatomy.exceptions``.

    Example:
        >>> from tether.models import create
        >>> from tether.models.text_state import text_state
        >>> model = create("tiny").eval()
        >>> text_state(model, model.tokenizer(["a cat", "a dog"])).tokens.shape
        torch.Size([2, 1, 64])
    """
    tower = tower_of(model, "text")
    return read_state(tower, tower.run(tower.embed(text)))
