"""A text tower learns longer positions and keeps its first ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast, final

from torch import nn
from torch.nn.utils import parametrize

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.ranges import Count, checked
from tether.core.types import Batch
from tether.models.towers.frozen_rows import free_rows_, keep_rows_
from tether.models.towers.sizes import Resizes


@final
class KeptPositions:
    """The first positions of the text tower rest while the others are trained, as in Long-CLIP and FIX-CLIP.

    It goes with a model at a longer context (``resized: {context: 248, how: {name: stretch, keep: 20}}``): short texts
    use the first positions alone, so what the model knows of them stays in place. At the end they are one table again.

    Source: arXiv 2403.15378, section 3.1, and 2507.10095, section 3.2.

    Example:
        >>> import tether
        >>> from tether.adaptation.finetune import KeptPositions
        >>> model = tether.load("tiny", random_weights=True).resized(context=72, how={"name": "stretch", "keep": 8})
        >>> edit = KeptPositions(keep=8)
        >>> _ = edit.apply_(model)
        >>> model.text.parametrizations.position.original.shape[0]
        64
        >>> edit.merge_(model).text.position.shape[0]
        72
    """

    @checked
    def __init__(self, *, keep: Count) -> None:
        """Args: keep: positions that rest, 1 to n - 2 of n: the ``keep`` of the stretch."""
        self.keep = keep

    def apply_(self, model: nn.Module, calibration: Iterable[Batch] = ()) -> nn.Module:
        """Let them rest; outputs are unchanged.

        Raises:
            InputError: ``keep`` is above n - 2, or they rest already.
            UnsupportedModelError: the text tower has no table of positions.
        """
        del calibration
        module, name, unused = position_table(model)
        keep_rows_(module, name, count=unused + self.keep)
        return model

    def merge_(self, model: nn.Module) -> nn.Module:
        """Make the table whole; outputs are unchanged.

        Raises:
            InputError: none of the positions rest.
        """
        module, name, _ = position_table(model)
        if not parametrize.is_parametrized(module, name):
            raise InputError(f"{type(model).__name__}: none of its positions rest; apply_ comes first")
        free_rows_(module, name)
        return model


def position_table(model: nn.Module) -> tuple[nn.Module, str, int]:
    """The module of a text tower that has its learned positions, the parameter's name, and the unused rows before them.

    Of these only RoBERTa's towers have any.

    Raises:
        UnsupportedModelError: there is none, or more than one.
    """
    if not isinstance(model, Resizes):
        raise UnsupportedModelError(f"positions: {type(model).__name__} has no text tower of its own")
    images, found = model.image_weights, set[tuple[str, str]]()
    for name, value in cast(nn.Module, model).named_parameters():
        path, _, last = name.replace(".parametrizations.", ".").removesuffix(".original").rpartition(".")
        place = path.rpartition(".")[2] if last == "weight" else last
        if value.ndim == 2 and place.startswith("position") and not name.startswith(images):
            found.add((path, last))
    if len(found) != 1:
        raise UnsupportedModelError(f"positions: {type(model).__name__}'s text tower has {len(found)} tables of them")
    path, last = found.pop()
    module = cast(nn.Module, model).get_submodule(path)
    padding = module.padding_idx if isinstance(module, nn.Embedding) else None
    return module, last, 0 if padding is None else padding + 1
