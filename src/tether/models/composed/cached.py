"""An encoder whose rows are kept: what it was asked before is read from the feature cache and not computed again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tether.core.encoder_wrapper import EncoderAround
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Source
from tether.core.types import Block, Features, Row
from tether.data.bad_rows import BadRows
from tether.data.features.cache import FeatureCache, feature_key, image_key
from tether.data.in_order import ordered
from tether.models.composed.encoder import ComposedEncoder
from tether.models.composed.towers import TowerSide
from tether.models.embed_anything import Embeds
from tether.models.encoders.tower_parts import SIDES, Side, side_parts
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.tokenizer import lengths
from tether.models.towers.clip import Clip
from tether.models.train_mode import eval_mode

_DECODED = 64
"""Images decoded at a time, where that is all that is done."""


class CachedEncoder(EncoderAround, Embeds):
    """A ``core.protocols.DualEncoder`` that computes the row of an image or a text once, whoever asks.

    Rows lie in the user's cache directory by the digest of the tower that gives them and by the pixels or token ids
    that they are of, see ``data.features.cache``: any other object around the same weights finds them, in any process.
    They are computed in evaluation mode, in float32 outside of autocast, and have no gradient. Of a composed encoder
    the rows of its towers are kept, and its maps are applied each time, with gradient.

    The weights of what is kept must not change while this object is used, and hooks that change rows are not seen.

    Attributes:
        kept: the sides whose rows are kept; the others are computed each time, as by the model alone.
        computed: rows that had to be computed, by side.

    Example:
        >>> import tether
        >>> from tether.models.composed.cached import CachedEncoder
        >>> model = CachedEncoder(tether.load("tiny", random_weights=True))
        >>> rows = model.embed(["a cat", "a dog"])
        >>> before = dict(model.computed)
        >>> bool((model.embed(["a dog", "a cat"]) == rows.flip(0)).all()), model.computed == before
        (True, True)
    """

    def __init__(self, model: DualEncoder, *, sides: Collection[Side] = SIDES, maps: bool = True) -> None:
        """Look at a model; nothing is computed yet.

        Args:
            model: any that ``tether.load`` gives, or around one.
            sides: whose rows are kept.
            maps: apply the maps of a composed encoder; without, its towers' own rows are given.
        """
        super().__init__(model)
        self.kept, self.maps = frozenset(sides), maps
        self.same_rows = maps or not isinstance(model, ComposedEncoder)
        self.computed: dict[Side, int] = dict.fromkeys(SIDES, 0)
        self._caches: dict[Side, FeatureCache] = {}

    def cache(self, side: Side) -> FeatureCache:
        """Where the rows of a side are kept."""
        if side not in self._caches:
            tower = _tower(self.model, side)
            width = self.dim if tower is None else tower.width
            self._caches[side] = FeatureCache.of(side_digest(self.model, side), width=width)
        return self._caches[side]

    def encode_image(
        self, image: Tensor, *, mask: Tensor | None = None, keys: Sequence[bytes] | None = None
    ) -> Features:
        """(b, 3, h, w) images as the model takes them.

        Args:
            image: uint8 pixels or normalised floats.
            mask: with one nothing is kept.
            keys: what ``pixel_keys`` gave for the same images, so that their pixels are not looked at again.
        """
        if mask is not None or "image" not in self.kept:
            return self.inside.encode_image(image, mask=mask)
        known = pixel_keys(image) if keys is None else keys
        return self._features("image", image, lambda numbers: [known[number] for number in numbers])

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids as the tokenizer gives them; with a mask nothing is kept."""
        if mask is not None or "text" not in self.kept:
            return self.inside.encode_text(text, mask=mask)
        ids = text.cpu()
        words = [feature_key(row[:end].numpy().tobytes()) for row, end in zip(ids, lengths(ids).tolist(), strict=True)]
        return self._features("text", text, lambda numbers: [words[number] for number in numbers])

    def rows_of(
        self,
        source: Source,
        *,
        batch_size: int,
        workers: int = 0,
        strict: bool = False,
        on_bad: Path | BadRows | None = None,
        limit: int | None = None,
        on_progress: Callable[[int, int | None], None] | None = None,
    ) -> Iterator[tuple[list[Row], Float[Tensor, "b d"]]]:
        """Every good row of a source once, in order, with its image's embedding; images that are kept are not decoded.

        Arguments and errors are those of ``data.in_order.ordered``; ``on_progress`` is called with (images done, None).
        """
        named = _Named(source, self)
        done = 0
        for rows, pixels in ordered(
            named,
            image_spec=self.image_spec,
            batch_size=batch_size,
            workers=workers,
            strict=strict,
            on_bad=on_bad,
            limit=limit,
        ):
            names = [cast(bytes, row.meta[_NAME]) for row in rows]
            rows = [cast(Row, row.meta[_ROW]) for row in rows]
            pixels = pixels.to(self.logit_scale.device)
            with torch.no_grad():
                if "image" in self.kept:
                    found = self._features(
                        "image", pixels, lambda numbers, pixels=pixels: pixel_keys(pixels[list(numbers)]), names=names
                    ).pooled
                else:
                    found = self.encode_image(pixels).pooled
            done += len(rows)
            if on_progress is not None:
                on_progress(done, None)
            yield rows, found.float().cpu()

    def good_rows(self, source: Source, *, on_bad: BadRows, workers: int = 0) -> Iterator[Row]:
        """The rows of a source whose image can be decoded, in order; images that are kept are not decoded.

        Args:
            source: of images.
            on_bad: the account of the others; it may be one of several readings.
            workers: threads that decode.

        Raises:
            InputError: most rows are bad, or one under the account's ``strict``.
        """
        named, spec = _Named(source, self), self.image_spec
        for rows, _ in ordered(named, image_spec=spec, batch_size=_DECODED, workers=workers, on_bad=on_bad):
            yield from (cast(Row, row.meta[_ROW]) for row in rows)

    def _features(
        self,
        side: Side,
        rows: Tensor,
        keys: Callable[[Sequence[int]], list[bytes]],
        *,
        names: Sequence[bytes] | None = None,
    ) -> Features:
        """The rows that are kept, by name or else by what ``keys`` says of the rows with these numbers.

        Args:
            side: that they are of.
            rows: images or token ids.
            keys: gives the key of what is in the rows with some numbers.
            names: a further key for each row, by which it is found without asking for ``keys``.
        """
        cache = self.cache(side)
        found, there = cache.get(names) if names else (np.zeros((len(rows), cache.width), np.float32), None)
        missing = np.arange(len(rows)) if there is None else np.flatnonzero(~there)
        if len(missing):
            contents = keys(missing.tolist())
            found[missing], there = cache.get(contents)
            first: dict[bytes, int] = {}
            for key, number, known in zip(contents, missing.tolist(), there.tolist(), strict=True):
                if not known:
                    first.setdefault(key, number)
            new = self._compute(side, rows[list(first.values())]) if first else found[:0]
            made = dict(zip(first, new, strict=True))
            for key, number in zip(contents, missing.tolist(), strict=True):
                found[number] = made.get(key, found[number])
            sound = {key: row for key, row in made.items() if np.isfinite(row).all()}
            further = [
                (names[number], key)
                for key, number in zip(contents, missing.tolist(), strict=True)
                if names and (key in sound or key not in made)
            ]
            if sound or further:
                cache.put(
                    list(sound), np.array(list(sound.values()), np.float32).reshape(-1, cache.width), names=further
                )
        joint = torch.from_numpy(found).to(rows.device)
        if isinstance(self.model, ComposedEncoder) and self.maps:
            parts = self.model.parts
            joint = (parts.image_map if side == "image" else parts.text_map)(joint)
        return Features(joint)

    @torch.no_grad()
    def _compute(self, side: Side, rows: Tensor) -> Float[np.ndarray, "n w"]:
        self.computed[side] += len(rows)
        with eval_mode(self.model), torch.autocast(rows.device.type, enabled=False):
            model = self.model.before_maps() if isinstance(self.model, ComposedEncoder) else self.inside
            found = model.encode_image(rows) if side == "image" else model.encode_text(rows)
        return found.pooled.float().cpu().numpy()


