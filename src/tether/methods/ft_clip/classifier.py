"""A classifier on the patches of an image tower, which is tuned with it (FT-CLIP, arXiv 2212.06138)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.heads.linear import LinearHead
from tether.core.errors import InputError
from tether.core.ranges import Count, Part, PositiveRate, Rate, checked
from tether.models.composed.encoder import ComposedEncoder
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.find import tower_of
from tether.models.features.mean_patches import Pool, patch_tokens
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode
from tether.optim import layer_decay_groups

HEAD_STD, HEAD_SCALE = 0.02, 0.001  # released finetune_clip.py
_PATCHES = re.compile(r"(?:^|\.)(?:patch|patch_embed|patch_embeddings?|conv1|conv_stem|stem)\.")
"""Names of the layer that makes patches of pixels, in every library."""


class PatchReadOut(nn.Module):
    """A layer norm on each token, their mean, and a linear layer that starts near zero: all classes are alike.

    Attributes:
        fc_norm: of the tower's width.
        head: to the logits.
    """

    @checked
    def __init__(self, width: Count, *, classes: Count, generator: torch.Generator | None = None) -> None:
        """Draw the weights.

        Args:
            width: w of the tokens.
            classes: c, at least two.
            generator: of the draw; None is torch's own.
        """
        super().__init__()
        if classes < 2:
            raise InputError(f"classes: expected at least 2 to tell apart, got {classes}")
        self.fc_norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD, generator=generator)
        bound = width**-0.5  # that of torch's linear layers
        nn.init.uniform_(self.head.bias, -bound, bound, generator=generator)
        with torch.no_grad():
            self.head.weight.mul_(HEAD_SCALE)
            self.head.bias.mul_(HEAD_SCALE)

    def forward(self, tokens: Float[Tensor, "b n w"]) -> Float[Tensor, "b c"]:
        """Logits of the images whose tokens these are."""
        return self.head(self.fc_norm(tokens.to(self.head.weight.dtype)).mean(dim=1))


class ClipClassifier(nn.Module):
    """Any encoder's image tower with a classifier on its patches: the class token, final norm and projection are left.

    After the last block each patch goes through a new layer norm; the mean of all goes through a linear layer. Of a
    network of convolutions the places of its last map are the patches. It is no ``DualEncoder``: what it knows of
    classes is in the read-out, and texts cannot be asked.

    Source: arXiv 2212.06138, released models/finetune_clip.py, where the layer that makes patches rests at 224 pixels.

    Attributes:
        encoder: the model, not copied; its text side, final norm and projection rest.
        read: a ``PatchReadOut``.

    Example:
        >>> import torch
        >>> from tether.methods.ft_clip import ClipClassifier
        >>> from tether.models import create
        >>> classifier = ClipClassifier(create("tiny"), classes=3)
        >>> classifier(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3])
        >>> groups = classifier.groups(layer_decay=0.6, weight_decay=0.05)
        >>> [round(group["lr_scale"], 3) for group in groups if group["name"].endswith(" decay")][-2:]
        [0.6, 1.0]
    """

    @checked
    def __init__(
        self,
        encoder: Clip | WrappedEncoder,
        *,
        classes: Count,
        pool: Pool = "mean_patch",
        generator: torch.Generator | None = None,
    ) -> None:
        """Look into the tower, and let what the logits depend on move and all else of the encoder rest.

        Args:
            encoder: any of ``tether.load``; ``resized(image_size=...)`` first for images of another size.
            classes: c, at least two.
            pool: ``mean_patch``, or the ``class_token`` alone through the same norm and layer.
            generator: of the read-out's first weights; None is torch's own.

        Raises:
            UnsupportedModelError: a tower that shows no tokens, or, for ``class_token``, has none.
        """
        super().__init__()
        self.encoder: Clip | WrappedEncoder = encoder
        self.pool: Pool = pool
        self.read = PatchReadOut(tower_of(encoder).width, classes=classes, generator=generator)
        self.read.to(encoder.logit_scale.device)
        self._move()

    def tokens(self, image: Tensor) -> Float[Tensor, "b n w"]:
        """What the read-out is given of (b, 3, h, w) uint8 images or normalised floats."""
        return patch_tokens(self.encoder, image, pool=self.pool)

    def forward(self, image: Tensor) -> Float[Tensor, "b c"]:
        """Logits of (b, 3, h, w) uint8 images or normalised floats."""
        return self.read(self.tokens(image))

    def head(self, classes: Sequence[str]) -> LinearHead:
        """The read-out as a head on ``encoder``, the norm's gain and shift in its weights; ``save`` needs ``bind_``."""
        norm, linear = self.read.fc_norm, self.read.head
        weight = linear.weight.detach() * norm.weight.detach()
        bias = linear.bias.detach() + linear.weight.detach() @ norm.bias.detach()
        return LinearHead(weight, classes=classes, bias=bias, reads=self.pool)

    def freeze_patches_(self) -> None:
        """Let the layer that makes patches of pixels rest, as the release does for ViT-B/16 at 224 pixels."""
        for name, parameter in self.encoder.named_parameters():
            if _PATCHES.search(name):
                parameter.requires_grad_(False)

    @checked
    def groups(
        self, *, layer_decay: Part = 0.6, weight_decay: Rate = 0.05, below: PositiveRate = 1.0
    ) -> list[dict[str, Any]]:
        """The optimiser's groups, those near the pixels slower than the read-out; see ``optim.layer_decay_groups``.

        Args:
            layer_decay: factor from each layer to the one below.
            weight_decay: of matrices; vectors, positions and class tokens get none.
            below: a factor on all but the read-out.

        Raises:
            InputError: nothing of the tower can move.
        """
        moving = [name for name, one in self.encoder.named_parameters() if one.requires_grad]
        begins = [one.removesuffix(".") for one in self.encoder.image_weights]
        towers: Mapping[str, Any] = {
            f"encoder.{begin}": {"decay": layer_decay, "below": below}
            for begin in begins
            if any(name.startswith(f"{begin}.") for name in moving)
        }
        if not towers:
            raise InputError("the image tower has no trainable parameter")
        return layer_decay_groups(self, towers=towers, weight_decay=weight_decay)

    def _move(self) -> None:
        """Let move what a logit depends on, which one blank image tells, and nothing else of the encoder."""
        if isinstance(self.encoder, ComposedEncoder):
            self.encoder.parts.image.lock_("tuned")
        self.encoder.requires_grad_(True)
        named = [one for one in self.encoder.parameters() if one.requires_grad]
        size, device = self.encoder.image_spec.fixed().size, self.encoder.logit_scale.device
        blank = torch.zeros(1, 3, *size, dtype=torch.uint8, device=device)
        with eval_mode(self.encoder), torch.enable_grad():
            found = torch.autograd.grad(self(blank).sum(), named, allow_unused=True)
        for parameter, grad in zip(named, found, strict=True):
            parameter.requires_grad_(grad is not None)
