"""What every head is, and its file."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Lt
from jaxtyping import Float
from torch import Tensor

from tether.core.atomic_io import local
from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.printable import is_line, quoted
from tether.core.protocols import DualEncoder
from tether.core.state_file import SHOWN, known_digest, read_state, write_state
from tether.models.convert.saved_files import HEAD_FILE, HEAD_FORMAT
from tether.models.features.image_digest import image_digest
from tether.models.load import is_model_folder

LARGEST = 1e30
"""All numbers of a head and all its logits stay below: float32 holds them also times the scale of a calibration."""

Strength = Annotated[float, Ge(0), Lt(LARGEST)]
Multiplier = Annotated[float, Gt(0), Lt(LARGEST)]
_OWN = ("kind", "classes", "encoder")
Bound = TypeVar("Bound", bound="Head")


@dataclass(frozen=True, slots=True)
class HeadUse:
    """How a verb takes a head.

    Attributes:
        method: name of the part that takes it, as ``--with`` names it.
        brought: what was learnt, by that part's name for it.
        defaults: other settings of the part, which a user may change.
        fixed: settings of the part that the head decides.
    """

    method: str
    brought: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)


class Head(abc.ABC):
    """Names images from their embeddings: ``logits`` of the classes whose softmax is the confidence.

    A kind of head has arrays and plain settings, both of which its file holds; ``restore`` makes it of them again.

    Attributes:
        kind: its name in ``ADAPTED_HEADS``.
        verb: command that takes the head by ``use``: ``detect``, ``segment`` or ``sharpen``; None names images.
        recipe: recipe of ``tether adapt`` that makes it.
        classes: the c names, in the order of the logits.
        encoder: digest of the image side that it was fitted on, see ``image_digest``; None until ``bind_``.
        where: its file, or ``head`` until it has one; errors begin with it.
    """

    kind: ClassVar[str]
    verb: ClassVar[str | None] = None
    recipe: ClassVar[str] = ""

    def __init__(self, classes: Sequence[str], *, least: int = 2) -> None:
        """Take the names.

        Args:
            classes: different ones, without control characters.
            least: how many there must be; 1 for a head that tells something else than classes.
        """
        self.classes, self.where = tuple(classes), "head"
        for number, name in enumerate(self.classes):
            if not is_line(name):
                raise InputError(
                    f"classes: number {number + 1} of {len(self.classes)}: expected text without control characters, "
                    f"got {quoted(name)}"
                )
        if len(set(self.classes)) != len(self.classes) or len(self.classes) < least:
            count = "one name, each once" if least == 1 else "two different names"
            raise InputError(f"classes: expected at least {count}, got {quoted(list(classes))}")
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

    def use(self) -> HeadUse:
        """How ``verb`` takes it; a head that names images has no such verb, and nothing calls this."""
        raise NotImplementedError(f"a head of kind {self.kind}: {self.verb}")

    def names_none(self) -> str | None:
        """What it is for where its classes are no names for images, and which command takes it; None where they are."""
        return None

    def reader(self, model: DualEncoder) -> DualEncoder:
        """The encoder whose embeddings it takes: the model itself, or one around it that reads other states."""
        return model

    def logits(self, image: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        """The same, once the embeddings are seen to fit.

        Raises:
            InputError: embeddings of another length, some that are not finite, or logits that are not or too large; it
                names what of the head is largest.
        """
        if image.ndim != 2 or image.shape[1] != self.dim:
            raise InputError(f"{self.where}: expected (n, {self.dim}) embeddings, got {tuple(image.shape)}")
        rows = image.float().cpu()
        if not torch.isfinite(rows).all():
            raise InputError(f"{self.where}: an embedding is not finite (NaN or infinity)")
        found = self.scores(rows)
        if not _are_sound(found):
            sizes = {name: float(np.abs(value).max(initial=0)) for name, value in self.arrays().items()}
            sizes |= {name: value for name, value in self.settings().items() if isinstance(value, float)}
            largest = max(sizes, key=lambda name: sizes[name])
            raise InputError(
                f"{self.where}: its logits are NaN or {LARGEST:g} and more; its largest numbers are those of "
                f"{largest!r}, up to {sizes[largest]:g}; fit it again"
            )
        return found

    def check_numbers(self) -> None:
        """For a constructor: refuse an array with NaN, infinity, or a number too large.

        Raises:
            InputError: it names the array.
        """
        for name, value in self.arrays().items():
            if not _are_sound(torch.from_numpy(value)):
                raise InputError(
                    f"{self.kind} head: {name!r}: expected finite numbers below {LARGEST:g}, got up to "
                    f"{np.abs(value).max():g}"
                )

    def bind_(self: Bound, model: DualEncoder) -> Bound:
        """Note the encoder that it was fitted on."""
        if (given := self.reader(model).dim) != self.dim:
            raise InputError(f"{self.where}: is for embeddings of length {self.dim}, the model's have {given}")
        self.encoder = image_digest(model)
        return self

    def check(self, model: DualEncoder) -> None:
        """Refuse a model with another image side.

        Raises:
            InputError: it names both digests.
        """
        found = image_digest(model)
        if found != self.encoder:
            raise InputError(
                f"{self.where}: was fitted on an image side with digest {str(self.encoder)[:SHOWN]}, this model's has "
                f"{found[:SHOWN]}; take the model that it was fitted on, or fit it again"
            )

    def save(self, folder: Path | str) -> Path:
        """Write it to a folder, atomically; ``load_head`` opens it.

        Raises:
            InputError: it was never bound to an encoder.
        """
        settings = {"kind": self.kind, "classes": self.classes, "encoder": known_digest(self.encoder)}
        write_state(
            Path(folder) / HEAD_FILE, format=HEAD_FORMAT, settings=settings | self.settings(), arrays=self.arrays()
        )
        return Path(folder)


def read_head(folder: Path | str, kinds: Mapping[str, type[Head]], *, model: DualEncoder | None = None) -> Head:
    """See ``adaptation.heads.load_head``; ``kinds`` are those that a file may name."""
    path = _file_of(local(folder))
    settings, arrays = read_state(path, what="head", format=HEAD_FORMAT)
    try:
        kind, classes, encoder = (settings.pop(name) for name in _OWN)
        if not isinstance(kind, str) or kind not in kinds:
            raise InputError(f"unknown kind of head {quoted(kind)}; {closest(str(kind), kinds)}")
        if not isinstance(encoder, str):
            raise InputError(f"encoder: expected a digest, got {quoted(encoder)}")
        head = kinds[kind].restore(arrays, classes=classes, settings=settings)
    except KeyError as error:
        raise InputError(f"{path}: not the state of a head: {error} is missing") from error
    except (ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path}: not the state of a head: {error}") from error
    head.encoder, head.where = encoder, str(path)
    if model is not None:
        head.check(model)
    return head


def _file_of(folder: Path) -> Path:
    """The file of a head's folder; what else the folder may be is said."""
    path = folder / HEAD_FILE
    if path.is_file():
        return path
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "no such folder"
    else:
        found = "holds a model and no head" if is_model_folder(folder) else f"holds no {HEAD_FILE}"
    raise InputError(
        f"{folder}: {found}; expected the folder of a head that tether adapt made, as --head takes it; a model goes to "
        "--model"
    )


def _are_sound(numbers: Tensor) -> bool:
    return bool((numbers.abs() < LARGEST).all())  # NaN is not
