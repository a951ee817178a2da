"""A matrix behind an encoder's text side: as a wrapper around any model, or written into the text projection."""

from __future__ import annotations

from typing import cast, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.types import Features

PLACES = (
    "text.projection",  # our own towers
    "model.text_projection",  # open_clip's CLIP
    "model.text.text_projection",  # open_clip's models with a text tower of their own
    "model.text.proj",  # open_clip's Hugging Face text towers, linear projection
    "model.text.proj.2",  # the same with two layers
    "model.text_model.head",  # transformers' SigLIP
    "model.text_map",  # composed encoders, a linear map
)
"""Where the models of ``tether.load`` keep what makes a text embedding: a linear layer, or a bare matrix."""
_PROBES = ("a", "two words", "a few words more than two")
_CLOSE = 1e-4  # of the largest entry; single precision gives about 1e-6


@final
class MappedEncoder(EncoderAround):
    """An encoder whose text embeddings go through a matrix; images are untouched.

    Attributes:
        matrix: (d, d), shared with whoever gave it.
    """

    def __init__(self, model: DualEncoder, *, matrix: Float[Tensor, "d d"]) -> None:
        """Wrap any model that ``tether.load`` gives."""
        super().__init__(model)
        _check_width(model, matrix)
        self.matrix = matrix

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids to mapped embeddings, not normalised; tokens are the model's own."""
        seen = self.inside.encode_text(text, mask=mask)
        mapped = seen.pooled @ self.matrix.to(seen.pooled).T
        return Features(mapped, seen.tokens, seen.mask, seen.extra)


def fold_text_map_(model: nn.Module, *, matrix: Float[Tensor, "d d"]) -> nn.Module:
    """Multiply the text tower's projection by a matrix, so that every text embedding comes out mapped at no cost.

    Every way of saving or exporting the model keeps it. The result is looked at before it is given back: texts must
    come out mapped and images unchanged, or the weights are put back as they were.

    Args:
        model: any that ``tether.load`` gives.
        matrix: (d, d), multiplies a text embedding from the left.

    Raises:
        InputError: a matrix of another width, a model whose projection is at none of the known ``PLACES``, or one that
            shares it with its image side; the model is then unchanged, and ``MappedEncoder`` does the same outside.
    """
    encoder = cast(DualEncoder, model)
    _check_width(encoder, matrix)
    device = encoder.logit_scale.device
    text = encoder.tokenizer(_PROBES).to(device)
    pixels = torch.zeros(1, 3, *encoder.image_spec.size, dtype=torch.uint8, device=device)
    training = model.training
    model.eval()
    with torch.no_grad():
        before, image = encoder.encode_text(text).pooled, encoder.encode_image(pixels).pooled
        changed = _multiply_(model, matrix)
        after, image_after = encoder.encode_text(text).pooled, encoder.encode_image(pixels).pooled
        alike = _alike(after, before @ matrix.to(before).T) and _alike(image_after, image)
        if not alike:
            for weight, old in changed:
                weight.copy_(old)
    model.train(training)
    if not alike:
        raise InputError(
            f"{type(model).__name__}: its text projection does not stand alone at the end of the text side, so the map "
            "cannot be folded in; the model is unchanged, use MappedEncoder"
        )
    return model


def _multiply_(model: nn.Module, matrix: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Change the projection and return each changed weight with what it was."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    wide = matrix.double().cpu()
    for place in PLACES:
        if place in weights:  # x @ projection
            return [_set_(weights[place], lambda old: old @ wide.T)]
        if f"{place}.weight" in weights:
            layer = [_set_(weights[f"{place}.weight"], lambda old: wide @ old)]
            if f"{place}.bias" in weights:
                layer.append(_set_(weights[f"{place}.bias"], lambda old: wide @ old))
            return layer
    raise InputError(
        f"{type(model).__name__}: found no text projection at {', '.join(PLACES)}; use MappedEncoder instead"
    )


def _set_(weight: Tensor, change: object) -> tuple[Tensor, Tensor]:
    assert callable(change)
    old = weight.detach().clone()
    weight.copy_(change(old.double().cpu()).to(weight))
    return weight, old


def _alike(got: Tensor, wanted: Tensor) -> bool:
    return bool((got - wanted).abs().max() <= _CLOSE * wanted.abs().max())


def _check_width(model: DualEncoder, matrix: Tensor) -> None:
    if tuple(matrix.shape) != (model.dim, model.dim):
        raise InputError(f"matrix: expected ({model.dim}, {model.dim}) for this model, got {tuple(matrix.shape)}")
