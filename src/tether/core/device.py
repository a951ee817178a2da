"""The device that a model runs on, chosen here and nowhere else."""

from __future__ import annotations

import torch

from tether.core.errors import InputError, reason_of


def chosen_device(device: str | torch.device) -> torch.device:
    """Resolve a device name.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...; ``auto`` is the accelerator if there is one, else the CPU.

    Raises:
        InputError: no such device on this machine, or none that torch was built for.

    Example:
        >>> chosen_device("cpu")
        device(type='cpu')
    """
    if device == "auto":
        # A CUDA build of torch names CUDA as its accelerator on machines without a GPU, too.
        return (torch.accelerator.is_available() and torch.accelerator.current_accelerator()) or torch.device("cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {str(device)!r}: not here; expected cpu, cuda, cuda:N, mps or auto ({reason_of(error)})"
        ) from None
    return torch.device(device)
