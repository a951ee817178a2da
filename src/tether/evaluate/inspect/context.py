"""What every probe looks at: the model, the pairs as it sees them, and a sample of images that may be changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.finding import Figure
from tether.core.geometry import COSINE
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder, Source
from tether.data.features import parquet
from tether.evaluate.embeddings import Embedded
from tether.evaluate.inspect.above_chance import LEAST_PAIRS, Recall, recalls
from tether.evaluate.inspect.intervals import mean
from tether.evaluate.inspect.pairing import Pairing, pair_up
from tether.models.embed import encode_images, encode_texts


@dataclass(frozen=True, slots=True)
class SampledImages:
    """Images at the model's size.

    Attributes:
        rows: (s,) row of the pairs that each one is.
        pixels: (s, 3, h, w) uint8.
    """

    rows: Int[Tensor, " s"]
    pixels: UInt8[Tensor, "s 3 h w"]

    def __len__(self) -> int:
        """How many images."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Thumbnails:
    """Small images of all rows, read from disk as they are asked for; entry i says where row i lies."""

    places: tuple[tuple[Path, int], ...]

    def __call__(self, rows: Sequence[int]) -> UInt8[Tensor, "r 3 s s"]:
        """The small images of these rows."""
        if not rows:
            raise InputError("thumbnails: no row was asked for")
        found: dict[int, Tensor] = {}
        for path in dict.fromkeys(self.places[row][0] for row in rows):
            held = parquet.read(path, columns=["thumbnail"]).column("thumbnail")
            for row in rows:
                if self.places[row][0] == path:
                    found[row] = torch.frombuffer(bytearray(held[self.places[row][1]].as_py()), dtype=torch.uint8)
        small = torch.stack([found[row] for row in rows])
        side = math.isqrt(small.shape[1] // 3)
        return small.view(-1, 3, side, side)


@dataclass(frozen=True)
class Subject:
    """A model seen on its pairs.

    Attributes:
        model: the encoder.
        source: where the pairs came from.
        seen: every pair looked at, with its embeddings as the model gives them.
        columns: columns of short words that every row has.
        sample: some of the images at the model's size.
        thumbnails: small images by row.
        lost: embeddings left out because they were not finite.
        bad: rows that could not be read.
        content: a short name for the rows and embeddings of all parts.
        batch_size: rows in one forward.
        seed: of every draw a probe makes.
        model_name: what the report calls the model.
        source_name: what the report calls the pairs.
        digest: of the model's weights.
        eval_command: what is typed to evaluate the model on these pairs.
    """

    model: DualEncoder
    source: Source
    seen: Embedded
    columns: Mapping[str, tuple[str, ...]]
    sample: SampledImages
    thumbnails: Callable[[Sequence[int]], Tensor]
    lost: int
    bad: int
    content: str
    batch_size: int
    seed: int
    model_name: str
    source_name: str
    digest: str
    eval_command: str

    @cached_property
    def image(self) -> Float[Tensor, "n d"]:
        """Unit embeddings of the images."""
        return F.normalize(self.seen.image, dim=-1)

    @cached_property
    def text(self) -> Float[Tensor, "m d"]:
        """Unit embeddings of the captions."""
        return F.normalize(self.seen.text, dim=-1)

    @cached_property
    def points(self) -> Float[Tensor, "n d"]:
        """The images as the model's own geometry compares them: in CLIP their unit embeddings."""
        return self._placed(self.seen.image)

    @property
    def owner(self) -> Int[Tensor, " m"]:
        """Row of the image that each caption belongs to."""
        return self.seen.text_to_image

    @cached_property
    def pairing(self) -> Pairing:
        """Every pair against every other as the model compares them, equal captions counted as one."""
        return pair_up(
            self.points,
            self._placed(self.seen.text),
            owner=self.owner,
            captions=self.seen.captions,
            geometry=self.seen.geometry,
        )

    @cached_property
    def by_cosine(self) -> Pairing:
        """The same by cosine, whatever the model compares with."""
        if self.seen.geometry == COSINE:
            return self.pairing
        return pair_up(self.image, self.text, owner=self.owner, captions=self.seen.captions)

    def _placed(self, pooled: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
        """Points of the geometry; distances in double precision, which cancel where cosines do not."""
        points = self.seen.geometry.points(pooled)
        return points if self.seen.geometry.unit else points.double()

    @cached_property
    def first_caption(self) -> tuple[int, ...]:
        """For each row the place of its first caption, or -1."""
        return self.seen.first_captions

    def caption_of(self, row: int) -> str:
        """The first caption of a row, or nothing."""
        place = self.first_caption[row]
        return self.seen.captions[place] if place >= 0 else ""

    def encode_texts(self, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """Unit embeddings of other texts."""
        return F.normalize(encode_texts(self.model, texts, batch_size=self.batch_size), dim=-1)

    def encode_pixels(self, pixels: UInt8[Tensor, "p 3 h w"]) -> Float[Tensor, "p d"]:
        """Unit embeddings of images at the model's size."""
        return F.normalize(encode_images(self.model, pixels.split(self.batch_size)), dim=-1)

    def generator(self, name: str) -> torch.Generator:
        """A fresh generator drawn from the seed and a name."""
        return torch.Generator().manual_seed(hash_int(name, seed=self.seed, salt="inspect") >> 1)

    def name_of(self, row: int) -> str:
        """The first caption of a row, or its key."""
        return self.caption_of(row) or self.seen.keys[row]

    @cached_property
    def distinct(self) -> tuple[int, ...]:
        """The first position of every different caption, in order."""
        first = {caption: at for at, caption in reversed(list(enumerate(self.seen.captions)))}
        return tuple(sorted(first.values()))

    @cached_property
    def told_apart(self) -> Figure:
        """How well pairs are told from others, with its interval."""
        apart = self.pairing.told_apart
        return mean("share of wrong answers that a pair beats (chance 50 %)", apart, unit="share")

    @cached_property
    def recalls(self) -> list[Recall]:
        """Recall at 1, 5 and 10, both ways, beside chance."""
        return recalls(self.pairing, images=len(self.image), k=(1, 5, 10))

    @cached_property
    def doubt(self) -> str:
        """Why nothing can be told here that presupposes a working model, or nothing."""
        try:
            self.need_pairs(LEAST_PAIRS)
            unclear = next((one for one in self.recalls if not one.clear), None)
        except InputError as error:
            return f"here that cannot be known: {error}"
        return "" if unclear is None else f"this one is not clearly above chance: {unclear}"

    def need_sample(self, least: int) -> SampledImages:
        """The sample, or an InputError when it has fewer images."""
        if len(self.sample) < least:
            raise InputError(f"expected at least {least} images in the sample, got {len(self.sample)}")
        return self.sample

    def need_pairs(self, least: int) -> None:
        """An InputError when there are fewer images with captions."""
        asked = len(set(self.owner.tolist()))
        if asked < least:
            raise InputError(f"expected at least {least} images with captions, got {asked}")
