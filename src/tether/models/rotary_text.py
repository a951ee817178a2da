"""A text tower made ready for long captions: its table of places is dropped, its attention turns by place instead."""

from __future__ import annotations

from dataclasses import replace

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder, Tokenizer
from tether.models.blocks.block import BlockConfig
from tether.models.config import TextConfig
from tether.models.dual import Clip
from tether.models.tokenizer import ClipTokenizer, FunctionTokenizer


def to_rotary(model: DualEncoder, *, context: int, base: float = 10000.0) -> Clip:
    """A copy of a model whose text tower has rotary positions and a longer context (arXiv 2508.02329).

    Everything but the table of places is copied. The copy's text embeddings are no longer the original's until it has
    learnt to read again: ``adapt.distill.distil_text`` teaches it by the original, then it trains on long captions. A
    text may have any length up to ``context``; its end token, wherever it stands, gives the embedding.

    Args:
        model: a CLIP of ours, or one of open_clip's or transformers' that ``tether.load`` made ours.
        context: longest text in tokens, start and end included.
        base: of the angles; see ``RotaryEmbedding``.

    Raises:
        InputError: another library's text tower, one with rotary positions, or a tokenizer of fixed length.
    """
    if not isinstance(model, Clip):
        raise InputError(f"to_rotary: {type(model).__name__} has another library's text tower; expected one of ours")
    text = model.config.text
    if text.position == "none" or any(block.rope != "none" for block in text.blocks):
        raise InputError("to_rotary: the text tower has rotary positions already")
    config = replace(model.config, text=_turning(text, context=context, base=base))
    copied = Clip(config, tokenizer=_longer(model.tokenizer, context))
    state = {name: value.clone() for name, value in model.state_dict().items() if name != "text.position"}
    copied.load_state_dict(state)
    device, dtype = model.log_logit_scale.device, model.log_logit_scale.dtype
    return copied.to(device=device, dtype=dtype).train(model.training)


def _turning(text: TextConfig, *, context: int, base: float) -> TextConfig:
    turns = {"rope": "half", "rope_theta": base}
    if isinstance(text.block, BlockConfig):
        block = replace(text.block, **turns)  # pyrefly: ignore[bad-argument-type] - its own fields
    else:
        block = replace(text.block, options={**text.block.options, **turns})
    return replace(text, context=context, position="none", block=block)


def _longer(tokenizer: Tokenizer, context: int) -> Tokenizer:
    if isinstance(tokenizer, ClipTokenizer):
        return ClipTokenizer(context)
    if isinstance(tokenizer, FunctionTokenizer):
        size, write = tokenizer.vocab_size, tokenizer.write
        return FunctionTokenizer(tokenizer.encode, context_length=context, vocab_size=size, write=write)
    raise InputError(f"to_rotary: cannot give a {type(tokenizer).__name__} another length")
