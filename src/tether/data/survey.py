"""What a source of pairs holds, told before anything is learnt from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import pyarrow as pa

from tether.core.errors import InputError, MissingExtraError, installing
from tether.core.protocols import Source
from tether.core.types import ImageLike
from tether.data.shuffle import reason_against
from tether.data.sources.split import digest_of

_NAMED = 3
"""Rows that a remark names."""
_SAMPLE = 2000
"""Captions whose language is asked, and images whose size is, at most."""
_SAME = 0.5
"""Share of all pairs from which one caption is remarked on."""


@dataclass(slots=True)
class RowCount:
    """How many rows are of a kind, and some of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, key: str, reason: str) -> None:
        """Count a row."""
        self.count += 1
        if len(self.examples) < _NAMED:
            self.examples.append(f"{key}: {reason}")

    def __str__(self) -> str:
        """The number."""
        return f"{self.count:,}"

    def named(self) -> str:
        """Some rows, as the end of a sentence."""
        return f", such as {'; '.join(self.examples)}" if self.examples else ""


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
    no_caption: RowCount
    unusable: RowCount
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
        if self.no_caption.count:
            yield f"{self.no_caption} images without a caption are left out{self.no_caption.named()}"
        if self.unusable.count:
            yield f"{self.unusable} rows cannot be used{self.unusable.named()}"
        text, times = self.most_used
        if times > _SAME * self.pairs and self.pairs > 1:
            yield f"{times:,} of {self.pairs:,} captions are the same: {text[:60]!r}; nothing can be learnt from them"


def survey(source: Source) -> Survey:
    """Read a source once and say what it holds.

    Languages are asked of 2,000 captions, and sizes of as many images, at most.

    Args:
        source: any source.

    Raises:
        InputError: not one row with an image and a caption.
    """
    counts: list[int] = []
    texts: Counter[str] = Counter()
    seen: set[str] = set()
    sizes: list[tuple[int, int]] = []
    without, unusable = RowCount(), RowCount()
    copies = 0
    for block in source.blocks():
        for row in source.read(block):
            reason = reason_against(row, need_text=True)
            digest = "" if row.bad or row.image is None else digest_of(row.image)
            if reason is None and not digest:
                reason = "its image cannot be read"
            if reason is not None or row.image is None:
                silent = not row.bad and row.image is not None and not any(text.strip() for text in row.texts)
                (without if silent else unusable).add(row.key, reason or "no image")
                continue
            copies += digest in seen
            seen.add(digest)
            mine = [text.strip() for text in row.texts if text.strip()]
            counts.append(len(mine))
            texts.update(mine)
            if len(sizes) < _SAMPLE and (size := _size(row.image)):
                sizes.append(size)
    if not counts:
        from tether.data.sources.advice import caption_advice

        first = [*without.examples, *unusable.examples][:1]
        why = f"; the first: {first[0]}" if first else ""
        rows = without.count + unusable.count
        raise InputError(f"{source.name}: no image with a caption among {rows} rows{why}{caption_advice(source.name)}")
    sizes.sort(key=lambda size: size[0] * size[1])
    return Survey(
        name=source.name,
        images=len(counts),
        copies=copies,
        pairs=sum(counts),
        captions=len(texts),
        per_image=(min(counts), median(counts), max(counts)),
        most_used=texts.most_common(1)[0],
        no_caption=without,
        unusable=unusable,
        sizes=(sizes[0], sizes[len(sizes) // 2], sizes[-1]) if sizes else (),
        languages=_languages(list(texts)[:_SAMPLE]),
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
