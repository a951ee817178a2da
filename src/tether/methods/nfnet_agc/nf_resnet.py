"""A residual network without normalisation: scaled activations, standardised filters and known residual scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, NonNegative, Positive, checked
from tether.methods.nfnet_agc.scaled_activation import ScaledActivation
from tether.methods.nfnet_agc.scaled_std_conv import ScaledStdConv2d

Branch = Literal["basic", "bottleneck", "nfnet"]
"""What a residual branch is made of. ``basic``: two 3x3; ``bottleneck``: 1x1, 3x3, 1x1 at a quarter of the width;
``nfnet``: 1x1, two grouped 3x3, 1x1 at half of it."""

ALPHA = 0.2  # arXiv 2101.08692, section 3
HEAD_DEVIATION = 0.01
_GROUP_WIDTH = 128  # channels of a group in the nfnet branch
_EXPANSION = {"basic": 1.0, "bottleneck": 0.25, "nfnet": 0.5}


class SqueezeExcite(nn.Module):
    """A gate for each channel, from the mean of all channels (arXiv 1709.01507); (b, c, h, w) to (b, c, 1, 1)."""

    def __init__(self, channels: int, *, ratio: float = 0.5) -> None:
        """Draw both layers from torch's default generator; the inner one has ``ratio`` times the channels."""
        super().__init__()
        hidden = max(1, int(channels * ratio))
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 1 1"]:
        """Gates in (0, 1)."""
        return self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]


@final
class NFBlock(nn.Module):
    """A residual block whose variance is known at the start: ``shortcut + alpha * skip_gain * branch(beta * act(x))``.

    The activation comes first, then ``beta``, one over the deviation that the input is expected to have. The shortcut
    is the input, or on a change of size the activated and scaled input, averaged over 2x2 where the stride is 2 and
    through a 1x1 convolution. ``skip_gain`` starts at zero, so a block without such a change starts as the identity.

    timm's ``NormFreeBlock`` computes the same up to the eps of its convolutions, which a test checks.

    Source: arXiv 2102.06171, appendix C, and the released ``nfnets/nfnet.py``; without stochastic depth.
    """

    @checked
    def __init__(
        self,
        in_channels: Count,
        *,
        out_channels: Count,
        stride: Literal[1, 2] = 1,
        beta: Positive = 1.0,
        alpha: Positive = ALPHA,
        activation: str = "relu",
        branch: Branch = "basic",
        squeeze_excite: NonNegative = 0.0,
        eps: float = 1e-4,
    ) -> None:
        """Draw the weights from torch's default generator.

        Args:
            in_channels: of the input.
            out_channels: of the output.
            stride: 1 or 2.
            beta: one over the expected deviation of the input.
            alpha: weight of the branch.
            activation: a name of ``GAMMAS`` that keeps the number of channels.
            branch: what the branch is made of.
            squeeze_excite: inner width of the channel gate over the output's; 0 is no gate. The gate is doubled, so
                that at the start it is about one.
            eps: of the convolutions.
        """
        super().__init__()
        if activation == "glu":
            raise InputError("activation: 'glu' halves the channels, which a residual block cannot use")
        self.stride, self.beta, self.alpha = stride, float(beta), float(alpha)
        self.act = ScaledActivation(activation)
        width = max(1, int(out_channels * _EXPANSION[branch]))
        groups = 1
        if branch == "nfnet" and width > _GROUP_WIDTH:
            groups = width // _GROUP_WIDTH
            width = groups * _GROUP_WIDTH
        outer, inner = (3, ()) if branch == "basic" else (1, (3,) if branch == "bottleneck" else (3, 3))
        first = ScaledStdConv2d(in_channels, width, outer, stride=stride if branch == "basic" else 1, eps=eps)
        middle = [
            ScaledStdConv2d(width, width, size, stride=stride if place == 0 else 1, groups=groups, eps=eps)
            for place, size in enumerate(inner)
        ]
        self.convs = nn.ModuleList([first, *middle, ScaledStdConv2d(width, out_channels, outer, eps=eps)])
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = ScaledStdConv2d(in_channels, out_channels, 1, eps=eps) if changes else None
        self.gate = SqueezeExcite(out_channels, ratio=squeeze_excite) if squeeze_excite > 0 else None
        self.skip_gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o y x"]:
        """One block."""
        out = self.act(x) * self.beta
        shortcut = x
        if self.shortcut is not None:
            pooled = F.avg_pool2d(out, 2, ceil_mode=True, count_include_pad=False) if self.stride == 2 else out
            shortcut = self.shortcut(pooled)
        for place, conv in enumerate(self.convs):
            out = conv(out if place == 0 else self.act(out))
        if self.gate is not None:
            out = 2 * self.gate(out) * out
        return shortcut + self.alpha * self.skip_gain * out


