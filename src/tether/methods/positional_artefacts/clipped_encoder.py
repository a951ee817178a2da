"""Encoders whose outlier coordinates come out as zero: transformers models, and towers before their projection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, final

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.types import Features
from tether.space.outlier_dims import check_dims, clip_dims

CONFIG_KEY = "clipped_dims"
"""Where a transformers configuration keeps the coordinates."""


@final
class ClippedEncoder(nn.Module):
    """A transformers encoder whose hidden states have the given coordinates set to zero, after the fact.

    The forward inside is unchanged; ``last_hidden_state`` and every one of ``hidden_states`` come out clipped, and a
    pooled output, which the model makes of its own unclipped states, is left as it is. The coordinates are kept in the
    model's configuration, so ``save_pretrained`` writes them and the wrapper finds them again.

    Source: arXiv 2011.04393, section 4.
    """

    def __init__(self, model: nn.Module, *, dims: Sequence[int] | None = None) -> None:
        """Wrap a model; it is not copied.

        Args:
            model: of transformers, with a ``config`` and a hidden size in it.
            dims: coordinates to set to zero; None takes those that the configuration holds.
        """
        super().__init__()
        self.model = model
        self._config = cast(Any, model).config
        known = self._config.to_dict()
        if dims is None:
            if CONFIG_KEY not in known:
                raise InputError(f"dims: expected coordinates, as the configuration holds no {CONFIG_KEY!r}")
            dims = known[CONFIG_KEY]
        self.dims: tuple[int, ...] = tuple(check_dims(list(dims), width=int(self._config.hidden_size)))
        setattr(self._config, CONFIG_KEY, list(self.dims))

    def save_pretrained(self, folder: str) -> None:
        """Write the model and, in its configuration, the coordinates."""
        cast(Any, self.model).save_pretrained(folder)

    def forward(self, inputs: Mapping[str, Any]) -> Any:
        """The model's own output with clipped states.

        Args:
            inputs: what the model takes by name, such as a tokenizer's output.
        """
        out = self.model(**{"return_dict": True, **inputs})
        clipped: dict[str, Any] = dict(out)
        for name in ("last_hidden_state", "hidden_states"):
            if name in clipped:
                states = clipped[name]
                clipped[name] = tuple(map(self._clip, states)) if isinstance(states, tuple) else self._clip(states)
        return type(out)(**clipped)

    def _clip(self, states: Tensor) -> Tensor:
        return clip_dims(states, dims=self.dims)


class _Tower(Protocol):
    projection: nn.Module

    def project(self, tokens: Tensor) -> Tensor: ...


class _Towers(Protocol):
    visual: _Tower
    text: _Tower

    def encode_image(self, image: Tensor, *, mask: Tensor | None, want: str) -> Features: ...

    def encode_text(self, text: Tensor, *, mask: Tensor | None, want: str) -> Features: ...


@final
class ClippedDualEncoder(EncoderAround):
    """A CLIP whose towers' states lose the given coordinates before the final projection, which would mix them.

    The states are those that ``encode_image(..., want="tokens").tokens`` gives: normed, in the tower's own width. For
    use, ``fold_`` writes the same into the projections' weights: exact, at
    no cost, and every way of saving or exporting keeps it.

    Source: arXiv 2011.04393, section 4, carried over to two towers.

    Attributes:
        config: the coordinates of both towers, plain values.
    """

    def __init__(self, model: DualEncoder, *, image_dims: Sequence[int] = (), text_dims: Sequence[int] = ()) -> None:
        """Wrap a model made by ``tether.load`` or ``tether.models.create``.

        Args:
            model: with towers of Tether's own; a wrapped model of another library hides its projections, so clip its
                embeddings with ``OutlierClipper``.
            image_dims: coordinates of the image tower's width.
            text_dims: coordinates of the text tower's width.
        """
        weights = {side: _projection(model, side) for side in ("visual", "text")}
        super().__init__(model)
        self.config: dict[str, list[int]] = {
            "image_dims": check_dims(list(image_dims), width=weights["visual"].shape[1]),
            "text_dims": check_dims(list(text_dims), width=weights["text"].shape[1]),
        }

    def encode_image(self, image: Tensor, *, mask: Tensor | None = None) -> Features:
        """(b, 3, h, w) uint8 pixels or normalised floats; the tokens come out clipped too."""
        towers = cast(_Towers, self.model)
        seen = towers.encode_image(image, mask=mask, want="tokens")
        tokens = clip_dims(_tokens(seen), dims=self.config["image_dims"])
        return Features(towers.visual.project(tokens[:, 0]), tokens, seen.mask)

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) int64 token ids as the tokenizer gives them; the tokens come out clipped too."""
        towers = cast(_Towers, self.model)
        seen = towers.encode_text(text, mask=mask, want="tokens")
        tokens = clip_dims(_tokens(seen), dims=self.config["text_dims"])
        ends = cast(Any, towers.text).ends(text)
        rows = torch.arange(len(text), device=text.device)
        return Features(towers.text.project(tokens[rows, ends]), tokens, seen.mask)

    @torch.no_grad()
    def fold_(self) -> nn.Module:
        """Set the projections' columns of these coordinates to zero in the model itself, and return the model."""
        for side, dims in (("visual", self.config["image_dims"]), ("text", self.config["text_dims"])):
            _projection(self.model, side)[:, dims] = 0
        return self.model


def _tokens(features: Features) -> Tensor:
    if features.tokens is None:
        raise InputError("the model gave no tokens")
    return features.tokens


def _projection(model: object, side: str) -> Tensor:
    """(dim, width) weight of a tower's projection."""
    try:
        tower = cast(nn.Module, model).get_submodule(side)
        if getattr(tower, "pool", "class") == "mean":
            raise InputError(f"the {side} tower projects a mean; expected one that projects a token (pool: class)")
        return tower.get_submodule("projection").get_parameter("weight")
    except AttributeError:
        raise InputError(
            f"{type(model).__name__} has no {side}.projection to clip in front of; "
            "clip its embeddings with tether.methods.positional_artefacts.OutlierClipper"
        ) from None
