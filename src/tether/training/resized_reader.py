"""A model that reads images of another size with the weights of one that changes all the time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.towers.clip import Clip
from tether.models.towers.positions import Bicubic, Pair


class ResizedReader:
    """A model whose images have another size and whose weights are those of another model, whatever they come to be.

    Only the table of positions is its own, resized anew after each change.

    Attributes:
        model: for reading only.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.training.resized_reader import ResizedReader
        >>> reader = ResizedReader(create("tiny").eval(), image_size=16)
        >>> reader.model.encode_image(torch.rand(2, 3, 16, 16)).pooled.shape
        torch.Size([2, 64])
    """

    @checked
    def __init__(self, model: nn.Module, *, image_size: Count) -> None:
        """Share the weights.

        Args:
            model: any model of ``tether.load``.
            image_size: pixels of a side.

        Raises:
            InputError: another module, or a size that is no multiple of the patch.
            UnsupportedModelError: a model that has no copy at this size, see ``models.towers.sizes.REASONS``.
        """
        if not isinstance(model, (Clip, WrappedEncoder)):
            raise InputError(f"image_size: expected a model of tether.load, got {type(model).__name__}")
        self._source = model
        self.model = model.resized(image_size=image_size)
        old, new = (one if isinstance(one, Clip) else one.model for one in (model, self.model))
        for name, part in old.named_children():
            if name in model.sides["text"]:
                setattr(new, name, part)
        self.model.eval().requires_grad_(False)
        self.follow_()

    @torch.no_grad()
    def follow_(self) -> None:
        """Take over what the weights are now, and where they are."""
        old, new = (table_grid(model) for model in (self._source, self.model))
        theirs = _tensors(self._source)
        for name, mine in _tensors(self.model).items():
            found = theirs[name]
            if found.shape == mine.shape:
                mine.data = found.data
            elif isinstance(mine, nn.Parameter):  # other buffers, such as numbers of places, go with the size
                mine.data = Bicubic().table(found, old=old, new=new)


def table_grid(model: Clip | WrappedEncoder) -> Pair:
    """Rows and columns of the patches that the image tower has positions for; of a network without patches, pixels."""
    (height, width), step = model.table_size, model.stride or 1
    return height // step, width // step


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
