"""Steps of a diffusion without chance, either way along its noise levels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError

Level = float | Float[Tensor, ""]


def ddim_step(x: Tensor, eps: Tensor, abar_from: Level, abar_to: Level) -> Tensor:
    """Samples at another level of noise, told what noise is in them.

    Towards a higher ``abar`` it denoises, towards a lower one it inverts: with the same noise the second undoes the
    first. It is the step of diffusers' ``DDIMScheduler`` with ``eta=0`` and of its ``DDIMInverseScheduler``.

    Args:
        x: samples of any shape.
        eps: the noise in them, likewise.
        abar_from: share of the image's variance at their level (0 to 1, above 0).
        abar_to: that of the level to go to (0 to 1).

    Raises:
        InputError: shapes that differ, or a level out of range.

    Source: DDIM (arXiv 2010.02502, equation 12).

    Example:
        >>> import torch
        >>> from tether.generation.diffuse.ddim import ddim_step
        >>> x, eps = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
        >>> ddim_step(x, eps, 0.25, 1.0).unique().tolist()  # the image alone
        [2.0]
    """
    if x.shape != eps.shape:
        raise InputError(f"eps: expected {tuple(x.shape)}, as x, got {tuple(eps.shape)}")
    levels = [torch.as_tensor(one, dtype=torch.float64, device=x.device) for one in (abar_from, abar_to)]
    if not (0 < float(levels[0]) <= 1 and 0 <= float(levels[1]) <= 1):
        raise InputError(
            f"abar_from, abar_to: expected shares in 0 to 1, the first above 0, got {abar_from} and {abar_to}"
        )
    kept, noise = ([float(share.sqrt()) for share in pair] for pair in (levels, [1 - one for one in levels]))
    image = (x - noise[0] * eps) / kept[0]
    return kept[1] * image + noise[1] * eps


def ddim_levels(abar: Float[Tensor, " t"], *, steps: int) -> Iterator[tuple[int, float, float]]:
    """The steps of a sampling, noise first: time step, its ``abar``, and that of the level it leads to, 1 at the end.

    They are diffusers' of ``timestep_spacing="trailing"``, which begin at the last time step (arXiv 2305.08891).

    Args:
        abar: of all time steps, falling.
        steps: how many to take; it divides their number.

    Raises:
        InputError: a number that does not.

    Example:
        >>> import torch
        >>> from tether.generation.diffuse.ddim import ddim_levels
        >>> list(ddim_levels(torch.tensor([0.75, 0.5, 0.25, 0.0625]), steps=2))
        [(3, 0.0625, 0.5), (1, 0.5, 1.0)]
    """
    if not 0 < steps <= len(abar) or len(abar) % steps:
        raise InputError(f"steps: expected a number that divides the {len(abar)} of the training, got {steps}")
    stride = len(abar) // steps
    for step in range(len(abar) - 1, -1, -stride):
        yield step, float(abar[step]), float(abar[step - stride]) if step >= stride else 1.0
