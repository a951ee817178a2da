"""What each kind of degradation does to an image, at a strength from its table."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tether.methods.qualiclip.kernels import blurred, disk, filtered, gaussian, gaussian_of, motion, official_disk
from tether.methods.qualiclip.lab import lab_to_rgb, rgb_to_lab

Pixels = Float[Tensor, "3 h w"]


@dataclass(frozen=True, slots=True)
class RandomDraw:
    """What a degradation hangs on beside the image and the strength.

    Attributes:
        generator: of all that is drawn.
        angle: of motion in degrees, or None to draw it.
        scale: multiplier of lengths in pixels.
        official: whether the released code's exchange of red and blue, and its disk, are followed.
    """

    generator: torch.Generator
    angle: float | None
    scale: float
    official: bool

    def normal(self, image: Tensor, *, variance: float) -> Tensor:
        """Noise of an image's shape."""
        noise = torch.randn(image.shape, generator=self.generator, dtype=torch.float64)
        return (math.sqrt(variance) * noise).to(image)

    def uniform(self, *shape: int) -> Float[Tensor, "*shape"]:
        """Numbers in [0, 1)."""
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def below(self, end: int) -> int:
        """A whole number from 0 to below ``end``."""
        return int(torch.randint(end, (), generator=self.generator))

    def lab(self, image: Pixels) -> Pixels:
        """Lightness and colour of an image."""
        return rgb_to_lab(image.flip(0) if self.official else image)

    def rgb(self, lab: Pixels) -> Pixels:
        """Back from ``lab``."""
        return lab_to_rgb(lab).flip(0) if self.official else lab_to_rgb(lab)


def gaussian_blur(image: Pixels, sigma: float, draw: RandomDraw) -> Pixels:
    """A Gaussian of so many pixels."""
    return blurred(image, gaussian(sigma * draw.scale))


def lens_blur(image: Pixels, radius: float, draw: RandomDraw) -> Pixels:
    """A disk of so many pixels: out of focus."""
    return filtered(image, (official_disk if draw.official else disk)(radius * draw.scale))


def motion_blur(image: Pixels, length: float, draw: RandomDraw) -> Pixels:
    """A line of so many pixels."""
    angle = 180 * float(draw.uniform()) if draw.angle is None else draw.angle
    return filtered(image, motion(length * draw.scale, angle))


