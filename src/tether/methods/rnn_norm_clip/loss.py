"""The vanishing-gradient regulariser of recurrent networks: each step should keep the length of its error signal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import NonNegative, checked

Activation = Literal["tanh", "sigmoid", "linear"]
Ratio = Literal["squared", "norm"]


@checked
def omega_regulariser(
    hidden: Float[Tensor, "t b n"],
    dC_dh: Float[Tensor, "t b n"],
    weight_hh: Float[Tensor, "n n"],
    activation: Activation = "tanh",
    *,
    ratio: Ratio = "squared",
    bound: float = 1e-20,
) -> Float[Tensor, ""]:
    """Mean squared departure from 1 of how much one step back changes the length of the error signal.

    Hidden states and error signals count as constants, so the result is differentiable in ``weight_hh`` alone; that
    immediate derivative is the method. Half precision is widened to float32.

    Source: arXiv 1211.5063, section 3.3, equations 9 and 10, as in the released RNN.py, which takes the ratio of
    squared norms and averages over the states that still carry a signal.

    Args:
        hidden: states after each of the t steps.
        dC_dh: total derivative of the cost by each state.
        weight_hh: recurrent weight as torch stores it, (out, in).
        activation: of the recurrent units; its slope is taken from the states.
        ratio: ``squared`` as released, ``norm`` as printed.
        bound: squared length of an error signal below which a state is left out.
    """
    if hidden.ndim != 3 or hidden.shape != dC_dh.shape or weight_hh.shape != (hidden.shape[2],) * 2:
        raise InputError(
            "expected hidden and dC_dh (t, b, n) and weight_hh (n, n), "
            f"got {tuple(hidden.shape)}, {tuple(dC_dh.shape)} and {tuple(weight_hh.shape)}"
        )
    wide = torch.promote_types(hidden.dtype, torch.float32)
    states, signal, weight = hidden.detach().to(wide), dC_dh.detach().to(wide), weight_hh.to(wide)
    back = (signal * _slope(states, activation)) @ weight
    before, after = signal.square().sum(dim=2), back.square().sum(dim=2)
    valid = before >= bound
    quotient = torch.where(valid, after, 1.0) / torch.where(valid, before, 1.0)
    # At zero a root has no slope: such a state counts as it is, and moves nothing.
    change = quotient if ratio == "squared" else quotient.clamp(min=torch.finfo(wide).tiny).sqrt()
    return (change - 1).square().sum() / valid.sum().clamp(min=1)


def _slope(states: Tensor, activation: Activation) -> Tensor:
    if activation == "tanh":
        return 1 - states.square()
    if activation == "sigmoid":
        return states * (1 - states)
    return torch.ones_like(states)


@final
class VanishingGradientPenalty:
    """Adds ``alpha`` times the immediate derivative of ``omega_regulariser`` to a recurrent weight's gradient.

    Use it between the forward and the clipping: ``penalty.add_(cell.weight_hh, loss=loss, hidden=states)``, then
    ``loss.backward()``, then the clipper. It keeps no state. Source: arXiv 1211.5063, section 3.3.
    """

    @checked
    def __init__(
        self,
        *,
        alpha: NonNegative = 2.0,
        activation: Activation = "tanh",
        ratio: Ratio = "squared",
        bound: float = 1e-20,
    ) -> None:
        """Take the settings; the defaults are those of the released RNN.py.

        Args:
            alpha: weight of the regulariser.
            activation: of the recurrent units.
            ratio: ``squared`` as released, ``norm`` as printed.
            bound: squared length of an error signal below which a state is left out.
        """
        self.alpha, self.activation, self.ratio, self.bound = alpha, activation, ratio, bound

    def add_(self, weight_hh: nn.Parameter, *, loss: Tensor, hidden: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Add to ``weight_hh.grad`` and return the regulariser, detached; the loss can still be differentiated.

        Args:
            weight_hh: recurrent weight (n, n) as ``nn.RNNCell`` holds it.
            loss: scalar cost.
            hidden: the t states (b, n) that the forward made, each feeding the next.
        """
        signals = torch.autograd.grad(loss, list(hidden), retain_graph=True)
        with torch.enable_grad():
            omega = omega_regulariser(
                torch.stack(list(hidden)),
                torch.stack(signals),
                weight_hh,
                self.activation,
                ratio=self.ratio,
                bound=self.bound,
            )
            (extra,) = torch.autograd.grad(omega, weight_hh)
        if weight_hh.grad is None:
            weight_hh.grad = torch.zeros_like(weight_hh)
        weight_hh.grad.add_(extra, alpha=self.alpha)
        return omega.detach()