def side_digest(model: nn.Module, side: Side) -> str:
    """32 hex digits for all that gives the rows of one side; of a composed encoder, the rows of its tower.

    An encoder around another, such as one with a layer that removes a bias, is taken as a whole.
    """
    tower = _tower(model, side)
    if tower is not None:
        return feature_key(side, str(tower), model_digest(tower)).hex()
    if not isinstance(model, (Clip, WrappedEncoder)):
        return feature_key(side, str(model), model_digest(model)).hex()
    prefix = "" if isinstance(model, Clip) else "model."
    parts = side_parts(model, side)
    weights = model_digest(model, parts=[prefix + name for name in parts])
    made = str([part for part in parts.values() if isinstance(part, nn.Module)])  # such as a layer that rounds
    return feature_key(side, type(model).__name__, repr(model.config), made, weights).hex()


def _tower(model: nn.Module, side: Side) -> TowerSide | None:
    """The tower of a composed encoder, without its map."""
    if not isinstance(model, ComposedEncoder):
        return None
    return model.parts.image if side == "image" else model.parts.text


_ROW, _NAME = "row", "name"


class _Named:
    """A source whose rows with features have a blank image of the model's size, so that nothing is decoded for them.

    In the meta data stand the row as it is and the further key of its image, taken before the image was opened.
    """

    def __init__(self, source: Source, encoder: CachedEncoder) -> None:
        self.name, self.version = source.name, source.version
        self._source, self._known = source, encoder.cache("image") if "image" in encoder.kept else None
        self._blank = np.zeros((*encoder.image_spec.size, 3), np.uint8)

    def blocks(self) -> Sequence[Block]:
        return self._source.blocks()

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for row in self._source.read(block, start=start):
            name = None if row.image is None or row.bad else image_key(row.image)
            known = self._known is not None and name is not None and name in self._known
            yield replace(row, image=self._blank if known else row.image, meta={_ROW: row, _NAME: name})


def pixel_keys(image: Tensor) -> list[bytes]:
    """The keys of (b, 3, h, w) images by all that a tower sees of them."""
    plain = image.detach().cpu().contiguous()
    about = f"{plain.dtype} {tuple(plain.shape[1:])}"
    return [feature_key(about, one.numpy().tobytes()) for one in plain.flatten(1).view(torch.uint8)]
