"""What makers of images from texts share: they read texts through an encoder at rest, and are files bound to it."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.state_file import check_encoder, read_state, wide_array, write_state
from tether.models.composed.cached import side_digest
from tether.models.convert.weights import filled

_FORMAT = "tether-generator-1"

Made = TypeVar("Made", bound="TextGenerator")


class TextGenerator(nn.Module, abc.ABC):
    """Makes images of texts that an encoder reads; the encoder is no part of its state and gets no gradient.

    Attributes:
        name: in ``generation.GENERATORS``.
        model: the encoder.
        settings: constructor keywords as plain values.
        size: height and width of its images.
    """

    name: ClassVar[str]
    model: Any
    size: tuple[int, int]

    def __init__(self, model: DualEncoder, *, settings: dict[str, Any]) -> None:
        """Hold the encoder."""
        super().__init__()
        self.__dict__["model"], self.settings = model, settings  # not registered as a module

    @property
    def learns(self) -> nn.Module:
        """The part that training moves: all of it, where a method does not say otherwise."""
        return self

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Told all texts before training, for a maker that keeps rows: they depend on what is read together."""

    @abc.abstractmethod
    def loss(
        self, images: Float[Tensor, "b 3 h w"], texts: Sequence[str], *, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """What training lowers, of images in -1 to 1 and one text each; draws come from the generator, on the CPU."""

    @abc.abstractmethod
    def generate(self, texts: Sequence[str], *, generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """One image for each text, in -1 to 1; draws come from the generator, on the CPU."""

    def check_texts(self, texts: Sequence[str], *, name: str = "texts") -> list[str]:
        """The texts as a list.

        Raises:
            InputError: one text in place of a list, or none.
        """
        if isinstance(texts, str) or not len(texts) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{name}: expected a list of at least one text, got {texts!r:.200}")
        return list(texts)

    def check_images(self, images: Tensor, texts: Sequence[str]) -> None:
        """Refuse what is no batch of images with a text each.

        Raises:
            InputError: another shape, no floats, or another number of texts.
        """
        wanted = (len(texts), 3, *self.size)
        if tuple(images.shape) != wanted or not images.is_floating_point():
            raise InputError(
                f"images: expected {wanted} floats in -1 to 1, one for each text, got {tuple(images.shape)} of "
                f"{images.dtype}"
            )

    def save(self, path: Path | str) -> None:
        """Write weights, settings and the digest of the encoder's text side to one safetensors file, atomically."""
        settings = {"name": self.name, "settings": self.settings, "encoder": side_digest(self.model, "text")}
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=_FORMAT, settings=settings, arrays=arrays)

    @classmethod
    def load(cls: type[Made], path: Path | str, *, model: Any) -> Made:
        """Read what ``save`` wrote, with nothing unpickled, in evaluation mode.

        Raises:
            InputError: a file of another kind or of another text side, or one that is damaged.
        """
        written, arrays = read_state(path, what="generator", format=_FORMAT)
        digest = side_digest(model, "text")
        check_encoder(path, recorded=str(written.get("encoder")), encoder=None, digest=digest, name="a text tower")
        try:
            given = {key: tuple(one) if isinstance(one, list) else one for key, one in written["settings"].items()}
            spec = {"name": written["name"], **given}
            found = filled(lambda: build(spec, {cls.name: cls}, where=str(path), model=model), arrays, where=path)
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected the settings and weights of a {cls.__name__}: {error}") from error
        return found.eval()
