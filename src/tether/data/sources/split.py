"""A part of a source: what is learnt from, or what is held out to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Gt, Lt

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import Source
from tether.core.ranges import Count, checked
from tether.core.types import Block, ImageLike, Row
from tether.data.image_file import image_bytes

SplitPart = Literal["train", "held_out"]
SHARE, MOST = 0.1, 5000


class SplitSource:
    """The rows of one part of a source; all rows of one image are in the same part.

    Images are equal if their bytes are, whatever their names, so that no copy of a held-out image is learnt from. The
    held-out part holds the images whose digest, hashed with the seed, is smallest: adding images moves few others.
    Rows that are bad, or whose image cannot be read, belong to ``train``, where they are counted and named.

    Attributes:
        images: distinct images of this part.
    """

    @checked
    def __init__(
        self,
        *,
        source: str | dict[str, Any],
        part: SplitPart,
        share: Annotated[float, Gt(0), Lt(1)] = SHARE,
        most: Count = MOST,
        seed: int = 0,
    ) -> None:
        """Open the source and read its rows once to tell the images apart.

        Args:
            source: what ``open_source`` takes.
            part: ``train`` or ``held_out``.
            share: of the images that is held out; at least one image.
            most: images held out at most.
            seed: of the choice.

        Raises:
            InputError: fewer than two different images.
        """
        from tether.data.opening import open_source

        inner = open_source(source, where="split: source")
        known = images_of(inner)
        distinct = {digest for digest in known.digests.values() if digest}
        if len(distinct) < 2:
            raise InputError(
                f"{inner.name}: {len(distinct)} different images that can be read; at least 2 are needed to hold one "
                "out (split)"
            )
        count = held_out_of(len(distinct), share=share, most=most)
        held = set(sorted(distinct, key=lambda digest: hash_int(digest, seed=seed, salt="held out"))[:count])
        self._source, self._known = inner, known
        self._mine = held if part == "held_out" else distinct - held | {""}
        self.images = len(self._mine - {""})
        word = f"{'held-out' if part == 'held_out' else 'training'} part)"
        self.name = f"{inner.name[:-1]}, its {word}" if isinstance(inner, SplitSource) else f"{inner.name} ({word}"
        self.version = f"{hash_int(f'{inner.version} {part} {share} {most}', seed=seed):016x}"

    def blocks(self) -> Sequence[Block]:
        """The source's own, with the rows of this part."""
        return [Block(block.id, self._known.count(block, self._mine)) for block in self._source.blocks()]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        """The rows of one stretch that belong to this part, from its row ``start`` on."""
        for number, row in enumerate(self._source.read(Block(block.id))):
            if self._known.digests[block.id, number] in self._mine:
                if start == 0:
                    yield row
                else:
                    start -= 1


def held_out_of(images: int, *, share: float = SHARE, most: int = MOST) -> int:
    """How many of so many different images are held out."""
    return min(max(1, round(share * images)), most, images - 1)


def held_out_word(source: str, split: Mapping[str, Any]) -> str:
    """The held-out part of a split of a source as one word of the command line.

    Args:
        source: a path or a name.
        split: the settings of the training part.
    """
    known = {key: split[key] for key in ("share", "most", "seed") if isinstance(split.get(key), (int, float))}
    return f"split:source={source},part=held_out" + "".join(f",{key}={value}" for key, value in known.items())


@dataclass(frozen=True, slots=True)
class ImageDigests:
    """Which rows of a source show the same image.

    Attributes:
        digests: (block, row) -> digest of the image's bytes, empty where there is none to read.
    """

    digests: Mapping[tuple[str, int], str]

    def count(self, block: Block, wanted: set[str]) -> int:
        """How many rows of a block have one of these digests."""
        found, number = 0, 0
        while (digest := self.digests.get((block.id, number))) is not None:
            found += digest in wanted
            number += 1
        return found


_REMEMBERED: dict[tuple[str, str, tuple[Block, ...]], ImageDigests] = {}
"""The last source's, for a run opens both of its parts."""


def images_of(source: Source) -> ImageDigests:
    """The digests of all images of a source, which is read once."""
    key = source.name, source.version, tuple(source.blocks())
    known = _REMEMBERED.get(key)
    if known is None:
        digests: dict[tuple[str, int], str] = {}
        for block in source.blocks():
            for number, row in enumerate(source.read(block)):
                digests[block.id, number] = "" if row.bad or row.image is None else digest_of(row.image)
        known = ImageDigests(digests)
        _REMEMBERED.clear()
        _REMEMBERED[key] = known
    return known


def digest_of(image: ImageLike) -> str:
    """A digest of an image's bytes, or the empty string where the file cannot be read."""
    if isinstance(image, Path):
        try:
            image = image_bytes(image)
        except InputError:
            return ""
    return hashlib.blake2b(image if isinstance(image, bytes) else image.tobytes(), digest_size=16).hexdigest()