@final
class NFResNet(nn.Module):
    """Images to numbers: a stem, stages of ``NFBlock``, an activation, the mean over places and a linear head.

    It trains at batch sizes and learning rates at which a network with batch normalisation would, if its gradients are
    clipped by ``AGC(exclude=["*head.weight"])``. ``classes`` may as well be the dimension of an embedding.

    Source: arXiv 2102.06171 and 2101.08692; the expected deviations follow the released ``nfnets/nf_resnet.py``.

    Attributes:
        betas: one over the deviation that each block expects of its input.
    """

    @checked
    def __init__(
        self,
        in_channels: Count = 3,
        *,
        classes: Count,
        widths: Annotated[Sequence[Count], MinLen(1)] = (64, 128, 256, 512),
        depths: Annotated[Sequence[Count], MinLen(1)] = (2, 2, 2, 2),
        branch: Branch = "basic",
        activation: str = "relu",
        alpha: Positive = ALPHA,
        squeeze_excite: NonNegative = 0.0,
        stem: Literal["pixel", "patch"] = "patch",
        seed: int = 0,
    ) -> None:
        """Build the network and draw its weights.

        Args:
            in_channels: of the images.
            classes: numbers given for each image.
            widths: channels of each stage; every stage after the first halves the size.
            depths: blocks of each stage, as many as ``widths``.
            branch: what the residual branches are made of.
            activation: a name of ``GAMMAS``.
            alpha: weight of the branches.
            squeeze_excite: see ``NFBlock``.
            stem: ``patch`` is 7x7 with stride 2 and 3x3 maximum with stride 2; ``pixel``, for small images, is 3x3.
            seed: of the weights.
        """
        super().__init__()
        if len(widths) != len(depths):
            raise InputError(f"depths: expected one for each of the widths {tuple(widths)}, got {tuple(depths)}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ScaledStdConv2d(
                in_channels, widths[0], *((3,) if stem == "pixel" else (7,)), stride=1 if stem == "pixel" else 2
            )
            self.pool = nn.Identity() if stem == "pixel" else nn.MaxPool2d(3, 2, padding=1)
            self.betas: list[float] = []
            blocks = []
            channels, deviation = widths[0], 1.0
            for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
                for place in range(depth):
                    self.betas.append(1 / deviation)
                    blocks.append(
                        NFBlock(
                            channels,
                            out_channels=width,
                            stride=2 if stage > 0 and place == 0 else 1,
                            beta=1 / deviation,
                            alpha=alpha,
                            activation=activation,
                            branch=branch,
                            squeeze_excite=squeeze_excite,
                        )
                    )
                    channels = width
                    # A stage's first block replaces the stream, so the deviation starts again from one.
                    deviation = math.hypot(1.0 if place == 0 else deviation, alpha)
            self.blocks = nn.ModuleList(blocks)
            self.act = ScaledActivation(activation)
            self.head = nn.Linear(channels, classes)
            nn.init.normal_(self.head.weight, std=HEAD_DEVIATION)
            nn.init.zeros_(self.head.bias)

    def features(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b c y x"]:
        """The activated map before it is averaged."""
        x = self.pool(self.stem(image))
        for block in self.blocks:
            x = block(x)
        return self.act(x)

    def forward(self, image: Float[Tensor, "b i h w"]) -> Float[Tensor, "b k"]:
        """Normalised images to the head's numbers."""
        return self.head(self.features(image).mean((2, 3)))
