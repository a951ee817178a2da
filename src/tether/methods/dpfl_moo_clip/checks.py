"""What cannot be learned under privacy of single samples, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError, MissingExtraError, NotFiniteError

SampleLoss = Callable[[Tensor, Tensor], Float[Tensor, " n"]]
COUPLED = (
    "the loss of one sample depends on the others of its batch, as of contrastive losses: no sample has a gradient of "
    "its own to clip, so one person's data move all of them and no epsilon holds. Expected a loss of each row alone, "
    "such as cross entropy against texts of classes that everyone knows"
)


def opacus_library() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import opacus
    except ImportError:
        raise MissingExtraError("opacus", extra="private") from None
    return opacus


def check_loss(loss: SampleLoss, *, classes: int) -> None:
    """See that a loss gives each row a number that no other row changes.

    Args:
        loss: logits (n, classes) and labels (n,) to (n,).
        classes: of the logits.

    Raises:
        InputError: otherwise, with the reason.
    """
    generator = torch.Generator().manual_seed(0)
    rows = max(2, min(4, classes))
    logits, labels = torch.randn(rows, classes, generator=generator), torch.arange(rows) % classes
    found = loss(logits, labels)
    if not isinstance(found, Tensor) or tuple(found.shape) != (rows,):
        raise InputError(
            f"loss: expected one number for each of {rows} rows, got {tuple(getattr(found, 'shape', ()))}: a mean or a "
            f"sum of pairs hides whose it is; {COUPLED}"
        )
    alone = torch.cat([loss(logits[row : row + 1], labels[row : row + 1]) for row in range(rows)])
    if not torch.allclose(found, alone, rtol=1e-4, atol=1e-6):
        raise InputError(f"loss: {COUPLED}")


def check_update(state: Mapping[str, Tensor], *, whose: str) -> None:
    """See that weights are finite before they enter a mean, which one NaN would spoil for all.

    Raises:
        NotFiniteError: one is not.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NotFiniteError(f"{whose}: {name} became NaN or infinite; expected finite weights")


def check_private_module(module: nn.Module) -> None:
    """See that a module's samples do not see each other, and that Opacus has gradients of each for its layers.

    Raises:
        InputError: batch norm, a layer that Opacus does not know, or nothing that learns.
    """
    opacus_library()
    from opacus.validators import ModuleValidator

    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise InputError(
                f"{name or type(part).__name__}: batch norm mixes the samples of a batch, so one of them changes the "
                "outputs and gradients of all others; expected group or layer norm"
            )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"{type(module).__name__}: nothing learns; expected a parameter with requires_grad")
    if problems := ModuleValidator.validate(module.train(), strict=False):
        raise InputError(f"{type(module).__name__}: {problems[0]!s:.300}")
