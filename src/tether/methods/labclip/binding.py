"""A linear map on text embeddings that tells "a red star and a blue ring" from its swapped twin (arXiv 2502.03566)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.methods.labclip.binding_fold import MappedEncoder, fold_text_map_

if TYPE_CHECKING:
    from tether.core.protocols import DualEncoder

LEARNING_RATE, BATCH, STEPS = 3e-3, 128, 800  # the paper's are unknown; these served in a toy of ours
CHECK_EVERY, PATIENCE = 50, 5
"""Steps between two looks at the validation rows, and looks without a better one before the fit stops."""
_SAME = 1e-6  # rows closer than this, relative to their length, are one caption
_FORMAT = "tether-binding-map-1"


@dataclass(frozen=True, slots=True)
class BindingFit:
    """How a fit went.

    Attributes:
        steps: optimiser steps taken.
        best_step: the step whose matrix was kept; the last one without validation rows.
        train_loss: mean loss of the last steps before that, at most 50.
        validation_loss: loss on the validation rows there, or None.
    """

    steps: int
    best_step: int
    train_loss: float
    validation_loss: float | None


def binding_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    text_neg: Float[Tensor, "b d"],
    *,
    logit_scale: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """CLIP's loss with a swapped caption for every pair among each image's candidates.

    Each image must find its text among the b texts and the b swapped ones, each text its image among the b images: the
    swapped captions have no image of their own (the convention of NegCLIP).

    Source: arXiv 2502.03566, section 5; the plain half from text to image is our reading of it.

    Args:
        image: rows of length 1.
        text: rows of length 1; row i belongs to ``image[i]``.
        text_neg: rows of length 1; row i is the swapped twin of ``text[i]``.
        logit_scale: multiplier of the cosines, already exponentiated.
    """
    _check_shapes(image, text, text_neg)
    target = torch.arange(len(image), device=image.device)
    to_text = logit_scale * image @ torch.cat([text, text_neg]).T
    to_image = logit_scale * text @ image.T
    return (F.cross_entropy(to_text, target) + F.cross_entropy(to_image, target)) / 2


def binding_accuracy(image: Float[Tensor, "n d"], text: Float[Tensor, "n d"], text_neg: Float[Tensor, "n d"]) -> float:
    """Fraction of the images that are closer, by cosine, to their caption than to its swapped twin; chance is 0.5.

    A tie is a miss, so an encoder that cannot tell the two apart scores nothing.

    Source: arXiv 2502.03566, section 5.

    Args:
        image: embeddings of any length above zero.
        text: of the captions; pass ``LinearBindingMap``'s output for the accuracy behind the map.
        text_neg: of their twins.
    """
    _check_shapes(image, text, text_neg)
    for name, rows in (("image", image), ("text", text), ("text_neg", text_neg)):
        _check_finite(rows, name)
    own, other = F.cosine_similarity(image, text), F.cosine_similarity(image, text_neg)
    return (own > other).double().mean().item()


@final
class LinearBindingMap(nn.Module):
    """One (d, d) matrix on frozen text embeddings, without a bias, that brings attribute binding across.

    It is fitted on three matched tables: images, their captions, and the captions with the attributes of two things
    exchanged. Images stay as they are, so stored image embeddings stay valid. ``wrap`` puts it behind any encoder's
    text side, ``fold_`` writes it into the text tower's own projection, where it costs nothing.

    Source: arXiv 2502.03566, section 5. Three things are our choice, as no code could be obtained: Adam and its
    settings, the frozen logit scale, and weight decay of the difference from the identity (a decay of the matrix itself
    would pull it to zero).

    Attributes:
        matrix: (d, d) parameter.

    Example:
        >>> import torch
        >>> from tether.methods.labclip import LinearBindingMap
        >>> image, text, twin = torch.randn(3, 40, 8)  # embeddings of images, captions, and their twins
        >>> binding = LinearBindingMap(8)
        >>> report = binding.fit(image, text, twin, logit_scale=10.0, generator=torch.Generator(), steps=20)
        >>> binding(text).shape, bool((binding(text).norm(dim=1) - 1).abs().max() < 1e-5)
        (torch.Size([40, 8]), True)
    """

    @checked
    def __init__(self, dim: Count, *, init: Literal["identity"] | Float[Tensor, "d d"] = "identity") -> None:
        """Start from a matrix.

        Args:
            dim: d.
            init: ``identity``, which changes nothing, or a finite (d, d) matrix.
        """
        super().__init__()
        if isinstance(init, str):
            start = torch.eye(dim)
        else:
            start = init.detach().clone()
            if start.shape != (dim, dim) or not start.is_floating_point() or not torch.isfinite(start).all():
                raise InputError(
                    f"init: expected a finite ({dim}, {dim}) matrix, got {start.dtype} {tuple(start.shape)}"
                )
        self.matrix = nn.Parameter(start)

    @property
    def dim(self) -> int:
        """Size of the space."""
        return len(self.matrix)

    def forward(self, text: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Mapped rows of length 1.

        Args:
            text: (n, d) raw text embeddings.
        """
        return F.normalize(self.raw(text), dim=-1)

    def raw(self, text: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Mapped rows with their lengths left in."""
        if text.ndim != 2 or text.shape[1] != self.dim:
            raise InputError(f"text: expected (n, {self.dim}), got {tuple(text.shape)}")
        return text @ self.matrix.to(text.dtype).T

    def loss(
        self,
        image: Float[Tensor, "b d"],
        text: Float[Tensor, "b d"],
        text_neg: Float[Tensor, "b d"],
        *,
        logit_scale: Float[Tensor, ""] | float,
    ) -> Float[Tensor, ""]:
        """``binding_loss`` of unit images and mapped captions."""
        return binding_loss(
            F.normalize(image, dim=-1), self.forward(text), self.forward(text_neg), logit_scale=logit_scale
        )

    @checked
    def fit(
        self,
        image: Float[Tensor, "n d"],
        text: Float[Tensor, "n d"],
        text_neg: Float[Tensor, "n d"],
        *,
        logit_scale: Float[Tensor, ""] | float,
        generator: torch.Generator,
        validation: tuple[Tensor, Tensor, Tensor] | None = None,
        lr: Positive = LEARNING_RATE,
        batch_size: Count = BATCH,
        steps: Count = STEPS,
        weight_decay: NonNegative = 0.0,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> BindingFit:
        """Learn the matrix from frozen embeddings, on the device where they lie.

        Split by combination before you call it: when {red star, blue ring} is held out, so must be its twin.

        Args:
            image: frozen embeddings.
            text: of their captions, raw.
            text_neg: of the captions with attributes exchanged, raw.
            logit_scale: of the model; it stays as it is.
            generator: draws the batches; on the CPU.
            validation: the same three for rows of other combinations, looked at ``batch_size`` rows at a time; the
                matrix that does best there is kept, be it the first one, and the fit stops when it has not improved
                for a while.
            lr: Adam's learning rate.
            batch_size: rows in a step; at most n are taken.
            steps: most steps.
            weight_decay: pull toward the identity (>= 0): the decay of ``matrix - I``.
            on_progress: called with (steps done, steps).
        """
        self._check_rows(image, text, text_neg, where="")
        if validation is not None:
            self._check_rows(*validation, where="validation ")
        scale = torch.as_tensor(logit_scale).detach().to(image)
        optimizer = torch.optim.Adam([self.matrix], lr=lr)
        with torch.no_grad():
            identity = torch.eye(self.dim, device=self.matrix.device, dtype=self.matrix.dtype)
        best = float("inf") if validation is None else self._score(validation, scale=scale, batch_size=batch_size)
        best_step, kept, losses = 0, self.matrix.detach().clone(), []
        step = 0
        for step in range(1, steps + 1):
            rows = torch.randperm(len(image), generator=generator)[:batch_size].to(image.device, non_blocking=True)
            optimizer.zero_grad()
            loss = self.loss(image[rows], text[rows], text_neg[rows], logit_scale=scale)
            loss.backward()
            if weight_decay:
                with torch.no_grad():
                    self.matrix.sub_(lr * weight_decay * (self.matrix - identity))
            optimizer.step()
            losses.append(loss.detach())
            if on_progress is not None:
                on_progress(step, steps)
            if validation is not None and (step % CHECK_EVERY == 0 or step == steps):
                score = self._score(validation, scale=scale, batch_size=batch_size)
                if score < best:
                    best, best_step, kept = score, step, self.matrix.detach().clone()
                elif step - best_step >= PATIENCE * CHECK_EVERY:
                    break
        if validation is None:
            best_step = step
        else:
            with torch.no_grad():
                self.matrix.copy_(kept)
        seen = torch.stack(losses[max(0, best_step - CHECK_EVERY) : max(1, best_step)])
        return BindingFit(step, best_step, float(seen.mean()), None if validation is None else best)

    @torch.no_grad()
    def _score(self, rows: tuple[Tensor, Tensor, Tensor], *, scale: Tensor, batch_size: int) -> float:
        """Mean loss over the rows, each among the others of its block, so that memory does not grow with them."""
        blocks = zip(*(part.split(batch_size) for part in rows), strict=True)
        sums = [self.loss(*block, logit_scale=scale) * len(block[0]) for block in blocks]
        return float(torch.stack(sums).sum()) / len(rows[0])

    def wrap(self, model: DualEncoder) -> MappedEncoder:
        """The model with this map behind its text side: any encoder that ``tether.load`` gives; nothing is copied."""
        return MappedEncoder(model, matrix=self.matrix)

    def fold_(self, model: nn.Module) -> nn.Module:
        """Write the map into the model's own text projection, exactly, and return the model; see ``fold_text_map_``."""
        return fold_text_map_(model, matrix=self.matrix)

    def save(self, path: Path | str, *, base: str) -> None:
        """Write the matrix and the name of the model it belongs to as one safetensors file, atomically."""
        write_state(path, format=_FORMAT, settings={"base": base}, arrays={"matrix": wide_array(self.matrix)})

    @classmethod
    def load(cls, path: Path | str, *, base: str | None = None, dim: int | None = None) -> LinearBindingMap:
        """Read what ``save`` wrote.

        Args:
            path: the file.
            base: the model it is meant for; None takes any.
            dim: the width it is meant for; None takes any.
        """
        settings, arrays = read_state(path, what="LinearBindingMap", format=_FORMAT, arrays=frozenset({"matrix"}))
        matrix = torch.from_numpy(np.array(arrays["matrix"]))
        if base is not None and settings["base"] != base:
            raise InputError(f"{path}: this map belongs to {settings['base']!r}, not to {base!r}")
        if dim is not None and len(matrix) != dim:
            raise InputError(f"{path}: this map has {len(matrix)} dimensions, expected {dim}")
        return cls(len(matrix), init=matrix)

    def _check_rows(self, image: Tensor, text: Tensor, text_neg: Tensor, *, where: str) -> None:
        _check_shapes(image, text, text_neg)
        if image.shape[1] != self.dim:
            raise InputError(f"{where}rows: expected width {self.dim}, got {tuple(image.shape)}")
        for name, rows in (("image", image), ("text", text), ("text_neg", text_neg)):
            _check_finite(rows, where + name)
        apart = torch.linalg.vector_norm(text - text_neg, dim=1)
        same = torch.nonzero(apart <= _SAME * torch.linalg.vector_norm(text, dim=1)).flatten()
        if len(same):
            raise InputError(
                f"{where}text_neg: {len(same)} of {len(text)} rows equal their caption, the first is row "
                f"{int(same[0])}: exchanging equal attributes changes nothing, leave such rows out"
            )


def _check_shapes(image: Tensor, text: Tensor, text_neg: Tensor) -> None:
    shapes = [tuple(rows.shape) for rows in (image, text, text_neg)]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2 or shapes[0][0] == 0:
        raise InputError(f"expected images, texts and swapped texts (n, d) of one shape with n >= 1, got {shapes}")


def _check_finite(rows: Tensor, name: str) -> None:
    bad = torch.nonzero(~torch.isfinite(rows).all(dim=1)).flatten()
    if len(bad):
        raise InputError(f"{name}: {len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {int(bad[0])}")
