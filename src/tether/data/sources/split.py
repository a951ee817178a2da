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

Part = Literal["train", "held_out"]


class SplitSource:
    """The rows of one part of a source; all rows of one image are in the same part.

    Images are equal if their bytes are, whatever their names, so that no copy of a held-out image is learnt from. The
    held-out part holds the images whose digest, hashed with the seed, is smallest: adding images moves few others.
    Rows that are bad, or whose image cannot be read, belong to ``train``, where they are counted and named.

    Attributes:
        images: distinct images of this part.
        copies: rows of the whole source whose image another row has already.
    """

    @checked
    def __init__(
        self,
        *,
        source: str | dict[str, Any],
        part: Part,
        share: Annotated[float, Gt(0), Lt(1)] = 0.1,
        most: Count = 5000,
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

        self._begin(open_source(source, where="split: source"), part=part, share=share, most=most, seed=seed)

    @classmethod
    def of(cls, source: Source, *, part: Part, share: float = 0.1, most: int = 5000, seed: int = 0) -> SplitSource:
        """The same of a source that is open."""
        made = cls.__new__(cls)
        made._begin(source, part=part, share=share, most=most, seed=seed)
        return made

    def _begin(self, source: Source, *, part: Part, share: float, most: int, seed: int) -> None:
        known = images_of(source)
        distinct = {digest for digest in known.digests.values() if digest}
        if len(distinct) < 2:
            raise InputError(
                f"{source.name}: {len(distinct)} different images that can be read; at least 2 are needed to hold one "
                "out (split)"
            )
        count = min(max(1, round(share * len(distinct))), most, len(distinct) - 1)
        held = set(sorted(distinct, key=lambda digest: hash_int(digest, seed=seed, salt="held out"))[:count])
        self._source, self._known = source, known
        self._mine = held if part == "held_out" else distinct - held | {""}
        self.images, self.copies = len(self._mine - {""}), known.copies
        self.name = f"{source.name} ({'held-out' if part == 'held_out' else 'training'} part)"
        self.version = f"{hash_int(f'{source.version} {part} {share} {most}', seed=seed):016x}"

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


@dataclass(frozen=True, slots=True)
class Images:
    """Which rows of a source show the same image.

    Attributes:
        digests: (block, row) -> digest of the image's bytes, empty where there is none to read.
        copies: rows whose image another row has already.
    """

    digests: Mapping[tuple[str, int], str]
    copies: int

    def count(self, block: Block, wanted: set[str]) -> int:
        """How many rows of a block have one of these digests."""
        found, number = 0, 0
        while (digest := self.digests.get((block.id, number))) is not None:
            found += digest in wanted
            number += 1
        return found


def images_of(source: Source) -> Images:
    """The digests of all images of a source, which is read once."""
    digests: dict[tuple[str, int], str] = {}
    seen: set[str] = set()
    copies = 0
    for block in source.blocks():
        for number, row in enumerate(source.read(block)):
            digest = "" if row.bad or row.image is None else digest_of(row.image)
            copies += digest in seen and bool(digest)
            seen.add(digest)
            digests[block.id, number] = digest
    return Images(digests, copies)


def digest_of(image: ImageLike) -> str:
    """A digest of an image's bytes, or the empty string where the file cannot be read."""
    if isinstance(image, Path):
        try:
            image = image_bytes(image)
        except InputError:
            return ""
    return hashlib.blake2b(image if isinstance(image, bytes) else image.tobytes(), digest_size=16).hexdigest()
