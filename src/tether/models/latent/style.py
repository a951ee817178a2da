"""A small auto-encoder whose decoder is told one vector a layer, as the generators of faces are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.component import build
from tether.core.errors import InputError
from tether.core.ranges import NonNegative, Whole, checked
from tether.core.state_file import read_state, wide_array, write_state
from tether.models.convert.weights import filled
from tether.models.latent.codec import GROUPS, KlBottleneck, down

Width = Annotated[int, Ge(8), Le(1024)]
_COARSEST = 4
FORMAT = "tether-style-codec-1"


class StyleCodec(nn.Module):
    """Images as style codes (b, n, d), one for each layer of the decoder, and back.

    The decoder starts from a learnt map of 4 x 4 and doubles it; at each layer a code scales and shifts its channels
    after their norm over the image (arXiv 1812.04948, section 2). It is trained to make images again
    (``training.codec_training.train_codec``), with a normal distribution around each code, so it is no GAN: what it
    makes is blurred, and editing its codes stays near images that it knows.

    Attributes:
        codes: layers, each with a code.
        dim: numbers of a code.
        size: side of the images.

    Example:
        >>> import torch
        >>> from tether.models.latent.style import StyleCodec
        >>> codec = StyleCodec(size=32, dim=16, width=8)
        >>> w = codec.encode(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        >>> w.shape, codec.decode(w).shape
        (torch.Size([2, 4, 16]), torch.Size([2, 3, 32, 32]))
    """

    @checked
    def __init__(
        self,
        *,
        size: Literal[16, 32, 64, 128] = 64,
        dim: Width = 64,
        width: Width = 32,
        seed: Whole = 0,
        spread: NonNegative = 0.0,
        divergence: NonNegative = KlBottleneck.weight,
    ) -> None:
        """Draw the weights.

        Args:
            size: side of the images; 5 codes at 64 px, one more or less each time it doubles or halves.
            dim: numbers of a code.
            width: channels at half the size, twice as many below; a multiple of 8.
            seed: of the weights.
            spread: weight of how far, squared, the codes of later layers are from the first's while it is trained, so
                that the layers of an image have much in common, as e4e's have (arXiv 2102.02766, section 4.1).
            divergence: weight of the distribution's distance from the standard one; more holds codes near a size of 1.
        """
        super().__init__()
        if width % GROUPS:
            raise InputError(f"width: expected a multiple of {GROUPS}, got {width}")
        self.size, self.dim, self.codes = size, dim, (size // _COARSEST).bit_length()
        self.settings: dict[str, Any] = {
            "size": size, "dim": dim, "width": width, "seed": seed, "spread": spread, "divergence": divergence
        }  # fmt: skip
        halvings = self.codes - 1
        widths = [width, *[2 * width] * (halvings - 1)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.bottleneck = KlBottleneck()
            self.bottleneck.weight = 1.0  # its penalty comes weighted out of ``forward``
            told = KlBottleneck.outputs * self.codes * dim
            self.encoder = nn.Sequential(
                *down(widths, out=2 * width), nn.SiLU(), nn.Flatten(), nn.Linear(2 * width * _COARSEST**2, told)
            )
            self.start = nn.Parameter(torch.randn(widths[-1], _COARSEST, _COARSEST))
            befores, afters = [widths[-1], *widths[::-1]], [*widths[::-1], width]
            self.layers = nn.ModuleList(
                _Styled(before, after, dim) for before, after in zip(befores, afters, strict=True)
            )
            self.out = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2))

    def encode(self, x: Tensor) -> Float[Tensor, "b n d"]:
        """Codes, the mode of each.

        Args:
            x: (b, 3, size, size) uint8 pixels, or floats in -1 to 1.

        Raises:
            InputError: another shape.
        """
        if tuple(x.shape[1:]) != (3, self.size, self.size):
            raise InputError(f"image: expected (b, 3, {self.size}, {self.size}), got {tuple(x.shape)}")
        shown = x.float().div(127.5).sub(1) if x.dtype == torch.uint8 else x
        return self.bottleneck(self._told(shown), None)[0]

    def decode(self, w: Float[Tensor, "b n d"]) -> Float[Tensor, "b 3 h w"]:
        """Floats about -1 to 1, with gradient to the codes.

        Raises:
            InputError: another number of codes, or codes of another width.
        """
        if tuple(w.shape[1:]) != (self.codes, self.dim):
            raise InputError(f"w: expected (b, {self.codes}, {self.dim}) codes, got {tuple(w.shape)}")
        x = self.start.expand(len(w), -1, -1, -1)
        for number, layer in enumerate(self.layers):
            if 0 < number < len(self.layers) - 1:
                x = F.interpolate(x, scale_factor=2.0)
            x = layer(x, w[:, number])
        return self.out(x)

    def forward(self, x: Float[Tensor, "b 3 h w"], noise: Tensor) -> tuple[Float[Tensor, "b 3 h w"], Tensor]:
        """Images made again, and the bottleneck's penalty; ``noise`` is normal, of the codes' shape."""
        told = self._told(x)
        w, divergence = self.bottleneck(told, noise)
        middle, _ = self.bottleneck(told, None)
        spread = (middle[:, 1:] - middle[:, :1]).square().mean()
        return self.decode(w), self.settings["divergence"] * divergence + self.settings["spread"] * spread

    def noise_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """Of an image's noise.

        Raises:
            InputError: images of another size.
        """
        if size != (self.size, self.size):
            raise InputError(f"images: expected {self.size} x {self.size} px, got {size}")
        return self.codes, self.dim

    def save(self, path: str | Path) -> Path:
        """Write settings and weights to one safetensors file, atomically."""
        arrays = {name: wide_array(value) for name, value in self.state_dict().items()}
        write_state(path, format=FORMAT, settings=self.settings, arrays=arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> StyleCodec:
        """What ``save`` wrote, at rest.

        Raises:
            InputError: no such file, or one that is damaged or of another kind.
        """
        settings, arrays = read_state(path, what="style auto-encoder", format=FORMAT)
        spec = {**settings, "name": "style"}
        made = filled(lambda: build(spec, {"style": cls}, where=str(path)), arrays, where=path)
        return made.eval().requires_grad_(False)

    def _told(self, x: Tensor) -> Tensor:
        return self.encoder(x).unflatten(1, (KlBottleneck.outputs * self.codes, self.dim))


class _Styled(nn.Module):
    """A convolution whose channels, after their norm over the image, a code scales and shifts."""

    def __init__(self, before: int, after: int, dim: int) -> None:
        super().__init__()
        self.conv, self.style = nn.Conv2d(before, after, 3, padding=1), nn.Linear(dim, 2 * after)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        scale, shift = self.style(code)[:, :, None, None].chunk(2, dim=1)
        return F.silu(F.instance_norm(self.conv(x)) * (1 + scale) + shift)
