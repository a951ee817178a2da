"""A model that reads images of another size with the weights of one that changes all the time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.dual import Clip
from tether.models.positions import Bicubic
from tether.models.sizes import Sizes


class ResizedReader:
    """A model whose images have another size and whose weights are those of another model, whatever they come to be.

    Only the table of positions is its own, resized anew after each change.

    Attributes:
        model: for reading only.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.train.resized_reader import ResizedReader
        >>> reader = ResizedReader(create("tiny").eval(), image_size=16)
        >>> reader.model.encode_image(torch.rand(2, 3, 16, 16)).pooled.shape
        torch.Size([2, 64])
    """

    @checked
    def __init__(self, model: nn.Module, *, image_size: Count) -> None:
        """Share the weights.

        Args:
            model: one of Tether's own.
            image_size: pixels of a side.

        Raises:
            InputError: another library's model, or a size that is no multiple of the patch.
        """
        if not isinstance(model, Clip):
            raise InputError(f"image_size: expected a model of Tether's own, got {type(model).__name__}")
        if image_size % model.patch_side:
            raise InputError(f"image_size: expected a multiple of {model.patch_side} (the patch), got {image_size}")
        spec = replace(model.image_spec, size=(image_size, image_size), resized=None)
        context = model.tokenizer.context_length
        self._source = model
        self.model = model.at_sizes(Sizes(image=spec, patch=None, context=context, grid=None, line=None))
        self.model.text, self.model.tokenizer = model.text, model.tokenizer
        self.model.eval().requires_grad_(False)
        self.follow_()

    @torch.no_grad()
    def follow_(self) -> None:
        """Take over what the weights are now, and where they are."""
        old, new = (one.config.vision.grid for one in (self._source, self.model))
        theirs = _tensors(self._source)
        for name, mine in _tensors(self.model).items():
            found = theirs[name]
            mine.data = found.data if found.shape == mine.shape else Bicubic().table(found, old=old, new=new)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
