"""Sampling by DDIM, either way, with any network of diffusers that is told the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.types import Features
from tether.generation.diffuse.ddim import ddim_levels, ddim_step
from tether.models.train_mode import at_rest, eval_mode

Objective = Literal["epsilon", "v_prediction"]
Seen = Callable[[int, Tensor], Tensor | None]
"""The steps that are left and the samples after a step, to others in their place or None."""


class Sampler:
    """What diffusions share that are sampled by DDIM.

    Attributes:
        unet: of diffusers.
        abar: (timesteps,) share of the samples' variance at each step, falling.
        objective: what the network tells.
    """

    unet: Any
    abar: Tensor
    objective: Objective

    def guess(self, x: Float[Tensor, "b c h w"], texts: Features, *, step: int, abar: float) -> Tensor:
        """The noise in samples, by what the network tells.

        Args:
            x: samples.
            texts: what they are told, one for each.
            step: what the network is told of how much noise there is.
            abar: share of the image's variance at their level; that of the step, but on the way back.
        """
        t = torch.full((len(x),), step, device=x.device)
        said = self.unet(x, t, encoder_hidden_states=texts.tokens, encoder_attention_mask=texts.mask).sample
        return said if self.objective == "epsilon" else abar**0.5 * said + (1 - abar) ** 0.5 * x

    def denoise(
        self,
        x: Float[Tensor, "b c h w"],
        texts: Features,
        *,
        steps: int,
        on_step: Seen | None = None,
        scale: float = 1.0,
    ) -> Float[Tensor, "b c h w"]:
        """Samples at the last time step to clean ones, not cut off.

        Args:
            x: samples.
            texts: what they are told; above scale 1 as many again before them, what they are led away from.
            steps: of denoising.
            on_step: as for ``TextDiffusion.generate``.
            scale: of classifier-free guidance.
        """
        with at_rest(self.unet), eval_mode(self.unet):
            for left, (t, here, there) in zip(
                range(steps - 1, -1, -1), ddim_levels(self.abar, steps=steps), strict=True
            ):
                if scale > 1:
                    away, towards = self.guess(torch.cat([x, x]), texts, step=t, abar=here).chunk(2)
                    eps = away + scale * (towards - away)
                else:
                    eps = self.guess(x, texts, step=t, abar=here)
                x = ddim_step(x, eps, here, there)
                if on_step is not None and (other := on_step(left, x)) is not None:
                    x = other
        return x

    def inverted(
        self, x: Float[Tensor, "b c h w"], texts: Features, *, steps: int, on_step: Seen | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Clean samples to the noise from which ``denoise`` makes them again, nearly.

        Each step asks for the noise at the level that it leads to, as diffusers' ``DDIMInverseScheduler``.

        Args:
            x: samples.
            texts: what they are told.
            steps: as of ``denoise``.
            on_step: looks at samples after each step; the steps that are left come first.
        """
        with at_rest(self.unet), eval_mode(self.unet):
            for left, (t, there, here) in enumerate(reversed([*ddim_levels(self.abar, steps=steps)])):
                eps = self.guess(x, texts, step=t, abar=here)
                x = ddim_step(x, eps, here, there)
                if on_step is not None and (other := on_step(steps - 1 - left, x)) is not None:
                    x = other
        return x
