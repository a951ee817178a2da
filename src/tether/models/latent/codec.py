"""Auto-encoders whose latents models read: what each can do, and a small one of ours."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MaxLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.ranges import PositiveSingle, Single, Whole, checked
from tether.core.runtime_protocol import ByAttributes
from tether.models.latent.quantizer import MultiScaleQuantizer
from tether.models.latent.spec import Channels, LatentSpec

Means = Annotated[tuple[Single, ...], MaxLen(1024)]
Deviations = Annotated[tuple[PositiveSingle, ...], MaxLen(1024)]


@runtime_checkable
class Codec(Protocol, metaclass=ByAttributes):
    """Images to latents and back."""

    latent: LatentSpec

    def encode(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) uint8 pixels, or floats in -1 to 1, to scaled latents; the same each time."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents to floats about -1 to 1."""
        ...


class ScaledCodec(nn.Module, abc.ABC):
    """A ``Codec`` that a model can hold and a file can keep.

    Attributes:
        latent: shape, scale and statistics of what it gives.
        settings: name and plain values that build it again, without weights.
    """

    latent: LatentSpec

    @property
    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """``name`` in ``CODECS``, and its constructor's keywords."""

    @abc.abstractmethod
    def to_latents(self, x: Tensor) -> Tensor:
        """Floats in -1 to 1 to latents before they are scaled; the mode of their distribution."""

    @abc.abstractmethod
    def to_images(self, latents: Tensor) -> Tensor:
        """Unscaled latents to floats."""

    def encode(self, x: Tensor) -> Float[Tensor, "b c i j"]:
        """Scaled latents, outside of autocast; the mode, not a sample, so that they can be kept.

        Args:
            x: (b, 3, h, w) uint8 pixels, or floats in -1 to 1; sides that the down-sampling divides.

        Raises:
            InputError: another shape.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise InputError(f"image: expected (b, 3, h, w), got {tuple(x.shape)}")
        self.latent.size((x.shape[2], x.shape[3]))
        with torch.autocast(x.device.type, enabled=False):
            shown = x.float().div(127.5).sub(1) if x.dtype == torch.uint8 else x
            return self.to_latents(shown.to(self._dtype)) * self.latent.scale

    def decode(self, latents: Float[Tensor, "b c i j"]) -> Float[Tensor, "b 3 h w"]:
        """Floats about -1 to 1, with gradient to the latents.

        Args:
            latents: scaled, as ``encode`` gives them.

        Raises:
            InputError: another number of channels.
        """
        if latents.ndim != 4 or latents.shape[1] != self.latent.channels:
            raise InputError(f"latents: expected (b, {self.latent.channels}, h, w), got {tuple(latents.shape)}")
        with torch.autocast(latents.device.type, enabled=False):
            return self.to_images(latents.to(self._dtype) / self.latent.scale)

    @torch.no_grad()
    def measure_(self, images: Tensor, *, batch_size: int = 64) -> None:
        """Note mean and deviation of the latents of (n, 3, h, w) images, so that others are told apart from them."""
        found = torch.cat([self.encode(some).double().cpu() for some in images.split(batch_size)])
        mean, std = found.mean((0, 2, 3)).tolist(), found.std((0, 2, 3)).tolist()
        self.latent = replace(self.latent, mean=tuple(mean), std=tuple(std))

    @property
    def _dtype(self) -> torch.dtype:
        return next(value.dtype for value in self.state_dict().values() if value.is_floating_point())


class KlBottleneck(nn.Module):
    """A normal distribution for each number of a latent, held near the standard one (arXiv 1312.6114, section 3)."""

    outputs = 2
    """Numbers that an encoder gives for each of a latent."""
    weight = 1e-6
    """Of its penalty in the loss of an auto-encoder, as latent diffusion's."""

    def __init__(self) -> None:
        """It has nothing to learn."""
        super().__init__()

    def forward(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """A draw, or the mode without noise; and the divergence, a mean over all numbers."""
        mean, log_variance = x.chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        return mean if noise is None else mean + (0.5 * log_variance).exp() * noise, divergence


class ConvCodec(ScaledCodec):
    """A small convolutional auto-encoder: squares of 2 by 2, then a residual block at each size.

    Train it with ``training.codec_training.train_codec``; its first latents mean nothing. What its latents are held to
    is a ``KlBottleneck``, or a ``MultiScaleQuantizer``, which has them as numbers of codewords (``ids``), at one image
    size.

    Attributes:
        bottleneck: between encoder and decoder.
        encoder: floats in -1 to 1 to what the bottleneck takes.
        decoder: latents to floats.

    Example:
        >>> import torch
        >>> from tether.models.latent.codec import ConvCodec
        >>> codec = ConvCodec(channels=4, downsampling=8)
        >>> latents = codec.encode(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
        >>> latents.shape, codec.decode(latents).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 3, 64, 64]))
    """

    @checked
    def __init__(
        self,
        *,
        channels: Channels = 4,
        downsampling: Literal[2, 4, 8, 16, 32] = 8,
        width: Annotated[int, Ge(8), Le(1024)] = 32,
        scale: PositiveSingle = 1.0,
        mean: Means = (),
        std: Deviations = (),
        seed: Whole = 0,
        quantizer: Mapping[str, Any] | None = None,
    ) -> None:
        """Draw the weights.

        Args:
            channels: of a latent.
            downsampling: pixels of a side for one of a latent.
            width: channels at half the size, twice as many below; a multiple of 8.
            scale: see ``LatentSpec``; ``train_codec`` sets it, and what follows.
            mean: see ``LatentSpec``.
            std: see ``LatentSpec``.
            seed: of the weights.
            quantizer: settings of a ``MultiScaleQuantizer``, such as ``{"vocab": 256, "scales": (1, 2, 4)}``; None
                has normal distributions.
        """
        super().__init__()
        if width % GROUPS:
            raise InputError(f"width: expected a multiple of {GROUPS}, got {width}")
        self.latent = LatentSpec(channels=channels, downsampling=downsampling, scale=scale, mean=mean, std=std)
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in (quantizer or {}).items()}
        self._settings = {"width": width, "seed": seed} | ({} if quantizer is None else {"quantizer": plain})
        sizes = [width, *[2 * width] * (downsampling.bit_length() - 2)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bottleneck = KlBottleneck() if quantizer is None else _quantizer(quantizer, channels=channels)
            self.encoder = nn.Sequential(*down(sizes, out=self.bottleneck.outputs * channels))
            self.decoder = nn.Sequential(*_up(sizes[::-1], channels=channels))

    @property
    def settings(self) -> dict[str, Any]:
        """See ``ScaledCodec``."""
        about = self.latent
        shape = {"channels": about.channels, "downsampling": about.downsampling, "scale": about.scale}
        return {"name": "conv", **shape, "mean": list(about.mean), "std": list(about.std), **self._settings}

    def to_latents(self, x: Tensor) -> Tensor:
        """See ``ScaledCodec``."""
        return self.bottleneck(self.encoder(x), None)[0]

    def to_images(self, latents: Tensor) -> Tensor:
        """See ``ScaledCodec``."""
        return self.decoder(latents)

    def ids(self, x: Tensor) -> list[Tensor]:
        """Numbers of codewords for each scale.

        Args:
            x: see ``encode``.

        Raises:
            InputError: a codec without a quantizer, or images of another size.
        """
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            shown = x.float().div(127.5).sub(1) if x.dtype == torch.uint8 else x
            return self.quantizer.encode(self.encoder(shown.to(self._dtype)))

    def shown(self, ids: Sequence[Tensor]) -> Float[Tensor, "b 3 h w"]:
        """Images, floats about -1 to 1, of what ``ids`` gave.

        Raises:
            InputError: a codec without a quantizer, or numbers that do not fit it.
        """
        return self.to_images(self.quantizer.decode(ids))

    @property
    def quantizer(self) -> MultiScaleQuantizer:
        """The bottleneck of a codec that has codewords.

        Raises:
            InputError: it has none.
        """
        if not isinstance(self.bottleneck, MultiScaleQuantizer):
            raise InputError("codec: expected one with codewords, such as ConvCodec(quantizer={...}), got one without")
        return self.bottleneck

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of the noise of an image of this height and width."""
        return self.latent.channels, *self.latent.size(size)

    def forward(self, x: Float[Tensor, "b 3 h w"], noise: Tensor) -> tuple[Float[Tensor, "b 3 h w"], Tensor]:
        """Images made again, and the bottleneck's penalty; ``noise`` is normal, of the latents' shape."""
        latents, penalty = self.bottleneck(self.encoder(x), noise)
        return self.decoder(latents), penalty


GROUPS = 8
"""Of every norm; widths are multiples of it."""


def _quantizer(settings: Mapping[str, Any], *, channels: int) -> MultiScaleQuantizer:
    plain = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return build({"name": "scales", **plain}, {"scales": MultiScaleQuantizer}, where="quantizer", channels=channels)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


def down(sizes: list[int], *, out: int) -> Iterator[nn.Module]:
    """Layers of an encoder: squares of 2 by 2, then half the size from each width to the next."""
    yield from (nn.PixelUnshuffle(2), nn.Conv2d(12, sizes[0], 3, padding=1))
    for before, after in itertools.pairwise(sizes):
        yield from (_Block(before), nn.Conv2d(before, after, 3, stride=2, padding=1))
    yield from (_Block(sizes[-1]), nn.GroupNorm(GROUPS, sizes[-1]), nn.SiLU(), nn.Conv2d(sizes[-1], out, 3, padding=1))


def _up(sizes: list[int], *, channels: int) -> Iterator[nn.Module]:
    yield from (nn.Conv2d(channels, sizes[0], 3, padding=1), _Block(sizes[0]))
    for before, after in itertools.pairwise(sizes):
        yield from (nn.Upsample(scale_factor=2.0), nn.Conv2d(before, after, 3, padding=1), _Block(after))
    yield from (nn.GroupNorm(GROUPS, sizes[-1]), nn.SiLU(), nn.Conv2d(sizes[-1], 12, 3, padding=1), nn.PixelShuffle(2))
