"""Two learnt texts, of what is normal and what is damaged, and the features that they were learnt on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveSingle, Whole, checked
from tether.models.config_check import of_kind
from tether.models.features.value_attention import LAST, TEMPERATURE, ReadLayers, ValueRows


class DefectTexts:
    """What a detector needs of AnomalyCLIP (arXiv 2310.18961): the texts' embeddings, and how images are read.

    Attributes:
        rows: (2, d) normal and defective, of any length, float32 on the CPU.
        temperature: cosines are divided by it.
        blocks: see ``models.features.value_attention.ValueRows``, as the next three.
        layers: see there.
        post_norm: see there.
        image_size: see there.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.texts.defect_texts import DefectTexts
        >>> texts = DefectTexts(torch.randn(2, 64), layers=(0, 1))
        >>> texts.reader(create("tiny").eval()).dim
        2112
    """

    @checked
    def __init__(
        self,
        rows: Float[Tensor, "2 d"],
        *,
        temperature: PositiveSingle = TEMPERATURE,
        blocks: Whole | None = None,
        layers: ReadLayers = LAST,
        post_norm: bool = False,
        image_size: Count | None = None,
    ) -> None:
        """Take them.

        Raises:
            InputError: another number of rows, some that are not finite, or no layer.
        """
        if rows.ndim != 2 or len(rows) != 2 or not torch.isfinite(rows).all():
            raise InputError(f"rows: expected two finite ones, normal and defective, got {tuple(rows.shape)}")
        if not layers:
            raise InputError("layers: expected one block at least, after which patches are read")
        of_kind(post_norm, bool, where="post_norm")
        self.rows, self.temperature = rows.detach().float().cpu(), temperature
        self.blocks, self.layers, self.post_norm, self.image_size = blocks, tuple(layers), post_norm, image_size

    @property
    def plain_layers(self) -> tuple[int, ...]:
        """Blocks whose patches sentences are compared with, where the two are measured side by side."""
        return self.layers

    def reader(self, model: DualEncoder, *, images: bool = False) -> ValueRows:
        """The encoder whose rows are compared with them.

        Args:
            model: that they were learnt on.
            images: whether rows are of whole images alone.
        """
        layers = () if images else self.layers
        return ValueRows(model, blocks=self.blocks, layers=layers, post_norm=self.post_norm, image_size=self.image_size)
