"""AdaGrad on clipped gradients, as networks are trained with it: at once, and with a delayed step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from tether.core.ranges import NonNegative, Positive, Rate, checked
from tether.methods.clip_radagrad.radagrad import coordinate_step_
from tether.optim.clipping_optimizer import Clipped, ClippedOptimizer, ClipScope
from tether.optim.param_groups import Params

TORCH_EPS = 1e-6
"""Added to the norm that a limit is divided by (torch.nn.utils.clip_grad_norm_, which the released code calls)."""


@final
class ClipAdaGrad(ClippedOptimizer):
    """AdaGrad on clipped gradients: ``v += g^2``, ``w -= lr * g / (sqrt(v) + eps)``, then the weight decay.

    Source: arXiv 2406.04443, section 4, and the released class AdagradClip. It knows no ``global`` scope; we do. Of our
    own: ``.grad`` is left alone, and a step whose global norm is not finite is skipped.
    """

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        clip: Positive = 1.0,
        clip_scope: ClipScope = "tensor",
        eps: NonNegative = 1e-10,
        clip_eps: NonNegative = TORCH_EPS,
        weight_decay: Rate = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: step size before the schedule.
            clip: the limit.
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eps: added to the root of the accumulator; 0 makes NaN of an entry that never had a gradient.
            clip_eps: added to the norm that the limit is divided by.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"squares": 0.0}

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        for each in clipped:
            group = each.moving.group
            for weight, gradient, accumulator in each.rows("squares"):
                coordinate_step_(
                    weight, gradient, accumulator, lr=group["lr"], eta=1.0, eps=group["eps"], delayed=False
                )
                each.decay_(weight)


@final
class ClipAdaGradD(ClippedOptimizer):
    """AdaGrad on clipped gradients with its step size one step behind.

    ``w -= lr * g / (sqrt(v) + eps)``, then the weight decay, and only then ``v += eta * g^2``.

    Source: arXiv 2406.04443, section 4, and the released class AdaGradClip_Delayed_Etta, which moves along the previous
    step's gradient, against the paper and its own notebook; ``direction="previous"`` does as it does, with a copy of
    that gradient (the released code keeps the tensor itself, which ``zero_grad(set_to_none=False)`` overwrites). Its
    ``global`` norm is of one group, ours of all. A step whose global norm is not finite is skipped.
    """

    @checked
    def __init__(
        self,
        params: Params,
        *,
        lr: Rate = 1e-3,
        clip: Positive = 1.0,
        clip_scope: ClipScope = "tensor",
        eta: Positive = 1.0,
        v0: Positive = 1e-4,
        direction: Literal["current", "previous"] = "current",
        eps: NonNegative = 1e-10,
        clip_eps: NonNegative = TORCH_EPS,
        weight_decay: Rate = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: step size before the schedule.
            clip: the limit.
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eta: weight of a new square in the accumulator.
            v0: the accumulator at the start.
            direction: whether a step goes along the ``current`` gradient or the ``previous`` one.
            eps: added to the root of the accumulator.
            clip_eps: added to the norm that the limit is divided by.
            weight_decay: share of the weight, times the learning rate, taken off after each step.
        """
        super().__init__(params, locals())

    def _tensors(self, group: Mapping[str, Any]) -> dict[str, float]:
        return {"squares": group["v0"]} | ({"previous": 0.0} if group["direction"] == "previous" else {})

    def _move(self, clipped: Sequence[Clipped], *, squares: Float[Tensor, " n"], finite: Bool[Tensor, ""]) -> None:
        for each in clipped:
            group = each.moving.group
            keys = ("squares", "previous") if group["direction"] == "previous" else ("squares",)
            for weight, gradient, accumulator, *previous in each.rows(*keys):
                root = accumulator.sqrt().add_(group["eps"])
                along = previous[0] if previous else gradient
                if previous and each.finite is not None:
                    along = along.where(each.finite, 0.0)
                weight.addcdiv_(along, root, value=-group["lr"])
                each.decay_(weight)
                accumulator.addcmul_(gradient, gradient, value=group["eta"])
                if previous:
                    kept = gradient if each.finite is None else gradient.where(each.finite, previous[0])
                    previous[0].copy_(kept)
