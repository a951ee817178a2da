"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tether.train.parallel import placed_like, whole


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

    @torch.no_grad()
    def update_(self) -> None:
        """Move the average one step toward the weights."""
        for name, average in self._averages.items():
            average.lerp_(self._parameters[name].detach(), 1 - self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """The average, whole, on the CPU."""
        return {name: whole(average) for name, average in self._averages.items()}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take back what ``tensors`` gave."""
        for name, average in self._averages.items():
            average.copy_(placed_like(average, tensors[name]))

    @torch.no_grad()
    def copy_to_weights_(self) -> None:
        """Make the average the model's weights, at the end of a run."""
        for name, average in self._averages.items():
            self._parameters[name].copy_(average)
