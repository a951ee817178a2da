"""What a batch holds besides plain pairs: views of images, further captions, regions, latents, pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tether.core.component import build, closest
from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.types import ImageLike, ImageSpec, Row
from tether.data.augment import Augment
from tether.data.captions import CAPTION_PICKS, CaptionPick
from tether.data.collate import REGION_TEXT, RowContents
from tether.data.crops import Crop
from tether.data.dense_labels import DenseLabels
from tether.data.images import decode
from tether.data.latents import TensorColumn
from tether.data.placement import Placement
from tether.data.regions import RegionColumns
from tether.data.text_pairs import POSITIVE_TEXT, TextPairs

IMAGE, TEXT = "image", "text"
_TAKEN = ("image", "text", "negative_image", "negative_text", REGION_TEXT, POSITIVE_TEXT)
_WHOLE = Crop()


class BatchContents:
    """What the batches of a loader hold besides plain pairs, read off the same rows.

    Under ``Batch.extra`` there are then, b rows each:

    - ``NAME`` (b, 3, h, w) uint8 for each of ``crops``; ``image`` among them takes the place of the plain image;
    - ``NAME_box`` (b, 4) float32 and ``NAME_flipped`` (b,) bool for these and for ``image``: which part of the original
      image is seen, in shares of its width and height (beyond 0 and 1 in margins), and whether it is mirrored;
    - ``NAME`` (b, l) token ids for each of ``captions``;
    - ``regions`` (those of ``image``) and ``NAME_regions``, a ``core.types.Regions`` with ``most`` places a row;
      ``region_text`` (b * most, l) the tokens of their phrases, row after row;
    - with ``pairs``, ``positive_text`` (b, l), another text that means what ``text`` does, and ``negative_text``
      (b * K, l), row after row the K hard negatives of each;
    - ``NAME`` (b, ...) float32 for each of ``latents``;
    - with ``labels``, what is known of each pixel of ``image`` and of each crop, see ``data.dense_labels.DenseLabels``.

    Names of crops and latents end in ``image`` and those of captions in ``text``, so that a step can name them as the
    source of a view.

    Example:
        >>> from tether.core.types import ImageSpec
        >>> from tether.data.contents import BatchContents
        >>> from tether.data.loader import Loader
        >>> from tether.data.sets.scenes import ScenesSet
        >>> from tether.models.tokenizer import ClipTokenizer
        >>> contents = BatchContents(
        ...     crops={"image": {"scale": (0.4, 1.0), "flip": 0.5}, "local_image": {"size": 32, "scale": (0.05, 0.4)}},
        ...     captions={"short_text": "first"},
        ...     regions={"most": 4, "phrases": "phrases", "masks": "labels", "unit": "pixel"},
        ... )
        >>> settings = {"image_spec": ImageSpec((64, 64)), "tokenizer": ClipTokenizer(), "batch_size": 8, "seed": 0}
        >>> batch = next(Loader(ScenesSet(rows=16), contents=contents, **settings))
        >>> batch.image.shape, batch.extra["local_image"].shape, batch.extra["local_image_box"].shape
        (torch.Size([8, 3, 64, 64]), torch.Size([8, 3, 32, 32]), torch.Size([8, 4]))
        >>> batch.extra["regions"].masks.shape, batch.extra["local_image_regions"].boxes.shape
        (torch.Size([8, 4, 64, 64]), torch.Size([8, 4, 4]))
    """

    def __init__(
        self,
        *,
        crops: dict[str, dict[str, Any]] | None = None,
        captions: dict[str, str | dict[str, Any]] | None = None,
        regions: dict[str, Any] | None = None,
        latents: dict[str, dict[str, Any]] | None = None,
        pairs: dict[str, Any] | None = None,
        labels: dict[str, Any] | None = None,
        images: bool = True,
    ) -> None:
        """Take the settings.

        Args:
            crops: settings of ``Crop`` by name, such as ``second_image``.
            captions: how a further caption of each row is chosen, one of ``CAPTION_PICKS``, by name, such as
                ``short_text``. Its draw is independent of that of ``text``.
            regions: settings of ``RegionColumns``.
            latents: settings of ``TensorColumn`` by name, such as ``latent_image``.
            pairs: settings of ``TextPairs``, such as ``{negatives: 7}``; ``{}`` has pairs without hard negatives.
            labels: settings of ``DenseLabels``, such as ``{store: labels/}``.
            images: whether rows have images, and one without is bad. Else none is opened, rows of text alone are as
                good as others, and ``Batch.image`` has (b, 3, 0, 0) pixels.

        Raises:
            InputError: a name that a batch has already or that does not end as it must, a view around one that is not
                named before, or crops and regions without images.
        """
        self.images = images
        self.crops: dict[str, Crop] = {}
        for name, settings in (crops or {}).items():
            where = _named(name, IMAGE, where="crops", free=(IMAGE,))
            crop = build({**settings, "name": "crop"}, {"crop": Crop}, where=where)
            for other in crop.around:
                if other not in self.crops:
                    raise InputError(f"{where}: around: expected views named before; {closest(other, self.crops)}")
            self.crops[name] = crop
        if IMAGE in self.crops and self.crops[IMAGE].augment is not None:
            raise InputError("crops: image: augment: the run's own `augment` changes this view; expected none here")
        self.captions: dict[str, CaptionPick] = {}
        for name, spec in (captions or {}).items():
            where = _named(name, TEXT, where="captions")
            self.captions[name] = build(spec, CAPTION_PICKS, where=where)
        self.latents: dict[str, TensorColumn] = {}
        for name, settings in (latents or {}).items():
            where = _named(name, IMAGE, where="latents")
            if name in self.crops:
                raise InputError(f"{where}: a view has this name already")
            self.latents[name] = build({**settings, "name": "column"}, {"column": TensorColumn}, where=where)
        self.regions: RegionColumns | None = None
        if regions is not None:
            self.regions = build({**regions, "name": "columns"}, {"columns": RegionColumns}, where="regions")
        self.pairs: TextPairs | None = None
        if pairs is not None:
            self.pairs = build({**pairs, "name": "pairs"}, {"pairs": TextPairs}, where="pairs")
        self.labels: DenseLabels | None = None
        if labels is not None:
            self.labels = build({**labels, "name": "labels"}, {"labels": DenseLabels}, where="labels")
        if not images and (self.crops or self.regions or self.labels):
            raise InputError("images: without them there is nothing to cut crops or regions from; expected true")

    @property
    def plain_images(self) -> bool:
        """Whether the images are those of plain pairs, so that one table can keep them."""
        return self.images and not self.crops and self.regions is None and self.labels is None

    def read(
        self,
        row: Row,
        *,
        negative: ImageLike | None,
        draw: int,
        spec: ImageSpec,
        augment: Augment | None,
    ) -> RowContents:
        """What the row gives to its batch, before ``augment``.

        Args:
            row: to read.
            negative: image that is treated as the row's own is; or None.
            draw: 64 random bits of this seed, epoch and row.
            spec: how the model wants its images.
            augment: what the loader does to ``image``.

        Raises:
            InputError: something that cannot be read; the row is bad.
        """
        tensors = {name: column.read(row) for name, column in self.latents.items()}
        if self.pairs is not None:
            self.pairs.check(row)
        if self.plain_images or not self.images:
            return RowContents(tensors=tensors)
        crops = self.crops if IMAGE in self.crops else {IMAGE: _WHOLE, **self.crops}
        specs = {name: crop.spec(spec) for name, crop in crops.items()}
        assert row.image is not None  # the loader refuses such rows
        pixels = decode(row.image, name=row.key)
        size = height, width = int(pixels.shape[1]), int(pixels.shape[2])
        cuts: dict[str, Placement] = {}
        for name, crop in crops.items():
            cuts[name] = crop.draw(name, draw=draw, height=height, width=width, spec=specs[name], others=cuts)
        views = {name: crop.cut(pixels, cuts[name], specs[name]) for name, crop in crops.items()}
        if negative is not None:
            other = decode(negative, name=row.key)
            height, width = int(other.shape[1]), int(other.shape[2])
            place = crops[IMAGE].draw(IMAGE, draw=draw, height=height, width=width, spec=specs[IMAGE], others=cuts)
            views["negative_image"] = crops[IMAGE].cut(other, place, specs[IMAGE])
        placements = {name: crops[name].moved(name, cut, draw=draw, spec=specs[name]) for name, cut in cuts.items()}
        if augment is not None:
            moved = augment.placements(np.array([draw], np.uint64), size=specs[IMAGE].size)[0]
            placements[IMAGE] = placements[IMAGE].then(moved)
        shown = {name: (placements[name], specs[name].size) for name in crops}
        labels = {} if self.labels is None else self.labels.read(row.key, shown, size=size)
        if self.regions is None:
            return RowContents(views, placements, tensors=tensors, labels=labels)
        found = self.regions.read(row, size=size)
        chosen = self.regions.chosen(found, placements[IMAGE], draw=draw)
        seen = self.regions.seen(found, chosen, shown, size=size, where=row.key)
        return RowContents(views, placements, seen, [found.phrases[number] for number in chosen], tensors, labels)

    def extra(self, rows: Sequence[RowContents], *, draws: np.ndarray, spec: ImageSpec) -> dict[str, object]:
        """What the rows of a batch add to its ``extra``, but for what must be tokenised.

        Args:
            rows: as ``read`` gave them.
            draws: (b,) uint64 bits of each row.
            spec: how the model wants its images.
        """
        found: dict[str, object] = {}
        for name in self.latents:
            found[name] = torch.from_numpy(np.stack([row.tensors[name] for row in rows]))
        for name in rows[0].placements:
            crop = self.crops.get(name, _WHOLE)
            if name != IMAGE:
                found[name] = crop.changed(name, [row.views[name] for row in rows], draws=draws)
            placed = [row.placements[name] for row in rows]
            found[f"{name}_box"] = torch.tensor([one.box for one in placed], dtype=torch.float32)
            found[f"{name}_flipped"] = torch.tensor([one.flipped for one in placed])
            if self.regions is not None:
                seen, said = [row.regions[name] for row in rows], [row.phrases for row in rows]
                where = "regions" if name == IMAGE else f"{name}_regions"
                found[where] = self.regions.batched(seen, said, size=crop.spec(spec).size)
        return found if self.labels is None else found | self.labels.batched([row.labels for row in rows])

    def texts(self, rows: Sequence[Row], *, said: Sequence[str], draws: Sequence[int]) -> dict[str, list[str]]:
        """The further captions of a batch by name, and what belongs to those that are ``said`` in it."""
        found = {
            name: [pick(row, draw=hash_int(str(draw), salt=name)) for row, draw in zip(rows, draws, strict=True)]
            for name, pick in self.captions.items()
        }
        return found if self.pairs is None else found | self.pairs.texts(rows, said=said, draws=draws)


def _named(name: str, ending: str, *, where: str, free: Sequence[str] = ()) -> str:
    where = f"{where}: {name}"
    if not name.isidentifier() or not name.endswith(ending) or (name in _TAKEN and name not in free):
        raise InputError(f"{where}: expected a name of its own that ends in {ending!r}, such as 'second_{ending}'")
    return where
