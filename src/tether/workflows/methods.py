"""Which method looks at images: the one that is named with its settings, or the one that suits the image tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jaxtyping import UInt8
from torch import Tensor

from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data.bad_rows import BadRows
from tether.data.opening import keywords
from tether.models.features.find import anatomy_of

Found = TypeVar("Found")


def named(using: str | Mapping[str, Any], *, where: str = "--with", after: str = ":") -> Mapping[str, Any]:
    """Name and settings of ``--with NAME:key=value``, or of a mapping as it is.

    Args:
        using: the text or the mapping.
        where: it stands, for errors.
        after: what stands between the name and its settings.

    Raises:
        InputError: settings that are no ``key=value``.
    """
    if not isinstance(using, str):
        return using
    name, _, rest = using.partition(after)
    return {**keywords(rest, where=where), "name": name.strip()}


def by_tower(model: DualEncoder, *, transformer: str, other: str) -> str:
    """One name for a vision transformer whose blocks can be looked into, another for all else."""
    try:
        anatomy_of(model)
    except UnsupportedModelError:
        return other
    return transformer


def looked_at(
    rows: Sequence[Row],
    images: Sequence[Tensor],
    *,
    there: Sequence[Found | None],
    look: Callable[[list[Tensor]], Sequence[Found]],
    bad: BadRows,
) -> Iterator[tuple[str, UInt8[Tensor, "3 h w"], Found, bool]]:
    """Key, pixels and what was found of each image, and whether it was there; what cannot be looked at is a bad row.

    Args:
        rows: of the images.
        images: their pixels.
        there: what an earlier run found of each, or None.
        look: gives something for each image; an ``InputError`` says that one of them cannot be looked at.
        bad: told of those.
    """
    new = [number for number, found in enumerate(there) if found is None]
    try:
        made = dict(zip(new, look([images[number] for number in new]), strict=True)) if new else {}
    except InputError:  # one of them is the reason
        made = {}
        for number in new:
            try:
                (made[number],) = look([images[number]])
            except InputError as error:
                bad.add(rows[number].key, str(error))
    for number, (row, image, old) in enumerate(zip(rows, images, there, strict=True)):
        if old is not None:
            yield row.key, image, old, True
        elif number in made:
            yield row.key, image, made[number], False
