"""A denoiser that is told an image's embedding: what an embedding knows of its image makes its guesses better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, Inner, NonNegative, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.core.types import ImageSpec
from tether.methods.un2clip.denoising_net import DenoisingNet
from tether.methods.un2clip.noise_schedule import Kind, NoiseSchedule, Target

_FORMAT = "tether-denoiser-1"


class ConditionalDenoiser(nn.Module):
    """Tells noise from image, given the image's embedding; unCLIP's generator as far as its loss goes.

    Source: arXiv 2505.24517 (un2CLIP) for what it is for, arXiv 2204.06125 (unCLIP); the loss of arXiv 2006.11239.

    Attributes:
        schedule: of the noise.
        reference: digest of the image side whose embeddings it was trained on; None before.

    Example:
        >>> import torch
        >>> from tether.methods.un2clip.denoiser import ConditionalDenoiser
        >>> denoiser = ConditionalDenoiser(16, shape=(3, 8, 8), width=8)
        >>> x, cond = torch.rand(4, 3, 8, 8) * 2 - 1, torch.randn(4, 16)
        >>> denoiser.loss(x, cond, generator=torch.Generator().manual_seed(0)).item() > 0
        True
    """

    reference: str | None

    @checked
    def __init__(
        self,
        cond_dim: Count,
        *,
        shape: Annotated[tuple[Count, ...], MinLen(1)] = (3, 32, 32),
        width: Count = 56,
        objective: Target = "v",
        schedule: Kind = "scaled_linear",
        betas: tuple[Inner, Inner] = (0.00085, 0.012),
        timesteps: Count = 1000,
        rows: Literal["unit", "raw"] = "unit",
        scale: NonNegative | None = None,
        network: nn.Module | None = None,
    ) -> None:
        """Make the network, with weights from torch's generator.

        Args:
            cond_dim: of the embeddings.
            shape: of what is denoised: images in -1 to 1 (3, h, w), or latents; sides that 4 divides.
            width: of ``DenoisingNet``; 56 gives 4 million parameters.
            objective: what is told, see ``NoiseSchedule.target``.
            schedule: see ``NoiseSchedule``.
            betas: see ``NoiseSchedule``.
            timesteps: see ``NoiseSchedule``.
            rows: embeddings as unit vectors or as they are; it belongs to the denoiser, so both stages have the same.
            scale: what they are multiplied with; the square root of their width for unit ones and 1 for raw ones if
                None.
            network: another one, called with noised x, steps t (b,) and the embeddings so scaled; it is not saved with
                ``save``.
        """
        super().__init__()
        if network is None and (len(shape) != 3 or shape[1] % 4 or shape[2] % 4):
            raise InputError(f"shape: expected channels and sides that 4 divides, got {tuple(shape)}")
        self.settings: dict[str, Any] = {
            "cond_dim": cond_dim,
            "shape": list(shape),
            "width": width,
            "objective": objective,
            "schedule": schedule,
            "betas": list(betas),
            "timesteps": timesteps,
            "rows": rows,
            "scale": (cond_dim**0.5 if rows == "unit" else 1.0) if scale is None else scale,
        }
        self.shape, self.objective, self.reference = tuple(shape), objective, None
        self.schedule = NoiseSchedule(kind=schedule, betas=betas, timesteps=timesteps)
        self.own = network is None
        self.network = DenoisingNet(shape[0], cond_dim=cond_dim, width=width) if network is None else network

    def forward(self, x: Float[Tensor, "b ..."], t: Int[Tensor, " b"], cond: Float[Tensor, "b d"]) -> Tensor:
        """The guess of ``objective`` from noised x."""
        wanted, found = (len(x), self.settings["cond_dim"]), tuple(cond.shape)
        if x.shape[1:] != self.shape or found != wanted:
            raise InputError(
                f"expected x of {self.shape} and embeddings of {wanted}, got {tuple(x.shape[1:])} and {found}"
            )
        seen = F.normalize(cond, dim=1) if self.settings["rows"] == "unit" else cond
        return self.network(x, t, self.settings["scale"] * seen)

    def loss(
        self,
        x: Float[Tensor, "b ..."],
        cond: Float[Tensor, "b d"],
        *,
        t: Int[Tensor, " n"] | None = None,
        noise: Tensor | None = None,
        draws: Count = 1,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the guess over rows and dimensions, with gradient to ``cond`` and to the network.

        Args:
            x: images or latents.
            cond: their embeddings.
            t: (draws b,) steps, the first draw of all rows before the second; drawn uniformly if None.
            noise: (draws b, *shape); drawn from a normal distribution if None.
            draws: pairs of step and noise for each row, which cut the variance.
            generator: of the draws, on the CPU; needed where one of them is not given.

        Raises:
            InputError: another shape or width, a step out of range, or nothing to draw with.
        """
        if generator is None and (t is None or noise is None):
            raise InputError("generator: expected one, or t and noise, for nothing is drawn from the global one")
        x, cond = x.repeat(draws, *[1] * (x.ndim - 1)), cond.repeat(draws, 1)
        if t is None:
            t = torch.randint(len(self.schedule), (len(x),), generator=generator).to(x.device)
        if noise is None:
            noise = torch.randn(x.shape, generator=generator, dtype=torch.float32).to(x)
        if noise.shape != x.shape:
            raise InputError(f"noise: expected {tuple(x.shape)}, got {tuple(noise.shape)}")
        guess = self(self.schedule.noised(x, noise, t), t, cond)
        return (guess - self.schedule.target(x, noise, t, objective=self.objective)).square().mean()

    @torch.no_grad()
    def gain(
        self,
        x: Float[Tensor, "b ..."],
        cond: Float[Tensor, "b d"],
        *,
        draws: Count = 8,
        generator: torch.Generator,
    ) -> float:
        """By what share the loss rises where each row is told the embedding of another: 0 where it does not listen.

        Both losses have the same steps and noise.

        Raises:
            InputError: fewer than two rows, or as for ``loss``.
        """
        if len(x) < 2:
            raise InputError(f"expected at least two rows to exchange embeddings between, got {len(x)}")
        order = torch.randperm(len(x), generator=generator)
        other = torch.empty_like(order)
        other[order] = order.roll(1)
        t = torch.randint(len(self.schedule), (draws * len(x),), generator=generator).to(x.device)
        noise = torch.randn((draws * len(x), *self.shape), generator=generator).to(x)
        told = [self.loss(x, some, t=t, noise=noise, draws=draws) for some in (cond, cond[other.to(cond.device)])]
        return float(told[1] / told[0]) - 1

    def images(self, pixels: Tensor, *, spec: ImageSpec) -> Float[Tensor, "b 3 h w"]:
        """Images as they are denoised: of its size and in -1 to 1.

        Args:
            pixels: (b, 3, h, w) uint8, or floats that are normalised as ``spec`` says.
            spec: of the encoder that they are for.
        """
        if len(self.shape) != 3 or self.shape[0] != 3:
            raise InputError(f"expected latents, for what is denoised is of {self.shape} and no image")
        if pixels.dtype == torch.uint8:
            shown = pixels.float() / 127.5 - 1
        else:
            mean, std = (torch.tensor(value).to(pixels).view(3, 1, 1) for value in (spec.mean, spec.std))
            shown = (pixels * std + mean) * 2 - 1
        return F.interpolate(shown, size=self.shape[1:], mode="bilinear", antialias=True, align_corners=False)

    def check(self, digest: str) -> None:
        """Refuse the image side of a digest if it was not trained on its embeddings.

        Raises:
            InputError: it was not trained, or on another image side's.
        """
        if self.reference != digest:
            found = "none" if self.reference is None else f"one of digest {self.reference[:12]}"
            raise InputError(
                f"denoiser: it was trained on {found}, not on this image side of digest {digest[:12]}; train it first"
            )

    def save(self, path: Path | str) -> None:
        """Write weights, settings and the digest of the image side to one safetensors file, atomically.

        Raises:
            InputError: a network of another's making.
        """
        if not self.own:
            raise InputError("save: expected a denoiser with a network of its own")
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=_FORMAT, settings={**self.settings, "reference": self.reference}, arrays=arrays)

    @classmethod
    def load(cls, path: Path | str) -> ConditionalDenoiser:
        """Read what ``save`` wrote, with nothing unpickled.

        Raises:
            InputError: a file of another kind, or one that is damaged.
        """
        written, arrays = read_state(path, what=cls.__name__, format=_FORMAT)
        try:
            reference = written.pop("reference")
            settings: dict[str, Any] = {
                key: tuple(one) if isinstance(one, list) else one for key, one in written.items()
            }
            found = cls(**settings)
            found.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
        except (KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: expected the settings and weights of a {cls.__name__}: {error}") from error
        found.reference = reference
        return found
