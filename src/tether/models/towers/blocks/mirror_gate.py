"""A gate that lets each token leave a tower's middle layers out (Skip-the-Middle)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import checked

Depth = Annotated[int, Ge(2)]
START_STD = 0.02  # arXiv 2506.21103, released code: every linear layer


class MirrorGate(nn.Module):
    """From the stream entering each layer, how much of the layer each token takes (arXiv 2506.21103, section 3).

    In the first half of the stack every layer adds ``relu(w . h + b)`` to a token's sum, and the layer is taken by
    ``1 - min(sum, 1)``. The second half takes the same sums in the opposite order: a token that drops out at layer l
    comes back at layer depth - 1 - l.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.towers.blocks.mirror_gate import moments
        >>> model = create("tiny", vision={"layers": 4, "gate": "mirror"})
        >>> mean, variance = moments(model.encode_image(torch.rand(8, 3, 32, 32)).extra["gates"])
        >>> mean.shape, bool((mean <= 1).all())  # of each layer: 1 = every token takes it, 0 = none
        (torch.Size([4]), True)
    """

    @checked
    def __init__(self, width: int, *, depth: Depth) -> None:
        """Build the gate of one tower; its weights come from torch's own generator until ``initialise_``.

        Args:
            width: channels of the stream.
            depth: layers of the tower, an even number.
        """
        super().__init__()
        if depth % 2:
            raise InputError(f"depth: a mirror needs an even number of layers, got {depth}")
        self.depth = depth
        self.weight = nn.Parameter(torch.empty(depth // 2, width))
        self.bias = nn.Parameter(torch.empty(depth // 2))
        self._next, self._half = 0, list[tuple[Tensor, Tensor]]()  # sums and gates of the first half
        self.initialise_(None)

    def initialise_(self, generator: torch.Generator | None) -> None:
        """Draw the weights. With zeros, which the paper's code has too, a rectifier has no gradient: never that."""
        nn.init.normal_(self.weight, std=START_STD, generator=generator)
        nn.init.zeros_(self.bias)

    def step(self, layer: int, hidden: Float[Tensor, "... w"]) -> Float[Tensor, ...]:
        """The gate of one layer; call it for layers 0, 1, ... in order, once each in a forward pass.

        Args:
            layer: its place.
            hidden: the stream entering it, (b, n, width) or packed (t, width).

        Returns:
            (b, n) or (t,) in [0, 1] and float32 at least; 0 leaves the layer out.
        """
        if hidden.shape[-1] != self.weight.shape[1]:
            raise InputError(f"hidden: expected {self.weight.shape[1]} channels, got {hidden.shape[-1]}")
        if layer == 0:
            self._next, self._half = 0, []
        if layer != self._next or layer == self.depth:
            raise InputError(f"layer: {layer} is out of turn; expected 0 to {self.depth - 1} in order")
        self._next += 1
        if layer < self.depth // 2:
            with torch.autocast(hidden.device.type, enabled=False):
                wide = hidden if hidden.dtype == torch.float64 else hidden.float()
                own = F.relu(wide @ self.weight[layer].to(wide.dtype) + self.bias[layer].to(wide.dtype))
            total = own + self._half[-1][0] if self._half else own
            self._half.append((total, 1 - total.clamp(0, 1)))
            return self._half[-1][1]
        return self._half.pop()[1]


def check_open(gate: Tensor, *, name: str) -> None:
    """Refuse gates outside [0, 1]; on the CPU alone, as elsewhere the look stalls the device, and in no trace."""
    if gate.device.type == "cpu" and not torch.compiler.is_compiling() and gate.numel():
        least, most = gate.detach().aminmax()
        if not (least >= 0 and most <= 1):
            raise InputError(f"{name}: expected values in [0, 1], got {float(least):g} to {float(most):g}")


def tally(gates: Sequence[Tensor], *, real: Tensor | None = None) -> Float[Tensor, "depth 3"]:
    """For each layer the number of tokens, the sum of their gates and of the gates' squares; tallies add up.

    Args:
        gates: of every layer, in order, all of one shape.
        real: of that shape, True where a token counts; None means everywhere.
    """
    flat = torch.stack([gate.flatten() for gate in gates])
    counts = torch.ones_like(flat[0]) if real is None else real.flatten().to(flat.dtype)
    flat = flat * counts
    return torch.stack([counts.sum().expand(len(flat)), flat.sum(1), flat.square().sum(1)], dim=1)


def moments(tallied: Float[Tensor, "depth 3"]) -> tuple[Float[Tensor, " depth"], Float[Tensor, " depth"]]:
    """Mean and unbiased variance of each layer's gates, from their tally."""
    count, total, squares = tallied.unbind(1)
    return total / count, (squares - total.square() / count) / (count - 1)
