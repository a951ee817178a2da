"""AdaGrad on clipped gradients, as networks are trained with it: at once, and with a delayed step size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, final

from jaxtyping import Bool, Float
from torch import Tensor

from tether.optim.clip_radagrad import coordinate_step_
from tether.optim.clipping_optimizer import Clipped, ClippedOptimizer, ClipScope, clip_rules
from tether.optim.optimizer_base import check_settings, finite_above, finite_at_least
from tether.optim.param_groups import Params

TORCH_EPS = 1e-6
"""Added to the norm that a limit is divided by (torch.nn.utils.clip_grad_norm_, which the released code calls)."""

_NOT_NEGATIVE = ("lr", "eps", "clip_eps", "weight_decay")


@final
class ClipAdaGrad(ClippedOptimizer):
    """AdaGrad on clipped gradients: ``v += g^2``, ``w -= lr * g / (sqrt(v) + eps)``, then the weight decay.

    Source: arXiv 2406.04443, section 4, and the released class AdagradClip. It knows no ``global`` scope; we do. Of our
    own: ``.grad`` is left alone, and a step whose global norm is not finite is skipped.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-3,
        clip: float = 1.0,
        clip_scope: ClipScope = "tensor",
        eps: float = 1e-10,
        clip_eps: float = TORCH_EPS,
        weight_decay: float = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: step size before the schedule (>= 0).
            clip: the limit (> 0).
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eps: added to the root of the accumulator (>= 0; 0 makes NaN of an entry that never had a gradient).
            clip_eps: added to the norm that the limit is divided by (>= 0).
            weight_decay: share of the weight, times the learning rate, taken off after each step (>= 0).

        Raises:
            InputError: see ``Stepper``.
        """
        super().__init__(
            params,
            {
                "lr": lr,
                "clip": clip,
                "clip_scope": clip_scope,
                "eps": eps,
                "clip_eps": clip_eps,
                "weight_decay": weight_decay,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        rules = [(key, finite_at_least(group[key], 0.0), "a number of at least 0") for key in _NOT_NEGATIVE]
        check_settings("ClipAdaGrad", group, [*rules, *clip_rules(group)])

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

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-3,
        clip: float = 1.0,
        clip_scope: ClipScope = "tensor",
        eta: float = 1.0,
        v0: float = 1e-4,
        direction: Literal["current", "previous"] = "current",
        eps: float = 1e-10,
        clip_eps: float = TORCH_EPS,
        weight_decay: float = 0.0,
    ) -> None:
        """Take parameters or groups; a group's own settings win over these.

        Args:
            params: parameters, or groups as ``parameter_groups`` makes them.
            lr: step size before the schedule (>= 0).
            clip: the limit (> 0).
            clip_scope: what it bounds: the norm of all gradients (``global``), of each ``tensor``, each ``element``, or
                ``none``.
            eta: weight of a new square in the accumulator (> 0).
            v0: the accumulator at the start (> 0).
            direction: whether a step goes along the ``current`` gradient or the ``previous`` one.
            eps: added to the root of the accumulator (>= 0).
            clip_eps: added to the norm that the limit is divided by (>= 0).
            weight_decay: share of the weight, times the learning rate, taken off after each step (>= 0).

        Raises:
            InputError: see ``Stepper``.
        """
        super().__init__(
            params,
            {
                "lr": lr,
                "clip": clip,
                "clip_scope": clip_scope,
                "eta": eta,
                "v0": v0,
                "direction": direction,
                "eps": eps,
                "clip_eps": clip_eps,
                "weight_decay": weight_decay,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        check_settings(
            "ClipAdaGradD",
            group,
            [
                *((key, finite_at_least(group[key], 0.0), "a number of at least 0") for key in _NOT_NEGATIVE),
                *((key, finite_above(group[key], 0.0), "a number above 0") for key in ("eta", "v0")),
                *clip_rules(group),
                ("direction", group["direction"] in ("current", "previous"), "'current' or 'previous'"),
            ],
        )

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
