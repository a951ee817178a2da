"""What every head is, and its file."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.adapt.heads.digest import image_digest
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.state_file import SHOWN, known_digest, read_state, write_state

HEAD_FILE = "head.safetensors"
_FORMAT = "tether.head/1"
_OWN = ("kind", "classes", "encoder")
Bound = TypeVar("Bound", bound="Head")


class Head(abc.ABC):
    """Names images from their embeddings: ``logits`` of the classes whose softmax is the confidence.

    A kind of head has arrays and plain settings, both of which its file holds; ``restore`` makes it of them again.

    Attributes:
        kind: its name in ``HEADS``.
        classes: the c names, in the order of the logits.
        encoder: digest of the image side that it was fitted on, see ``image_digest``; None until ``bind_``.
    """

    kind: ClassVar[str]

    def __init__(self, classes: Sequence[str]) -> None:
        """Args: classes: different names, at least two."""
        self.classes = tuple(classes)
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            raise InputError(f"classes: expected at least two different names, got {list(classes)!r:.200}")
        self.encoder: str | None = None

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length d of the embeddings that it takes."""

    @abc.abstractmethod
    def scores(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """Logits of (n, d) embeddings as the encoder gives them, not normalised."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All that was learnt, by name."""

    def settings(self) -> dict[str, Any]:
        """Plain values that ``restore`` needs besides."""
        return {}

    @classmethod
    @abc.abstractmethod
    def restore(cls, arrays: Mapping[str, np.ndarray], *, classes: Sequence[str], settings: Mapping[str, Any]) -> Head:
        """The head whose ``arrays`` and ``settings`` these are."""

    def reader(self, model: DualEncoder) -> DualEncoder:
        """The encoder whose embeddings it takes: the model itself, or one around it that reads other states."""
        return model

    def logits(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """The same, once the embeddings are seen to fit.

        Raises:
            InputError: embeddings of another length, or some that are not finite.
        """
        if image.ndim != 2 or image.shape[1] != self.dim:
            raise InputError(f"head: expected (n, {self.dim}) embeddings, got {tuple(image.shape)}")
        if not torch.isfinite(image).all():
            raise InputError("head: an embedding is not finite (NaN or infinity)")
        return self.scores(image.float().cpu())

    def bind_(self: Bound, model: DualEncoder) -> Bound:
        """Note the encoder that it was fitted on."""
        if (given := self.reader(model).dim) != self.dim:
            raise InputError(f"head: is for embeddings of length {self.dim}, the model's have {given}")
        self.encoder = image_digest(model)
        return self

    def check(self, model: DualEncoder, *, where: str = "head") -> None:
        """Refuse a model with another image side.

        Raises:
            InputError: it names both digests.
        """
        found = image_digest(model)
        if found != self.encoder:
            raise InputError(
                f"{where}: was fitted on an image side with digest {str(self.encoder)[:SHOWN]}, this model's has "
                f"{found[:SHOWN]}; take the model that it was fitted on, or fit it again"
            )

    def save(self, folder: Path | str) -> Path:
        """Write it to a folder, atomically; ``load_head`` opens it.

        Raises:
            InputError: it was never bound to an encoder.
        """
        settings = {"kind": self.kind, "classes": self.classes, "encoder": known_digest(self.encoder)}
        write_state(Path(folder) / HEAD_FILE, format=_FORMAT, settings=settings | self.settings(), arrays=self.arrays())
        return Path(folder)


def read_head(folder: Path | str, kinds: Mapping[str, type[Head]], *, model: DualEncoder | None = None) -> Head:
    """See ``adapt.heads.load_head``; ``kinds`` are those that a file may name."""
    path = Path(folder) / HEAD_FILE
    settings, arrays = read_state(path, what="head", format=_FORMAT)
    try:
        kind, classes, encoder = (settings.pop(name) for name in _OWN)
        if kind not in kinds:
            raise InputError(f"{path}: unknown kind of head {kind!r}; {closest(str(kind), kinds)}")
        head = kinds[kind].restore(arrays, classes=classes, settings=settings)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: not the state of a head: {error}") from error
    head.encoder = str(encoder)
    if model is not None:
        head.check(model, where=str(path))
    return head
