"""A step of a classifier looks at some classes only: those of the batch and a few drawn by frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import checked

Weight = Literal["uniform", "linear", "sqrt"]


@dataclass(frozen=True, slots=True)
class SubVocabulary:
    """The classes of one step.

    Attributes:
        classes: (m,) int64, ascending.
        labels: (b,) int64, the place of each label among them.
    """

    classes: Int[Tensor, " m"]
    labels: Int[Tensor, " b"]


class VocabSampler:
    """Draws the classes that a step's logits run over: every class of the batch, filled up to ``size``.

    Each step then competes with a few classes, as CLIP's does with those of its batch, which takes the bias towards
    frequent classes out of a classifier. Evaluate over all classes. A size close to the number of classes has no
    effect, and so has one that the batch alone fills.

    Source: arXiv 2405.21070 section 4, released code (``exps_sup/train_sup.py``, ``sample_class_inds``); there 50 to
    500 of 1,000 classes, typically 100. Differs in that too few classes of positive weight are all taken, where the
    released code fails. The classes of the batch are those of this process.
    """

    @checked
    def __init__(
        self, frequencies: Sequence[float] | np.ndarray | Tensor, *, size: int, weight: Weight = "sqrt"
    ) -> None:
        """Take the frequencies of the training split.

        Args:
            frequencies: (c,) rows of each class, at least 0.
            size: m, from 1 to c.
            weight: of the classes drawn: all alike, by frequency, or by its root.

        Raises:
            InputError: no class, a frequency that is negative or not finite, or a size outside 1..c.
        """
        if isinstance(frequencies, Tensor):
            frequencies = frequencies.detach().cpu().numpy()
        given = np.asarray(frequencies, np.float64)
        if given.ndim != 1 or not len(given):
            raise InputError(f"frequencies: expected one for each class, got shape {given.shape}")
        bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
        if len(bad):
            raise InputError(f"frequencies[{bad[0]}]: expected a finite number of at least 0, got {given[bad[0]]}")
        if not 1 <= size <= len(given):
            raise InputError(f"size: expected 1 to {len(given)}, the number of classes, got {size}")
        self.size, self.weight = size, weight
        powers = {"uniform": np.ones_like(given), "linear": given, "sqrt": np.sqrt(given)}
        self.weights = torch.from_numpy(powers[weight].astype(np.float32))

    def __call__(self, labels: Int[Tensor, " b"], *, generator: torch.Generator | None = None) -> SubVocabulary:
        """The classes of one step.

        Args:
            labels: of the batch, 0 to c - 1; an empty one draws ``size`` classes, as for prototypes without labels.
            generator: of the draw, on the labels' device; None is torch's own.

        Raises:
            InputError: labels that are not whole numbers in range.
        """
        count = len(self.weights)
        if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
            raise InputError(f"labels: expected whole numbers (b,), got {labels.dtype} {tuple(labels.shape)}")
        classes = torch.unique(labels.long())
        if len(classes) and not 0 <= int(classes[0]) <= int(classes[-1]) < count:
            raise InputError(f"labels: expected 0 to {count - 1}, got {int(classes[0])} to {int(classes[-1])}")
        if len(classes) < self.size:
            weights = self.weights.to(labels.device, copy=True)
            weights[classes] = 0.0
            more = min(self.size - len(classes), int(torch.count_nonzero(weights)))
            if more:
                drawn = torch.multinomial(weights, more, replacement=False, generator=generator)
                classes = torch.cat([classes, drawn]).sort().values
        return SubVocabulary(classes, torch.searchsorted(classes, labels.long()))

    def state_dict(self, *, generator: torch.Generator) -> dict[str, Any]:
        """Weights, settings and the state of the generator that the draws come from."""
        return {
            "weights": self.weights.clone(),
            "size": self.size,
            "weight": self.weight,
            "generator": generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, generator: torch.Generator) -> None:
        """Set the generator back to where the state was taken.

        Raises:
            InputError: saved with other weights or another size.
        """
        same = (state["size"], state["weight"]) == (self.size, self.weight)
        if not same or not torch.equal(state["weights"], self.weights):
            raise InputError(
                f"state of size={state['size']}, weight={state['weight']!r} over {len(state['weights'])} classes does "
                f"not fit a sampler of size={self.size}, weight={self.weight!r} over {len(self.weights)}"
            )
        generator.set_state(state["generator"])
