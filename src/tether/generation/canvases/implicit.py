"""A canvas that is a small network of places: CLIP-inversion's, painted from coarse to fine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tether.core.ranges import Count, NonNegative, Positive, PositiveRate, Share, checked
from tether.generation.canvases.canvas import FRONT, Canvas, Viewpoint
from tether.generation.canvases.strokes import CanvasSide

Width = Annotated[int, Ge(1), Le(4_096)]
Hidden = Annotated[int, Ge(1), Le(64)]


@checked
def layer_schedule(
    steps: Count, layers: Hidden, sigma: Positive = 0.75, *, least_last: Share = 0.0
) -> Float[Tensor, "steps columns"]:
    """What the learning rate of each layer is multiplied by: a bell that travels from the first layer to the last.

    exp(-(l - c)^2 / (2 sigma^2)) for layer l, where c goes evenly from 0 at the first step to ``layers`` at the last.

    Args:
        steps: of the painting.
        layers: hidden ones; the linear one that follows counts as one more.
        sigma: how wide the bell is, in layers.
        least_last: the linear layer's factor is never below; 0 leaves the bell as it is.

    Returns:
        (steps, layers + 1) in float64.

    Source: Implicit Inversion (arXiv 2505.23161), frequency schedule; ``least_last`` is ours.

    Example:
        >>> from tether.generation.canvases import layer_schedule
        >>> layer_schedule(3, 2).round(decimals=2).tolist()
        [[1.0, 0.41, 0.03], [0.41, 1.0, 0.41], [0.03, 0.41, 1.0]]
    """
    centre = torch.linspace(0, layers, steps, dtype=torch.float64)[:, None]
    factors = torch.exp(-((torch.arange(layers + 1) - centre).square()) / (2 * sigma**2))
    factors[:, -1].clamp_(min=least_last)
    return factors


class FinerField(Canvas):
    """A network from places to colours with sines whose frequency grows with their argument (FINER).

    A hidden layer gives sin(omega (abs(y) + 1) y) for y = W z + b, the last layer is linear, and a sigmoid makes it a
    colour. The larger the biases of the first layer, the higher the frequencies at the start. Each layer is a role
    with a rate of its own, which ``layer_schedule`` moves from the first layer to the last: coarse before fine.

    Source: Implicit Inversion turns CLIP into a Decoder (arXiv 2505.23161), with the initialisation of FINER (arXiv
    2312.02434). Ours, as the paper's code is not public: width, layers, rates, the sigmoid, ``least_last``.

    Attributes:
        linears: the hidden layers and the last one.

    Example:
        >>> import torch
        >>> from tether.generation.canvases import FinerField
        >>> field = FinerField(size=32, width=16, layers=2)
        >>> field.render().shape, field.at(8).shape, field(torch.zeros(1, 2)).shape
        (torch.Size([3, 32, 32]), torch.Size([3, 8, 8]), torch.Size([1, 3]))
    """

    @checked
    def __init__(
        self,
        width: Width = 128,
        layers: Hidden = 4,
        omega: Positive = 30.0,
        bias_bound: NonNegative = 5.0,
        detach_factor: bool = False,
        *,
        size: CanvasSide = 224,
        sigma: Positive | None = 0.75,
        least_last: Share = 0.1,
        lr: PositiveRate = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        """Draw the start.

        Args:
            width: of hidden layers.
            layers: hidden ones.
            omega: of the sines.
            bias_bound: biases of the first layer lie evenly between minus and plus so much.
            detach_factor: no gradient goes through the factor abs(y) + 1, as in FINER's public code.
            size: side in pixels of what ``render`` gives; ``at`` gives any.
            sigma: of ``layer_schedule``; None moves all layers at once.
            least_last: of ``layer_schedule``: with 0 a deep network's colours stand still at first.
            lr: of all layers, before the schedule.
            generator: of the weights, on the CPU; None takes seed 0.
        """
        super().__init__()
        draws = generator or torch.Generator().manual_seed(0)
        self.size, self.omega, self.detach_factor = size, omega, detach_factor
        self.sigma, self.least_last = sigma, least_last
        sizes = [2, *[width] * layers, 3]
        self.linears = nn.ModuleList()
        for number, (before, after) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / before if number == 0 else math.sqrt(6 / before) / omega
            bias = bias_bound if number == 0 else 1 / math.sqrt(before)
            linear = nn.Linear(before, after, device="meta")  # draws nothing of its own
            linear.weight = nn.Parameter(bound * (2 * torch.rand(after, before, generator=draws) - 1))
            linear.bias = nn.Parameter(bias * (2 * torch.rand(after, generator=draws) - 1))
            self.linears.append(linear)
        self.rates = {f"layer{number}": lr for number in range(layers + 1)}

    def parameters_by_role(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """See Canvas."""
        return {f"layer{number}": tuple(linear.parameters()) for number, linear in enumerate(self.linears)}

    def hidden(self, coords: Float[Tensor, "n 2"]) -> list[Float[Tensor, "n width"]]:
        """What each hidden layer gives of places x, y from -1 to 1."""
        found, z = list[Tensor](), coords
        for linear in self.linears[:-1]:
            y = linear(z)
            factor = y.abs() + 1
            z = torch.sin(self.omega * (factor.detach() if self.detach_factor else factor) * y)
            found.append(z)
        return found

    def forward(self, coords: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """What the last layer gives of places x, y from -1 to 1, before the sigmoid."""
        return self.linears[-1](self.hidden(coords)[-1])

    def colors(self, coords: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """Colours from 0 to 1 of places x, y from -1 to 1."""
        return self(coords).sigmoid()

    def at(self, size: int) -> Float[Tensor, "3 size size"]:
        """The image at another size, from the middles of its pixels."""
        weight = next(self.parameters())
        return self.colors(pixel_middles(size, size).to(weight)).T.unflatten(1, (size, size))

    def render(
        self, look: Viewpoint = FRONT, *, keep: Bool[Tensor, " elements"] | None = None
    ) -> Float[Tensor, "3 size size"]:
        """See Canvas."""
        return self.at(self.size)

    def pace(self, role: str, step: int, steps: int) -> float:
        """The factor of ``layer_schedule``; see Canvas."""
        if self.sigma is None:
            return 1.0
        last, number = len(self.linears) - 1, int(role.removeprefix("layer"))
        centre = last * step / max(steps - 1, 1)
        factor = math.exp(-((number - centre) ** 2) / (2 * self.sigma**2))
        return max(factor, self.least_last) if number == last else factor


def pixel_middles(height: int, width: int) -> Float[Tensor, "n 2"]:
    """x, y from -1 to 1 of the middles of pixels, row after row."""
    y, x = (((torch.arange(side) + 0.5) * 2 / side - 1) for side in (height, width))
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=1)
