"""Held-out pairs that several models are measured on; what locked towers make of them is computed once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.evaluate.embeddings import Embedded, embed_source
from tether.models.composed.encoder import ComposedEncoder

_ROWS = 4096
"""Rows that go through a map at once."""


class HeldOut:
    """A source of held-out pairs, embedded by any model; models of the same two towers differ by their maps alone.

    Attributes:
        source: of the pairs.
    """

    def __init__(self, source: Source, *, limit: int | None = None) -> None:
        """Args: source: of the pairs. limit: rows looked at, from the first."""
        self.source, self._limit = source, limit
        self._towers: tuple[str, Embedded] | None = None

    def embedded(self, model: DualEncoder, *, most: int | None = None) -> Embedded:
        """What a model makes of the pairs.

        Args:
            model: any model that ``tether.load`` gives.
            most: rows wanted, from the first; None for all.

        Raises:
            InputError: not one row with an image that can be read.
        """
        limit = min((each for each in (self._limit, most) if each is not None), default=None)
        if not isinstance(model, ComposedEncoder):
            return embed_source(model, self.source, limit=limit)
        towers = " ".join(model_digest(tower) for tower in (model.parts.image, model.parts.text))
        if self._towers is None or self._towers[0] != towers:
            self._towers = towers, embed_source(model.before_maps(), self.source, limit=self._limit)
        rows, parts = _first(self._towers[1], most), model.parts
        return replace(rows, image=_mapped(parts.image_map, rows.image), text=_mapped(parts.text_map, rows.text))


@torch.no_grad()
def _mapped(to_joint: nn.Module, rows: Tensor) -> Tensor:
    """Rows of a tower in the joint space, on the CPU."""
    device = next((one.device for one in to_joint.parameters()), rows.device)
    return torch.cat([to_joint(some.to(device)).float().cpu() for some in rows.split(_ROWS)])


def _first(seen: Embedded, most: int | None) -> Embedded:
    """The first rows with their texts."""
    if most is None or most >= len(seen.keys):
        return seen
    texts = int((seen.text_to_image < most).sum())
    return replace(
        seen,
        keys=seen.keys[:most],
        captions=seen.captions[:texts],
        labels=seen.labels[:most],
        image=seen.image[:most],
        text=seen.text[:texts],
        text_to_image=seen.text_to_image[:texts],
    )
