"""The two halves of a composed encoder: any module that gives one row for an image, or for a text."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.protocols import Tokenizer
from tether.core.types import ImageSpec
from tether.models.towers.sizes import Sizes

Training = Literal["locked", "tuned"]


Tower = TypeVar("Tower", bound="TowerSide")


class TowerSide(nn.Module, abc.ABC):
    """A module of any library with what belongs to it; a locked one has no gradients and stays in eval mode.

    Attributes:
        inner: the library's module.
        width: length of a row of its output.
        settings: plain values from which the same architecture is built again.
        locked: whether it rests while the model is trained, so that its output can be cached.
    """

    def __init__(self, inner: nn.Module, *, width: int, settings: Mapping[str, Any]) -> None:
        """Hold the module, to be tuned until ``lock_`` says otherwise."""
        super().__init__()
        self.inner, self.width, self.settings, self.locked = inner, width, dict(settings), False

    def behaviour(self) -> dict[str, Any]:
        """Plain values that decide its outputs beside its weights, for ``core.model_digest``."""
        return self.settings

    @abc.abstractmethod
    def at_sizes(self: Tower, sizes: Sizes) -> Tower:
        """The same architecture at other sizes; its weights are any."""

    def lock_(self, training: Training) -> None:
        """Let it rest or learn."""
        self.locked = training == "locked"
        self.requires_grad_(not self.locked)
        self.train(self.training)

    def train(self, mode: bool = True) -> TowerSide:
        """As any module's, but a locked tower stays in eval mode."""
        return super().train(mode and not self.locked)


class ImageSide(TowerSide):
    """Normalised pixels to rows.

    Attributes:
        image_spec: how its images must be prepared.
    """

    def __init__(self, inner: nn.Module, *, width: int, image_spec: ImageSpec, settings: Mapping[str, Any]) -> None:
        """Hold the module."""
        super().__init__(inner, width=width, settings=settings)
        self.image_spec = image_spec

    @property
    def reader(self) -> Callable[[Tensor], Tensor] | None:
        """What makes its rows of the inner tower's tokens, (b, n, w) to (b, v); None where the inner tower does."""
        return None

    @property
    def unchanged(self) -> ImageSide | None:
        """The tower inside whose rows are this one's, where it only has something beside it."""
        return None

    @property
    def patch_side(self) -> int | None:
        """Side of a patch in pixels; None for a tower without patches of one size."""
        return None

    @property
    def stride(self) -> int | None:
        """Pixels from one position to the next; None for a tower without positions."""
        return self.patch_side

    @property
    def table_size(self) -> tuple[int, int]:
        """Height and width of the images that it has positions for."""
        return self.image_spec.size

    def described_image(self, sizes: Sizes) -> dict[str, Any]:
        """The preparation of ``settings`` at other sizes; at its own it stays word for word."""
        changed: Mapping[str, Any] = {} if sizes.image == self.image_spec else asdict(sizes.image)
        return {**self.settings["image"], **changed}

    @abc.abstractmethod
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b w"]:
        """One row for each image, not normalised."""


class TextSide(TowerSide):
    """Token ids to rows.

    Attributes:
        tokenizer: text to ids.
    """

    def __init__(self, inner: nn.Module, *, width: int, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> None:
        """Hold the module."""
        super().__init__(inner, width=width, settings=settings)
        self.tokenizer = tokenizer

    @property
    @abc.abstractmethod
    def text_rows(self) -> int:
        """Tokens that the tower has positions for."""

    @abc.abstractmethod
    def forward(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b w"]:
        """One row for each text, not normalised; ids are zero after the end token."""
