"""Exponential moving averages: of a run's weights, and of a whole encoder that can be asked at every step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Count, Share, checked
from tether.models.towers.frozen_copy import frozen_copy
from tether.training.parallel import placed_like, whole

Shape = Literal["cosine", "linear"]
TRAILING = ":trailing"
"""Ends the name of the copy that trails a head of a step; it is among the step's heads, too."""


@torch.no_grad()
def approach_(averages: Iterable[Tensor], weights: Iterable[Tensor], *, share: float) -> None:
    """``average <- (1 - share) * average + share * weights``, tensor by tensor, in the averages' dtype and place."""
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight.detach().to(average), share)


@torch.no_grad()
def trail_(copied: nn.Module, module: nn.Module, *, momentum: float) -> None:
    """Move a ``buffer_copy`` one step toward the weights of its module; every process must call it."""
    averages, weights = dict(copied.named_buffers()), dict(module.named_parameters())
    approach_([averages[name] for name in weights], map(_whole, weights.values()), share=1 - momentum)


class WeightAverage:
    """``average <- decay * average + (1 - decay) * weights``, on shards where the weights are sharded."""

    def __init__(self, named_parameters: Sequence[tuple[str, nn.Parameter]], *, decay: float) -> None:
        """Start from the weights as they are.

        Args:
            named_parameters: what is averaged.
            decay: in (0, 1); 0.999 looks back about a thousand steps.
        """
        self.decay = decay
        self._parameters = dict(named_parameters)
        self._averages = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def update_(self) -> None:
        """Move the average one step toward the weights."""
        approach_(self._averages.values(), self._parameters.values(), share=1 - self.decay)

    def tensors(self, take: Callable[[Tensor], Tensor] = whole) -> dict[str, Tensor]:
        """The average, whole and on the CPU, or as ``take`` gives it."""
        return {name: take(average) for name, average in self._averages.items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what ``tensors`` gave, whole or sharded as the weights are; what is not there stays."""
        for name, average in self._averages.items():
            if name in tensors:
                average.copy_(placed_like(average, tensors[name]))

    @torch.no_grad()
    def copy_to_weights_(self) -> None:
        """Make the average the model's weights, at the end of a run."""
        for name, average in self._averages.items():
            self._parameters[name].copy_(average)


@final
class MovingEncoder:
    """A model that trails another one: ``ema <- m * ema + (1 - m) * model`` after each step; it can be asked any time.

    Momentum m is a number, or goes from a first to a last value over the run: by a cosine, as BYOL (arXiv 2006.07733)
    and A-CLIP (arXiv 2212.08653, released code) have it, or on a line. Weights are kept in at least float32.

    Attributes:
        model: the average, in evaluation mode and without gradient; on CPU until asked elsewhere.

    Example:
        >>> import torch
        >>> from tether.training.ema import MovingEncoder
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> ema = MovingEncoder(model, momentum=(0.5, 1.0), steps=2)
        >>> with torch.no_grad():
        ...     start = model.weight.item()
        ...     _ = model.weight.add_(1)
        >>> ema.update_(step=0)
        >>> round(ema.model.weight.item() - start, 4)
        0.5
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        *,
        momentum: Share | tuple[Share, Share],
        steps: Count,
        shape: Shape = "cosine",
        buffers: Literal["copied", "averaged"] = "copied",
        exclude: Sequence[str] = (),
    ) -> None:
        """Start from the model as it is.

        Args:
            model: what is followed, any module; its names must stay.
            momentum: of every step, or of the first and toward the last.
            steps: of the run, over which the momentum changes.
            shape: of that change.
            buffers: such as the statistics of batch norm: taken from the model as they are, or averaged like weights
                (those that are no floating-point numbers are always taken).
            exclude: patterns of parameters that are not averaged but taken as they are.

        Raises:
            InputError: a pattern that no parameter is like.
        """
        first, last = (momentum, momentum) if isinstance(momentum, (int, float)) else momentum
        self._first, self._last, self._shape, self._steps = float(first), float(last), shape, steps
        self._source, self.model = model, frozen_copy(model)
        names = [name for name, _ in model.named_parameters()]
        for pattern in exclude:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(f"exclude: no parameter is like {pattern!r}; {closest(pattern, names)}")
        self._taken = {name for name in names if any(fnmatchcase(name, pattern) for pattern in exclude)}
        self._taken |= {
            name for name, buffer in model.named_buffers() if buffers == "copied" or not buffer.is_floating_point()
        }

    def momentum_at(self, step: int) -> float:
        """What the average weighs at a step, counted from 0."""
        share = step / self._steps
        if self._shape == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self._first + (self._last - self._first) * share

    @torch.no_grad()
    def update_(self, *, step: int) -> None:
        """Follow one optimiser step, the ``step``-th from 0; every process must call it."""
        averages = _tensors(self.model)
        weights = {name: _whole(tensor) for name, tensor in _tensors(self._source).items()}
        moving = [name for name in averages if name not in self._taken]
        approach_(
            [averages[name] for name in moving],
            [weights[name] for name in moving],
            share=1 - self.momentum_at(step),
        )
        for name in self._taken:
            averages[name].copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """All of its tensors, on the CPU, by name."""
        return {name: whole(tensor) for name, tensor in _tensors(self.model).items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave.

        Raises:
            InputError: those of another model.
        """
        own = _tensors(self.model)
        if {name: tensor.shape for name, tensor in tensors.items()} != {name: one.shape for name, one in own.items()}:
            raise InputError("the moving average of another model: its tensors have other names or shapes")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
