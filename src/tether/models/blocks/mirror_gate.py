"""A gate that lets each token leave a tower's middle layers out (Skip-the-Middle)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError

START_STD = 0.02  # arXiv 2506.21103, released code: every linear layer


class MirrorGate(nn.Module):
    """From the stream entering each layer, how much of the layer each token takes (arXiv 2506.21103, section 3).

    In the first half of the stack every layer adds ``relu(w . h + b)`` to a token's sum, and the layer is taken by
    ``1 - min(sum, 1)``. The second half takes the same sums in the opposite order: a token that drops out at layer l
    comes back at layer depth - 1 - l.
    """

    def __init__(self, width: int, *, depth: int, start: Literal["open", "drawn"] = "drawn") -> None:
        """Build the gate of one tower; ``drawn`` weights come from torch's own generator until ``initialise_``.

        Args:
            width: channels of the stream.
            depth: layers of the tower, an even number.
            start: ``drawn`` with a standard deviation of 0.02, as in the paper's runs, or fully ``open`` with weights
                of zero, where a rectifier gives no gradient to learn from.

        Raises:
            InputError: an odd depth, or an unknown start.
        """
        super().__init__()
        if depth < 2 or depth % 2:
            raise InputError(f"depth: a mirror needs an even number of layers, got {depth}")
        if start not in ("open", "drawn"):
            raise InputError(f"start: unknown choice {start!r}; known: drawn, open")
        self.depth, self.start = depth, start
        self.weight = nn.Parameter(torch.zeros(depth // 2, width))
        self.bias = nn.Parameter(torch.zeros(depth // 2))
        self._sums: list[Tensor] = []
        if start == "drawn":
            nn.init.normal_(self.weight, std=START_STD)

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw the weights again, from this generator."""
        nn.init.zeros_(self.bias)
        if self.start == "drawn":
            nn.init.normal_(self.weight, std=START_STD, generator=generator)

    def step(self, layer: int, hidden: Float[Tensor, "... w"]) -> Float[Tensor, ...]:
        """The gate of one layer; call it for layers 0, 1, ... in order, once each in a forward pass.

        Args:
            layer: its place.
            hidden: the stream entering it, (b, n, width) or packed (t, width).

        Returns:
            (b, n) or (t,) in [0, 1] and float32 at least; 0 leaves the layer out.

        Raises:
            InputError: a layer out of its turn, or a stream of another width.
        """
        if hidden.shape[-1] != self.weight.shape[1]:
            raise InputError(f"hidden: expected {self.weight.shape[1]} channels, got {hidden.shape[-1]}")
        if layer == 0:
            self._sums = []
        half = self.depth // 2
        if layer < half and layer == len(self._sums):
            with torch.autocast(hidden.device.type, enabled=False):
                wide = hidden if hidden.dtype == torch.float64 else hidden.float()
                own = F.relu(wide @ self.weight[layer].to(wide.dtype) + self.bias[layer].to(wide.dtype))
            self._sums.append(own + self._sums[-1] if self._sums else own)
            total = self._sums[-1]
        elif half <= layer < self.depth and len(self._sums) == self.depth - layer:
            total = self._sums.pop()
        else:
            raise InputError(f"layer: {layer} is out of turn; expected 0 to {self.depth - 1} in order")
        return 1 - total.clamp(0, 1)
