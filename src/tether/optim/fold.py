"""Clip and step in one go: the factor travels into the fused optimiser, and the gradients are read once less."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer

from tether.core.protocols import GradClipper, NamedParams
from tether.core.types import ClipReport
from tether.optim.clip.uniform import UniformClipper


def clip_and_step(optimizer: Optimizer, *, clipper: GradClipper, named_params: NamedParams, step: int) -> ClipReport:
    """Do what ``clipper.clip_`` and then ``optimizer.step`` do, or neither when the gradients are not finite.

    With a clipper that has one factor for all gradients and a fused optimiser over exactly the parameters given,
    the factor is handed to the optimiser's ``grad_scale`` and the skip to its ``found_inf``: the gradients are not
    rewritten, and on an accelerator nothing waits for the norm. In any other case the two are called one after the
    other, and an accelerator is waited for once. What ``.grad`` holds afterwards is not defined: clear it.

    Args:
        optimizer: moves the parameters.
        clipper: bounds their gradients.
        named_params: pairs (name, parameter) whose gradients are clipped.
        step: number of the optimiser's step.
    """
    named = list(named_params)
    if not (isinstance(clipper, UniformClipper) and _foldable(optimizer, named)):
        report = clipper.clip_(named, step=step)
        if not bool(report.skip):
            optimizer.step()
        return report
    norms, report = clipper.measure(named, step=step)
    on_cpu = all(gradient.device.type == "cpu" for gradient in norms.gradients)
    if on_cpu and bool(report.skip):
        return report
    untouched = on_cpu and float(report.scale) == 1.0
    try:
        if not untouched:
            # The fused kernels divide by grad_scale and do nothing at all where found_inf is 1.
            _set(optimizer, report.scale.float().reciprocal(), report.skip.float())
        optimizer.step()
    finally:
        _clear(optimizer)
    return report


def _foldable(optimizer: Optimizer, named: list[tuple[str, nn.Parameter]]) -> bool:
    if not all(group.get("fused") for group in optimizer.param_groups):
        return False
    moved = {id(p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None}
    return moved == {id(p) for _, p in named if p.grad is not None}


def _set(optimizer: Optimizer, scale: Tensor, found: Tensor) -> None:
    optimizer.grad_scale = scale  # pyrefly: ignore - torch reads the attribute, see torch/optim/adam.py
    optimizer.found_inf = found  # pyrefly: ignore


def _clear(optimizer: Optimizer) -> None:
    for name in ("grad_scale", "found_inf"):
        vars(optimizer).pop(name, None)
