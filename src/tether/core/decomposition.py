"""An image's embedding as a sum of named contributions, each of them a vector of the joint space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.arrays import read_arrays
from tether.core.atomic_io import atomic_path
from tether.core.errors import InputError

Reduce = Literal["none", "tokens", "heads"]
AXES: dict[str, int] = {"none": 5, "tokens": 4, "heads": 4}
"""Axes of ``attention`` for each way to reduce it."""
_FORMAT = "tether-decomposition-1"
_ARRAYS = ("attention", "mlp", "representation")


@dataclass(frozen=True, slots=True)
class Decomposition:
    """What each part of an image tower adds to the unit embedding of each image (arXiv 2310.05916, section 3).

    All contributions are already in the joint space, with the final norm folded in and divided by the length of the
    embedding, so that all of them together are the unit embedding.

    Attributes:
        attention: (b, layers, tokens, heads, d) from each source token through each head; token 0 is the class token
            where the tower has one. (b, layers, heads, d) summed over tokens, (b, layers, tokens, d) over heads.
        mlp: (b, layers + 1, d) of the feed-forward nets; entry 0 is the token that is read, as it enters block 0. A
            pooling head with a feed-forward net of its own adds one entry at the end.
        representation: (b, d) the embedding itself, not normalised.
        reduce: which axis of ``attention`` is summed: ``none``, ``tokens`` or ``heads``.
        class_tokens: how many leading tokens are no patches.
    """

    attention: Float[Tensor, "b l ..."]
    mlp: Float[Tensor, "b m d"]
    representation: Float[Tensor, "b d"]
    reduce: Reduce = "none"
    class_tokens: int = 1

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        if self.reduce not in AXES:
            raise InputError(f"reduce: expected one of {', '.join(AXES)}, got {self.reduce!r}")
        shapes = [tuple(x.shape) for x in (self.attention, self.mlp, self.representation)]
        fits = self.attention.ndim == AXES[self.reduce] and self.mlp.ndim == 3 and self.representation.ndim == 2
        if not fits or len({(shape[0], shape[-1]) for shape in shapes}) != 1:
            raise InputError(
                f"expected attention of {AXES[self.reduce]} axes, mlp (b, m, d) and representation (b, d), got {shapes}"
            )

    def total(self) -> Float[Tensor, "b d"]:
        """All contributions together: the unit embedding."""
        return self.attention.flatten(1, -2).sum(1) + self.mlp.sum(1)

    @property
    def heads(self) -> Float[Tensor, "b l h d"]:
        """What each head adds, over all tokens.

        Raises:
            InputError: the heads were summed away.
        """
        if self.reduce == "heads":
            raise InputError("heads: they were summed away; decompose with reduce='none' or 'tokens'")
        return self.attention.sum(2) if self.reduce == "none" else self.attention

    @property
    def tokens(self) -> Float[Tensor, "b l t d"]:
        """What each source token adds in each layer, over all heads.

        Raises:
            InputError: the tokens were summed away.
        """
        if self.reduce == "tokens":
            raise InputError("tokens: they were summed away; decompose with reduce='none' or 'heads'")
        return self.attention.sum(3) if self.reduce == "none" else self.attention

    def mean(self) -> Self:
        """The mean over the images, as a decomposition of one row: what ``mean_ablate`` puts in a part's place."""
        return dataclasses.replace(
            self,
            attention=self.attention.mean(0, keepdim=True),
            mlp=self.mlp.mean(0, keepdim=True),
            representation=self.representation.mean(0, keepdim=True),
        )

    def save(self, path: Path | str, *, digest: str = "") -> None:
        """Write the arrays to one ``.npz`` file, atomically.

        Args:
            path: of the file.
            digest: of the model's weights, such as ``core.model_digest.model_digest`` gives it.
        """
        with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                attention=self.attention.detach().cpu().numpy(),
                mlp=self.mlp.detach().cpu().numpy(),
                representation=self.representation.detach().cpu().numpy(),
                facts=np.array([_FORMAT, self.reduce, str(self.class_tokens), digest]),
            )

    @classmethod
    def load(cls, path: Path | str, *, digest: str = "") -> Self:
        """Read what ``save`` wrote; nothing is unpickled.

        Args:
            path: of the file.
            digest: of the model in hand; the file must have been made with it. The empty word does not ask.

        Raises:
            InputError: no such file, another kind of file, or one of another model.
        """
        found = read_arrays(path, what="decomposition")
        facts = found.get("facts", np.array([]))
        if facts.shape != (4,) or facts[0] != _FORMAT or not {*_ARRAYS} <= {*found} or not str(facts[2]).isdigit():
            raise InputError(f"{path}: expected a file of Decomposition.save ({_FORMAT}), got arrays {sorted(found)}")
        if strange := [name for name in _ARRAYS if found[name].dtype not in (np.float16, np.float32, np.float64)]:
            raise InputError(f"{path}: {strange[0]}: expected floating-point numbers, got {found[strange[0]].dtype}")
        _, reduce, class_tokens, made_with = facts.tolist()
        if digest and made_with != digest:
            raise InputError(f"{path}: made with a model of digest {made_with or 'unknown'}, this one is {digest}")
        arrays = (torch.from_numpy(found[name]) for name in _ARRAYS)
        return cls(*arrays, reduce=reduce, class_tokens=int(class_tokens))
