"""Colours as CIE L*a*b*, lightness apart from colour, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # D65
_LINEAR, _SLOPE = 0.008856, 7.787  # below this share of the white the curve is a line


def rgb_to_lab(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """From sRGB in [0, 1]; L is in [0, 100], a and b about -100 to 100."""
    light = torch.where(image > 0.04045, ((image + 0.055).clamp(min=0) / 1.055) ** 2.4, image / 12.92)
    xyz = torch.einsum("ij,jhw->ihw", image.new_tensor(_XYZ), light) / image.new_tensor(_WHITE)[:, None, None]
    x, y, z = torch.where(xyz > _LINEAR, xyz.clamp(min=_LINEAR) ** (1 / 3), _SLOPE * xyz + 4 / 29)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lab_to_rgb(lab: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """To sRGB; what no screen shows is cut off to [0, 1]."""
    y = (lab[0] + 16) / 116
    f = torch.stack([lab[1] / 500 + y, y, (y - lab[2] / 200).clamp(min=0)])
    xyz = torch.where(f > _LINEAR ** (1 / 3), f**3, (f - 4 / 29) / _SLOPE) * lab.new_tensor(_WHITE)[:, None, None]
    back = torch.linalg.inv(torch.tensor(_XYZ, dtype=torch.float64)).to(lab)
    light = torch.einsum("ij,jhw->ihw", back, xyz)
    rgb = torch.where(light > 0.0031308, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055, 12.92 * light)
    return rgb.clamp(0, 1)
