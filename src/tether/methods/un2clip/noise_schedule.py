"""How much noise each step of a diffusion has, and what a denoiser is asked for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, checked

Target = Literal["eps", "v"]
Kind = Literal["scaled_linear", "linear", "cosine"]
_MOST = 0.999  # of a beta of the cosine schedule (arXiv 2102.09672, section 3.2)


class NoiseSchedule:
    """Noised inputs ``sqrt(a_t) x + sqrt(1 - a_t) eps``, with a_t the product of ``1 - beta`` up to step t.

    Source: arXiv 2006.11239 (``linear``), arXiv 2112.10752 (``scaled_linear``, Stable Diffusion's), arXiv 2102.09672
    (``cosine``); ``v`` is of arXiv 2202.00512.

    Attributes:
        settings: constructor keywords as plain values.
        alphas_cumprod: (t,) float64, falling.

    Example:
        >>> import torch
        >>> from tether.methods.un2clip.noise_schedule import NoiseSchedule
        >>> schedule, x, noise = NoiseSchedule(), torch.ones(2, 4), torch.zeros(2, 4)
        >>> [round(value, 3) for value in schedule.noised(x, noise, torch.tensor([0, 999]))[:, 0].tolist()]
        [1.0, 0.068]
    """

    @checked
    def __init__(
        self,
        *,
        kind: Kind = "scaled_linear",
        betas: tuple[Inner, Inner] = (0.00085, 0.012),
        timesteps: Count = 1000,
    ) -> None:
        """Compute the products.

        Args:
            kind: ``linear`` from the first beta to the last, ``scaled_linear`` in their square roots, or ``cosine``,
                which has none.
            betas: first and last.
            timesteps: how many.
        """
        self.settings: dict[str, Any] = {"kind": kind, "betas": list(betas), "timesteps": timesteps}
        if kind == "cosine":
            at = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
            left = ((at + 0.008) / 1.008 * torch.pi / 2).cos().square()
            noise = (1 - left[1:] / left[:-1]).clamp(max=_MOST)
        else:
            power = 2 if kind == "scaled_linear" else 1
            ends = [beta ** (1 / power) for beta in betas]
            noise = torch.linspace(ends[0], ends[1], timesteps, dtype=torch.float64) ** power
        self.alphas_cumprod = (1 - noise).cumprod(0)

    def __len__(self) -> int:
        """Steps."""
        return len(self.alphas_cumprod)

    def noised(self, x: Float[Tensor, "b ..."], noise: Tensor, t: Int[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The rows at step t."""
        keep, add = self._shares(x, t)
        return keep * x + add * noise

    def target(
        self, x: Float[Tensor, "b ..."], noise: Tensor, t: Int[Tensor, " b"], *, objective: Target
    ) -> Float[Tensor, "b ..."]:
        """What is to be told from x at step t: the noise (``eps``), or ``sqrt(a_t) eps - sqrt(1 - a_t) x`` (``v``)."""
        if objective == "eps":
            return noise
        keep, add = self._shares(x, t)
        return keep * noise - add * x

    def _shares(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if (
            t.shape != (len(x),)
            or t.is_floating_point()
            or (len(t) and not 0 <= int(t.min()) <= int(t.max()) < len(self))
        ):
            found = f"{t.dtype} {tuple(t.shape)}" + (f", {t.min()} to {t.max()}" if t.numel() else "")
            raise InputError(f"t: expected a step from 0 to {len(self) - 1} for each of {len(x)} rows, got {found}")
        share = self.alphas_cumprod.to(x.device)[t].view(-1, *[1] * (x.ndim - 1))
        return share.sqrt().to(x.dtype), (1 - share).sqrt().to(x.dtype)
