"""What a source of pairs holds, told before anything is learnt from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

import numpy as np
import pyarrow as pa
from annotated_types import Ge

from tether.core.errors import InputError, MissingExtraError, installing
from tether.core.protocols import Source
from tether.core.ranges import checked
from tether.core.types import ImageLike
from tether.data.shuffle import reason_against
from tether.data.sources.split import digest_of

_NAMED = 3
"""Rows that a remark names."""
_SAMPLE = 2000
"""Captions whose language is asked, and images whose size is, at most."""
_SAME = 0.5
"""Share of all pairs from which one caption is remarked on."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a source holds.

    Attributes:
        name: of the source.
        images: rows with an image and a caption.
        copies: of these, rows whose image another row has already, byte for byte.
        pairs: captions of these rows, empty ones left out.
        captions: different captions.
        per_image: fewest, middle and most captions of an image.
        most_used: the caption of most pairs, and of how many.
        no_caption: rows with an image and no caption.
        unusable: other rows that cannot be used.
        examples: key and reason of some rows of the two kinds above.
        sizes: width and height of the smallest, the middle and the largest image, by pixels; empty if unknown.
        languages: share of the captions by language, most frequent first; None where the detector is not installed.
    """

    name: str
    images: int
    copies: int
    pairs: int
    captions: int
    per_image: tuple[int, float, int]
    most_used: tuple[str, int]
    no_caption: int
    unusable: int
    examples: tuple[tuple[str, str], ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    languages: dict[str, float] | None = field(default=None)

    @property
    def distinct(self) -> int:
        """Different images."""
        return self.images - self.copies

    def lines(self) -> Iterator[str]:
        """The survey in sentences, one a line."""
        fewest, middle, most = self.per_image
        each = f"{fewest}" if fewest == most else f"{fewest} to {most}, mostly {middle:g}"
        yield f"{self.distinct:,} different images, {self.pairs:,} captions ({each} an image)"
        if self.sizes:
            small, usual, large = (f"{width} x {height}" for width, height in self.sizes)
            yield f"sizes: {usual} in the middle, {small} to {large}"
        if self.languages:
            shown = [f"{code} {share:.0%}" for code, share in list(self.languages.items())[:4] if share >= 0.01]
            yield f"languages of the captions: {', '.join(shown)}"
        elif self.languages is None:
            yield f"languages of the captions: not looked at; it takes {installing('curate')}"
        if self.copies:
            yield f"{self.copies:,} rows show an image that another row has already, byte for byte"
        if self.no_caption:
            yield f"{self.no_caption:,} images without a caption are left out{self._named('caption')}"
        if self.unusable:
            yield f"{self.unusable:,} rows cannot be used{self._named('')}"
        text, times = self.most_used
        if times > _SAME * self.pairs and self.pairs > 1:
            yield f"{times:,} of {self.pairs:,} captions are the same: {text[:60]!r}; nothing can be learnt from them"

    def _named(self, word: str) -> str:
        """Some of the rows that are meant, and why."""
        found = [f"{key} ({why})" for key, why in self.examples if bool(word) == (word in why)]
        return f", such as {'; '.join(found[:_NAMED])}" if found else ""


@checked
def survey(source: Source, *, sample: Annotated[int, Ge(1)] = _SAMPLE) -> Survey:
    """Read a source once and say what it holds.

    Args:
        source: any source.
        sample: captions whose language is asked, and images whose size is read, at most; taken from the first.

    Raises:
        InputError: not one row with an image and a caption.
    """
    counts: list[int] = []
    texts: Counter[str] = Counter()
    seen: set[str] = set()
    sizes: list[tuple[int, int]] = []
    bad: Counter[bool] = Counter()
    examples: list[tuple[str, str]] = []
    copies = 0
    for block in source.blocks():
        for row in source.read(block):
            reason = reason_against(row, need_text=True)
            digest = "" if row.bad or row.image is None else digest_of(row.image)
            if reason is None and not digest:
                reason = "its image cannot be read"
            if reason is not None or row.image is None:
                bad["caption" in (reason or "")] += 1
                examples.append((row.key, reason or ""))
                continue
            copies += digest in seen
            seen.add(digest)
            mine = [text.strip() for text in row.texts if text.strip()]
            counts.append(len(mine))
            texts.update(mine)
            if len(sizes) < sample and (size := _size(row.image)):
                sizes.append(size)
    if not counts:
        why = f"; the first: {examples[0][0]}: {examples[0][1]}" if examples else ""
        raise InputError(f"{source.name}: no image with a caption among {bad.total()} rows{why}")
    sizes.sort(key=lambda size: size[0] * size[1])
    return Survey(
        name=source.name,
        images=len(counts),
        copies=copies,
        pairs=sum(counts),
        captions=len(texts),
        per_image=(min(counts), median(counts), max(counts)),
        most_used=texts.most_common(1)[0],
        no_caption=bad[True],
        unusable=bad[False],
        examples=tuple(examples[:100]),
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (),
        languages=_languages(list(texts)[:sample]),
    )


def _size(image: ImageLike) -> tuple[int, int] | None:
    """Width and height by the file's header, or None where it is no image."""
    from tether.data.image_file import image_bytes, open_image

    if isinstance(image, np.ndarray):
        return image.shape[1], image.shape[0]
    try:
        data = image if isinstance(image, bytes) else image_bytes(image)
        with open_image(data, name="", max_pixels=None) as opened:
            return opened.size
    except InputError:
        return None


def _languages(texts: list[str]) -> dict[str, float] | None:
    from tether.data.curate.steps.language import LanguageDetector

    try:
        codes = LanguageDetector().detect_many(pa.array(texts, pa.string())).codes.to_pylist()
    except MissingExtraError:
        return None
    return {code: count / len(codes) for code, count in Counter(codes).most_common()}
