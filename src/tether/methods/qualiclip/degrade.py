"""Images made worse step by step: blur, noise, compression, colours, places and contrast, in five levels each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.component import closest
from tether.core.errors import InputError
from tether.core.ranges import Count, Number, checked
from tether.methods.qualiclip import kinds
from tether.methods.qualiclip.kinds import Pixels, RandomDraw

Group = Literal["blur", "colour", "jpeg", "noise", "brightness", "spatial", "contrast"]
LEVELS = 5


@dataclass(frozen=True, slots=True)
class Degradation:
    """One kind.

    Attributes:
        group: kinds of one group are not combined.
        strengths: of levels 1 to 5.
        ladder: whether each level is worse than the one before; those of which two levels go to different sides, or
            that may not be so on a small image, are no ladder: JPEG 2000 makes the same image of levels 4 and 5 up to
            96 pixels, and of all but the first at 32.
        apply: from an image, a strength and what is drawn to an image, which may leave [0, 1].
    """

    group: Group
    strengths: tuple[float, float, float, float, float]
    apply: Callable[[Pixels, float, RandomDraw], Pixels]
    ladder: bool = True


DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(
    {
        "gaublur": Degradation("blur", (0.1, 0.5, 1, 2, 5), kinds.gaussian_blur),
        "lensblur": Degradation("blur", (1, 2, 4, 6, 8), kinds.lens_blur),
        "motionblur": Degradation("blur", (1, 2, 4, 6, 10), kinds.motion_blur),
        "colordiff": Degradation("colour", (1, 3, 6, 8, 12), kinds.colour_diffusion),
        "colorshift": Degradation("colour", (1, 3, 6, 8, 12), kinds.colour_shift),
        "colorsat1": Degradation("colour", (0.4, 0.2, 0.1, 0, -0.4), kinds.hsv_saturation),
        "colorsat2": Degradation("colour", (1, 2, 3, 6, 9), kinds.lab_saturation),
        "jpeg2000": Degradation("jpeg", (16, 32, 45, 120, 170), kinds.jpeg_2000, ladder=False),
        "jpeg": Degradation("jpeg", (43, 36, 24, 7, 4), kinds.jpeg),
        "whitenoise": Degradation("noise", (0.001, 0.002, 0.003, 0.005, 0.01), kinds.white_noise),
        "whitenoiseCC": Degradation("noise", (0.0001, 0.0005, 0.001, 0.002, 0.003), kinds.white_noise_ycbcr),
        "impulsenoise": Degradation("noise", (0.001, 0.005, 0.01, 0.02, 0.03), kinds.impulse_noise),
        "multnoise": Degradation("noise", (0.001, 0.005, 0.01, 0.02, 0.05), kinds.multiplicative_noise),
        "brighten": Degradation("brightness", (0.1, 0.2, 0.4, 0.7, 1.1), kinds.brighten),
        "darken": Degradation("brightness", (0.05, 0.1, 0.2, 0.4, 0.8), kinds.darken),
        "meanshift": Degradation("brightness", (0, 0.08, -0.08, 0.15, -0.15), kinds.mean_shift, ladder=False),
        "jitter": Degradation("spatial", (0.05, 0.1, 0.2, 0.5, 1), kinds.jitter),
        "noneccpatch": Degradation("spatial", (20, 40, 60, 80, 100), kinds.moved_patches),
        "pixelate": Degradation("spatial", (0.01, 0.05, 0.1, 0.2, 0.5), kinds.pixelate, ladder=False),
        "quantization": Degradation("spatial", (20, 16, 13, 10, 7), kinds.quantise),
        "colorblock": Degradation("spatial", (2, 4, 6, 8, 10), kinds.colour_blocks),
        "highsharpen": Degradation("contrast", (1, 2, 3, 6, 12), kinds.sharpen),
        "lincontrchange": Degradation("contrast", (0.0, 0.15, -0.4, 0.3, -0.6), kinds.linear_contrast, ladder=False),
        "nonlincontrchange": Degradation("contrast", (0.4, 0.3, 0.2, 0.1, 0.05), kinds.squeezed_contrast),
    }
)
"""Every kind by the name that the released code has for it."""

LADDERS: tuple[str, ...] = tuple(name for name, one in DEGRADATIONS.items() if one.ladder)
"""Kinds of which each level is worse than the one before."""


@checked
def degrade(
    image: Float[Tensor, "3 h w"],
    kind: str | Sequence[str],
    level: int,
    generator: torch.Generator | None = None,
    *,
    angle: Number | None = None,
    sized_for: Count | None = None,
    match_official: bool = False,
) -> Float[Tensor, "3 h w"]:
    """An image with one degradation, or several of different groups one after the other, each cut off to [0, 1].

    Two images have the same degradation when level, angle and a generator of one seed are the same.

    Source: ARNIQA (arXiv 2310.14918), released code, with the levels of KADID-10k. It reads images whose red and blue
    are exchanged as L*a*b*, and its disk has an error; both only with ``match_official``. Its ways to draw (noise,
    places) are not followed number by number.

    Args:
        image: in [0, 1]; it is not changed.
        kind: names in ``DEGRADATIONS``.
        level: 1, hardly seen, to 5.
        generator: of noise, places and motion's angle; None takes one of seed 0.
        angle: of motion in degrees, against the clock from the horizontal; None draws it.
        sized_for: shorter side in pixels of the images that lengths of the table (blur, patches) are meant for; they
            are scaled by the image's own. None takes them as they are. The tables are for some hundred pixels; on 64
            pixels they wipe all out.
        match_official: see above.

    Raises:
        InputError: an unknown kind, two of a group, a level outside 1 to 5, or an image that is none.

    Example:
        >>> import torch
        >>> from tether.methods.qualiclip import degrade
        >>> image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> mild, strong = degrade(image, "gaublur", 2), degrade(image, ["gaublur", "jpeg"], 5)
        >>> bool(strong.std() < mild.std() < image.std())
        True
    """
    names = [kind] if isinstance(kind, str) else list(kind)
    if unknown := [name for name in names if name not in DEGRADATIONS]:
        raise InputError(f"kind: no degradation {unknown[0]!r:.100}; {closest(str(unknown[0]), DEGRADATIONS)}")
    groups = [DEGRADATIONS[name].group for name in names]
    if not names or len(set(groups)) < len(groups):
        raise InputError(f"kind: expected one or more of different groups, got {', '.join(names) or 'none'}")
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= LEVELS:
        raise InputError(f"level: expected a whole number from 1 to {LEVELS}, got {level!r:.100}")
    if image.ndim != 3 or len(image) != 3 or not image.numel() or not image.is_floating_point():
        raise InputError(f"image: expected floats (3, h, w) in [0, 1], got {image.dtype} {tuple(image.shape)}")
    if not (image.min() >= 0 and image.max() <= 1):  # also refuses NaN
        raise InputError(f"image: expected values in [0, 1], got {image.min():.4g} to {image.max():.4g}")
    scale = 1.0 if sized_for is None else min(image.shape[1:]) / sized_for
    draw = RandomDraw(
        torch.Generator().manual_seed(0) if generator is None else generator, angle, scale, match_official
    )
    found = image.clone()
    for name in names:
        one = DEGRADATIONS[name]
        found = one.apply(found, one.strengths[level - 1], draw).clamp(0, 1)
    return found
