"""Clip and step in one go: the factor travels into the fused optimiser, and the gradients are read once less."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.protocols import GradClipper, NamedParams
from tether.core.types import ClipReport
from tether.optim.clip.base import UniformClipper


def clip_and_step(optimizer: Optimizer, *, clipper: GradClipper, named_params: NamedParams, step: int) -> ClipReport:
    """Do what ``clipper.clip_`` and then ``optimizer.step`` do, or neither when the gradients are not finite.

    With a fused optimiser over exactly the parameters given, the skip is handed to its ``found_inf`` and, if the
    clipper has one factor for all gradients, that to its ``grad_scale``: the gradients are not rewritten, and on an
    accelerator nothing waits for the norm. A clipper with a factor for each tensor or unit rewrites those it limits.
    In any other case the two are called one after the other, and an accelerator is waited for once. What ``.grad``
    holds afterwards is not defined: clear it.

    Args:
        optimizer: moves the parameters.
        clipper: bounds their gradients.
        named_params: pairs (name, parameter) whose gradients are clipped.
        step: number of the optimiser's step.
    """
    named = list(named_params)
    foldable = _foldable(optimizer, named)
    if foldable and isinstance(clipper, UniformClipper):
        norms, report = clipper.measure(named, step=step)
        on_cpu = all(gradient.device.type == "cpu" for gradient in norms.gradients)
        # The fused kernels divide by grad_scale and do nothing at all where found_inf is 1.
        scale = None if on_cpu and float(report.scale) == 1.0 else report.scale.float().reciprocal()
    else:
        report = clipper.clip_(named, step=step)
        on_cpu, scale = not foldable or report.skip.device.type == "cpu", None
    if on_cpu or _lacks_momentum(optimizer):
        if not bool(report.skip):
            _step(optimizer, scale=scale, found=None)
    else:
        _step(optimizer, scale=scale, found=report.skip.float())
    return report


def _foldable(optimizer: Optimizer, named: list[tuple[str, nn.Parameter]]) -> bool:
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    moved = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    return moved == {id(p) for _, p in named if p.grad is not None}


def _lacks_momentum(optimizer: Optimizer) -> bool:
    """Whether a step that ``found_inf`` stops would leave behind the unset memory that fused SGD starts from."""
    return any(
        "momentum_buffer" not in optimizer.state.get(parameter, {})
        for group in optimizer.param_groups
        if group.get("momentum")
        for parameter in group["params"]
        if parameter.grad is not None
    )


def _step(optimizer: Optimizer, *, scale: Tensor | None, found: Tensor | None) -> None:
    """One step of a fused optimiser; torch reads the two attributes, see torch/optim/adam.py."""
    try:
        if scale is not None:
            optimizer.grad_scale = scale  # pyrefly: ignore
        if found is not None:
            optimizer.found_inf = found  # pyrefly: ignore
        optimizer.step()
    finally:
        for name in ("grad_scale", "found_inf"):
            vars(optimizer).pop(name, None)