def colour_diffusion(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """Colours run into each other, lightness stays."""
    lab = draw.lab(image)
    lab[1:] = amount * blurred(lab[1:], gaussian((1.5 * amount + 2) * draw.scale))
    return _whole(draw.rgb(lab))


def colour_shift(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """Green moves by so many pixels where there are edges."""
    grey = image.new_tensor([0.299, 0.587, 0.114]) @ image.flatten(1)
    padded = F.pad(grey.view(1, 1, *image.shape[1:]), (1, 1, 1, 1), mode="replicate")[0, 0]
    down, across = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    edges = blurred(torch.hypot(down, across)[None], gaussian(4 * draw.scale))[0]
    low, high = torch.quantile(edges.double().flatten(), edges.new_tensor([0.01, 0.99]).double()).tolist()
    share = ((edges - low) / max(high - low, 1e-12)).clamp(0, 1)
    way = draw.uniform(2)
    rows, columns = (amount * draw.scale * way / way.norm()).round().long().tolist()
    rows, columns = min(rows, image.shape[1]), min(columns, image.shape[2])
    moved = F.pad(image[None, 1:2], (columns, 0, rows, 0), mode="replicate")[0, 0]
    moved = moved[: image.shape[1], : image.shape[2]]
    return torch.stack([image[0], torch.lerp(image[1], moved, share), image[2]])


def hsv_saturation(image: Pixels, factor: float, draw: RandomDraw) -> Pixels:
    """The saturation of hue, saturation and value times a factor."""
    value = image.amax(dim=0)
    return value - factor * (value - image)


def lab_saturation(image: Pixels, factor: float, draw: RandomDraw) -> Pixels:
    """The colour of CIE L*a*b* times a factor."""
    lab = draw.lab(image)
    lab[1:] *= factor
    return _whole(draw.rgb(lab))


def jpeg(image: Pixels, quality: float, draw: RandomDraw) -> Pixels:
    """Saved as JPEG of a quality and opened again."""
    return _saved(image, "JPEG", quality=round(quality))


def jpeg_2000(image: Pixels, ratio: float, draw: RandomDraw) -> Pixels:
    """Saved as JPEG 2000 with so many times fewer bytes and opened again."""
    steps = min(6, int(math.log2(min(image.shape[1:]))) + 1)
    options = {"quality_mode": "rates", "quality_layers": [ratio], "num_resolutions": steps}
    return _saved(image, "JPEG2000", **options)


def white_noise(image: Pixels, variance: float, draw: RandomDraw) -> Pixels:
    """Gaussian noise in each colour."""
    return image + draw.normal(image, variance=variance)


def white_noise_ycbcr(image: Pixels, variance: float, draw: RandomDraw) -> Pixels:
    """Gaussian noise in luma and both chromas."""
    luma, blue, red = draw.normal(image, variance=variance)
    return image + torch.stack([luma + 1.403 * red, luma - 0.714 * red - 0.344 * blue, luma + 1.773 * blue])


def impulse_noise(image: Pixels, share: float, draw: RandomDraw) -> Pixels:
    """A share of all values is 1 or 0."""
    found = image.flatten().clone()
    places = torch.randint(len(found), (int(share * len(found)),), generator=draw.generator)
    half = len(places) // 2
    found[places[:half]], found[places[half:]] = 1, 0
    return found.view_as(image)


def multiplicative_noise(image: Pixels, variance: float, draw: RandomDraw) -> Pixels:
    """Noise in proportion to the value."""
    return image * (1 + draw.normal(image, variance=variance))


def brighten(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """A curve that lifts the middle, of colours and, at a third, of lightness."""
    lab = draw.lab(image)
    lab[0] = 100 * _curve(lab[0] / 100, middle=0.5 + amount / 2)
    return (2 * _curve(image, middle=0.5 + amount / 2) + draw.rgb(lab)) / 3


def darken(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """A curve that lowers the middle."""
    return _curve(image, middle=0.5 - amount / 2)


def mean_shift(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """All values more, or fewer."""
    return image + amount


def jitter(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """Five times each pixel is taken from about so many pixels away."""
    height, width = image.shape[1:]
    down, across = torch.arange(height).double()[:, None], torch.arange(width).double()
    for _ in range(5):
        shift = amount * draw.scale * torch.randn((2, height, width), generator=draw.generator, dtype=torch.float64)
        rows, columns = (down - shift[0]) / max(height - 1, 1), (across - shift[1]) / max(width - 1, 1)
        grid = (2 * torch.stack([columns, rows], dim=-1) - 1).to(image)
        image = F.grid_sample(image[None], grid[None], padding_mode="border", align_corners=True)[0]
    return image


def moved_patches(image: Pixels, count: float, draw: RandomDraw) -> Pixels:
    """So many small patches are copied to a place nearby."""
    found, (height, width) = image.clone(), image.shape[1:]
    side = min(max(1, round(16 * draw.scale)), height, width)
    for _ in range(round(count)):
        top, left = draw.below(height - side + 1), draw.below(width - side + 1)
        patch = found[:, top : top + side, left : left + side].clone()
        down, across = (round(side * (float(part) - 0.5)) for part in draw.uniform(2))
        top, left = min(max(top + down, 0), height - side), min(max(left + across, 0), width - side)
        found[:, top : top + side, left : left + side] = patch
    return found


def pixelate(image: Pixels, strength: float, draw: RandomDraw) -> Pixels:
    """Fewer and larger pixels."""
    height, width = image.shape[1:]
    small = [max(1, int(side * (0.95 - strength**0.6))) for side in (height, width)]
    return F.interpolate(F.interpolate(image[None], small, mode="nearest"), (height, width), mode="nearest")[0]


def quantise(image: Pixels, count: float, draw: RandomDraw) -> Pixels:
    """So many values, from the darkest at 0 to the lightest at 1."""
    if image.min() == image.max():
        return image
    borders = [0, *(int(255 * step / count) for step in range(1, round(count))), 256]
    step = torch.bucketize(255 * image.contiguous(), torch.tensor(borders, device=image.device)).to(image)
    low, high = step.min(), step.max()
    return (step - low) / (high - low) if low < high else image


def colour_blocks(image: Pixels, count: float, draw: RandomDraw) -> Pixels:
    """So many squares of one colour."""
    found, (height, width) = image.clone(), image.shape[1:]
    side = min(max(1, round(32 * draw.scale)), height, width)
    for _ in range(round(count)):
        top, left = draw.below(height - side + 1), draw.below(width - side + 1)
        found[:, top : top + side, left : left + side] = draw.uniform(3)[:, None, None].to(image)
    return found


def sharpen(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """Edges of lightness too strong."""
    lab, reach = draw.lab(image), max(1, math.ceil(6 * draw.scale))
    lab[:1] += amount * (lab[:1] - blurred(lab[:1], gaussian_of(reach, sigma=reach)))
    return draw.rgb(lab)


def linear_contrast(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """A cubic curve whose quarters move apart, or together."""
    from scipy.interpolate import CubicSpline

    curve = CubicSpline([0, 0.3, 0.5, 0.7, 1], [0, 0.25 - amount / 4, 0.5, 0.75 + amount / 4, 1])
    return torch.from_numpy(curve(image.double().cpu().numpy())).to(image)


def squeezed_contrast(image: Pixels, amount: float, draw: RandomDraw) -> Pixels:
    """All values within so much of the middle."""
    return 0.5 + amount * (2 * image - 1)


def _curve(values: Tensor, *, middle: float) -> Tensor:
    """The parabola through (0, 0), (0.5, middle) and (1, 1), cut off to [0, 1]."""
    return ((2 - 4 * middle) * values**2 + (4 * middle - 1) * values).clamp(0, 1)


def _whole(image: Pixels) -> Pixels:
    """Rounded down to 255ths, as files of images have them."""
    return torch.trunc(255 * image) / 255


def _saved(image: Pixels, form: str, **options: object) -> Pixels:
    file = io.BytesIO()
    pixels = (255 * image).byte().permute(1, 2, 0).contiguous().cpu().numpy()
    Image.fromarray(pixels).save(file, form, **options)  # pyrefly: ignore
    return (torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255).to(image)
