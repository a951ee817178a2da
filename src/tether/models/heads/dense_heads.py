"""Light heads that say something of every pixel from an image tower's last map: a class, a depth, a surface normal."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import skip_init

from tether.core.errors import InputError
from tether.core.ranges import Count, Positive, checked
from tether.data.dense_labels import Task

_CHANNELS = {"depth": 1, "normal": 3}


class DenseHead(nn.Module):
    """A norm, a 3 x 3 convolution, GELU and a 1 x 1 convolution, enlarged bilinearly to the labels' size.

    The last convolution comes before the enlarging, which gives the same numbers for a fraction of the cost. Directions
    of the task ``normal`` have any length.

    Source: CLIPTeX (arXiv 2310.14108), whose heads are "simple convolutional" ones; layers, width and norm are ours.

    Attributes:
        task: what it says.
        classes: of the task ``seg``, else None.
        rate_scale: how many times faster than the model it learns, see ``optim.parameter_groups``.
        teaches_tower: it is dropped at the end, so all that it does is what the image tower learns by it.

    Example:
        >>> import torch
        >>> from tether.models.heads.dense_heads import DenseHead
        >>> head = DenseHead.seg(5, features=64)
        >>> head(torch.randn(2, 64, 4, 4), size=(32, 32)).shape
        torch.Size([2, 5, 32, 32])
    """

    teaches_tower: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        *,
        task: Task,
        classes: Count | None = None,
        width: Count = 256,
        norm: Literal["none", "layer"] = "layer",
        rate: Positive = 10.0,
        features: int,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build it, with weights drawn from the generator.

        Args:
            task: ``seg``, ``depth`` or ``normal``.
            classes: of ``seg``, which needs them.
            width: channels between the convolutions.
            norm: of each place of the map, over its channels; streams of transformers have channels of very unequal
                size. It has no weight decay.
            rate: ``rate_scale``.
            features: channels of the map.
            generator: of the weights.

        Raises:
            InputError: classes of another task, or none.
        """
        super().__init__()
        if (task == "seg") != (classes is not None):
            raise InputError(f"classes: expected a number for the task seg alone, got {classes} for {task}")
        if features < 1:
            raise InputError(f"features: expected at least 1, got {features}")
        self.task: Task = task
        self.classes, self.rate_scale = classes, rate
        self.norm = nn.LayerNorm(features) if norm == "layer" else nn.Identity()
        self.inner = cast(nn.Conv2d, skip_init(nn.Conv2d, features, width, 3, padding=1))
        self.outer = cast(nn.Conv2d, skip_init(nn.Conv2d, width, classes or _CHANNELS[task], 1))
        for layer in (self.inner, self.outer):
            nn.init.trunc_normal_(layer.weight, std=layer.weight[0].numel() ** -0.5, generator=generator)
            nn.init.zeros_(layer.get_parameter("bias"))

    @classmethod
    def seg(cls, classes: int, *, features: int, generator: torch.Generator | None = None) -> DenseHead:
        """One of classes."""
        return cls(task="seg", classes=classes, features=features, generator=generator)

    @classmethod
    def depth(cls, *, features: int, generator: torch.Generator | None = None) -> DenseHead:
        """One of depth."""
        return cls(task="depth", features=features, generator=generator)

    @classmethod
    def normal(cls, *, features: int, generator: torch.Generator | None = None) -> DenseHead:
        """One of surface normals."""
        return cls(task="normal", features=features, generator=generator)

    def forward(self, features: Float[Tensor, "b w r c"], *, size: tuple[int, int]) -> Float[Tensor, "b k h v"]:
        """(b, k, height, width): logits of classes, a depth, or a direction.

        Args:
            features: the map, rows and columns of patches, see ``features.penultimate.image_map``.
            size: height and width in pixels of what it is compared with.
        """
        x = self.norm(features.movedim(1, -1)).movedim(-1, 1)
        return F.interpolate(self.outer(F.gelu(self.inner(x))), size=size, mode="bilinear")
