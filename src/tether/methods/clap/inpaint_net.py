"""A small U-Net that makes good what was blurred in an image, as far as it knows what belongs there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor

from tether.core.ranges import Count, checked
from tether.methods.clap.padding import mirrored
from tether.models.latent.unet import ResidualUNet


class InpaintNet(ResidualUNet):
    """Adds to an image what it lacks; before it has learnt anything it adds nothing.

    It is not told where the image was blurred, and takes images of any size: what its sizes do not divide is mirrored
    and cut.

    Example:
        >>> import torch
        >>> from tether.methods.clap.inpaint_net import InpaintNet
        >>> image = torch.rand(2, 3, 21, 40)
        >>> torch.equal(InpaintNet(widths=(8, 16))(image), image)
        True
    """

    @checked
    def __init__(
        self,
        *,
        channels: Count = 3,
        widths: Annotated[Sequence[Count], MinLen(1)] = (16, 32, 64, 64),
        blocks: Count = 1,
    ) -> None:
        """Draw the weights from torch's generator.

        Args:
            channels: of the images.
            widths: channels at the full size, at a half of it and so on; multiples of 8.
            blocks: at each size, on the way down and on the way up.
        """
        super().__init__(channels, widths=widths, blocks=blocks)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Images from 0 to 1, made good; what is given back may lie a little outside."""
        whole = mirrored(x, multiple=2 * self.multiple)  # a norm needs more than one pixel at the smallest size
        return x + self.across(whole)[:, :, : x.shape[2], : x.shape[3]]
