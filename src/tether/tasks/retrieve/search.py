"""Ask a store with words or with an image, using the model that made its vectors."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import nn

from tether.core.errors import InputError
from tether.core.geometry import geometry_of
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.types import ImageLike
from tether.data.images import load
from tether.data.paths import points_outside
from tether.models.embed import encode_images, encode_texts
from tether.models.encoders.truncated import NarrowEncoder
from tether.models.texts.long_texts import LongTexts, reading
from tether.tasks.retrieve.flat_index import How, Ranking
from tether.tasks.retrieve.store import Store


@dataclass(frozen=True, slots=True)
class Hit:
    """One found row, with what a person wants to see of it.

    Attributes:
        key: of the row.
        score: cosine similarity to the query, in [-1, 1].
        texts: its captions.
        image: its thumbnail or the path of its file, or None.
        meta: its other columns.
        right: whether it is what was looked for, where that is known.
    """

    key: str
    score: float
    texts: tuple[str, ...] = ()
    image: ImageLike | None = None
    meta: Mapping[str, object] = field(default_factory=dict)
    right: bool | None = None


class Searcher:
    """A store and the model that made its vectors.

    Attributes:
        store: that is looked in.
        model: that made its vectors.
        reader: what reads words: the model, or an encoder around it for long ones.
    """

    def __init__(self, store: Store, *, model: DualEncoder, long_text: LongTexts = "cut") -> None:
        """Pair them.

        Args:
            store: to look in.
            model: that made its vectors.
            long_text: what is done with words past the model's context, see ``models.texts.long_texts``.

        Raises:
            InputError: the vectors were made by another model, or lengths count in its geometry.
        """
        geometry = geometry_of(model)
        if not geometry.unit:
            raise InputError(
                f"{store.uri}: a store compares by cosine, this model by {geometry.name}; others would be near"
            )
        if store.digest and store.dim < model.dim:
            model = NarrowEncoder(model, dims=store.dim)  # whether it made them, its digest says
        if model.dim != store.dim:
            raise InputError(f"{store.uri}: holds vectors of {store.dim} numbers, the model makes {model.dim}")
        if store.digest:
            if not isinstance(model, nn.Module):
                raise InputError(f"model: expected an nn.Module, got {type(model).__name__}")
            mine = model_digest(model)
            if mine != store.digest:
                raise InputError(
                    f"{store.uri}: its vectors were made by model {store.model!r} (digest {store.digest}), "
                    f"this one has digest {mine}; scores between two models mean nothing"
                )
        self.store, self.model = store, model
        self.reader = reading(model, long_text)

    def text(
        self,
        query: str,
        *,
        top: int = 10,
        where: str | None = None,
        how: How | None = None,
        dims: int | None = None,
        shortlist: int | None = None,
    ) -> Ranking:
        """Rows nearest to words; arguments and errors as ``Store.search``."""
        if not query.strip():
            raise InputError("the query is empty")
        vector = encode_texts(self.reader, [query]).numpy()[0]
        return self.store.search(vector, top=top, where=where, how=how, dims=dims, shortlist=shortlist)

    def image(
        self,
        query: ImageLike,
        *,
        top: int = 10,
        where: str | None = None,
        how: How | None = None,
        dims: int | None = None,
        shortlist: int | None = None,
    ) -> Ranking:
        """Rows nearest to an image; arguments and errors as ``Store.search`` and ``data.images.decode``."""
        return self.store.search(self._vector(query), top=top, where=where, how=how, dims=dims, shortlist=shortlist)

    def ordered_by(self, hits: Sequence[Hit], text: str) -> list[Hit]:
        """Hits in the order of their similarity to another text, which each has as ``order_by`` among its columns.

        The score stays that of the query, so that what was found is one thing and its order another.

        Raises:
            InputError: an empty text.
        """
        if not text.strip():
            raise InputError("--order-by: the text is empty")
        if not hits:
            return []
        kept = self.store.records([hit.key for hit in hits], columns=["embedding"])["embedding"].to_pylist()
        rows = F.normalize(torch.tensor(kept, dtype=torch.float32), dim=1)
        similar = (rows @ F.normalize(encode_texts(self.reader, [text]), dim=1)[0]).tolist()
        found = [replace(hit, meta={**hit.meta, "order_by": one}) for hit, one in zip(hits, similar, strict=True)]
        return [found[place] for place in sorted(range(len(found)), key=lambda place: -similar[place])]

    def _vector(self, image: ImageLike) -> Float[np.ndarray, " d"]:
        pixels = load(image, self.model.image_spec, name=str(image) if isinstance(image, Path) else "query")
        return encode_images(self.model, [pixels[None]]).numpy()[0]

    def hits(self, found: Ranking, *, images: Path | None = None) -> list[Hit]:
        """The rows of a ranking with captions, image and metadata.

        Args:
            found: a ranking of this store.
            images: the folder that was embedded, to take the images from that have no thumbnail; a store cannot name
                files elsewhere.
        """
        names = [name for name in self.store.schema.names if name != "embedding"]
        return [
            _hit(row, score=float(score), images=images)
            for row, score in zip(self.store.records(found.keys, columns=names).to_pylist(), found.scores, strict=True)
        ]


def image_file(path: object, *, images: Path) -> Path | None:
    """The file that a row's path names in the folder that was embedded; None where there is none."""
    if isinstance(path, str) and not points_outside(path):
        with contextlib.suppress(OSError):  # a name that no file can have
            places = [images / path, *([images.parent / path] if path.split("/")[0] == images.name else [])]
            return next((place for place in places if place.is_file()), None)
    return None


def _hit(row: dict[str, object], *, score: float, images: Path | None) -> Hit:
    row = dict(row)
    key, texts = row.pop("key"), row.pop("texts", None)
    thumbnail, path = row.pop("thumbnail", None), row.get("path")
    image: ImageLike | None = None
    if isinstance(thumbnail, bytes):
        image = thumbnail
    elif images is not None:
        image = image_file(path, images=images)
    captions = tuple(str(text) for text in texts) if isinstance(texts, list) else ()
    return Hit(key=str(key), score=score, texts=captions, image=image, meta=row)
