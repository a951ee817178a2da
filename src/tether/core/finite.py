"""Whether the few numbers that a model compares with are numbers."""

from __future__ import annotations

import torch

from tether.core.errors import InputError
from tether.core.geometry import geometry_of


def check_finite(model: object, *, where: str = "model") -> None:
    """Refuse a model whose scale, bias or curvature is NaN or infinite: what it says would be too.

    Args:
        model: any model that ``tether.load`` gives.
        where: what the message calls it.

    Raises:
        InputError: it names the number.
    """
    if damage := not_finite(model):
        raise InputError(f"{where}: its {damage}, not a finite number; the weights are damaged")


def not_finite(model: object) -> str:
    """The first of a model's scale, bias and curvature that is not finite, as ``logit_scale is nan``; or nothing."""
    numbers = {name: getattr(model, name, None) for name in ("logit_scale", "logit_bias")}
    for name, value in (numbers | {"curvature": geometry_of(model).curvature}).items():
        number = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(0.0 if value is None else value)
        if not number.isfinite().all():
            return f"{name} is {float(number):g}"
    return ""
