"""What a recipe is given to learn from, by the kind of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.protocols import DualEncoder, Source
from tether.core.types import ImageSpec, Row
from tether.data.contents import BatchContents
from tether.data.crops import Crop
from tether.data.images import decode
from tether.data.loader import Loader
from tether.models.composed.cached import CachedEncoder
from tether.models.embed import encode_texts

if TYPE_CHECKING:
    from tether.data.augment import Augment

Kind = Literal["labels", "pairs", "texts", "images"]
Progress = Callable[[int, int | None], None]
ROWS = 64
"""Images in one forward, where rows are embedded."""


@dataclass(frozen=True, slots=True)
class EmbeddedRows:
    """Rows as embeddings, as the model gives them (not normalised), float32 on the CPU.

    Attributes:
        image: (n, d) of the images.
        labels: (n,) numbers of their classes; empty where they have none.
        text: (m, d) of all their captions; empty where there are none.
        owner: (m,) row of the image that each caption belongs to.
        rows: what stands beside each image: its key, texts and columns, without the image; empty for views.
    """

    image: Float[Tensor, "n d"]
    labels: Int[Tensor, " labelled"]
    text: Float[Tensor, "m d"]
    owner: Int[Tensor, " m"]
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """Data of one kind, the part to learn from and, where a recipe asked for it, one to choose settings on.

    Attributes:
        kind: ``labels``: images with a class; ``pairs``: images with captions; ``texts``: captions alone;
            ``images``: images, whatever stands beside them; one without a caption has ``an image`` for one.
        source: the part to learn from. Of labelled images each row has the prompts of its class as texts and the number
            of its class as ``meta["label"]``, so that a batch of ``loader`` has ``extra["label"]``.
        rows: how many there are.
        validation: the part to choose settings on, or None.
        classes: names of the classes.
        prompts: sentences of each class, those that zero-shot classification uses.
        class_text: (c, d) row of each class as zero-shot classification has it, on the CPU.
        seed: of every draw.
        workers: threads that decode.
        on_progress: told (images embedded, how many there are or None).
    """

    kind: Kind
    source: Source
    rows: int
    validation: Source | None = None
    classes: tuple[str, ...] = ()
    prompts: tuple[tuple[str, ...], ...] = ()
    class_text: Float[Tensor, "c d"] = field(default_factory=lambda: torch.empty(0, 0))
    seed: int = 0
    workers: int = 0
    on_progress: Progress | None = None

    def embed(
        self,
        model: DualEncoder,
        *,
        part: Literal["train", "validation"] = "train",
        texts: bool = False,
        views: int = 0,
        crop: Crop | None = None,
    ) -> EmbeddedRows:
        """Embed a part once; rows lie in the feature cache, so a run that was interrupted computes none twice.

        Args:
            model: any; with weights that do not change, or the rows of all changes are kept.
            part: which.
            texts: embed the captions as well.
            views: if above 0, each image is embedded so often, from random crops, in place of once as it is: first all
                rows in one crop each, then all in another.
            crop: how the views are cut; half to all of the area, and a flip in half of them, if None.

        Raises:
            InputError: no validation part where it is asked for.
        """
        source = self.source if part == "train" else self.validation
        if source is None:
            raise InputError("validation: the recipe chooses settings on a part of its own, and there is none")
        reader = model if isinstance(model, CachedEncoder) else CachedEncoder(model)
        told = self._told(total=self.rows if part == "train" else None)
        if views:
            image, labels = self._views(reader, source, views=views, crop=crop, told=told)
            return EmbeddedRows(image, labels, torch.empty(0, model.dim), torch.empty(0, dtype=torch.int64))
        found: list[Tensor] = []
        rows: list[Row] = []
        for some, image in reader.rows_of(source, batch_size=ROWS, workers=self.workers, on_progress=told):
            found.append(image)
            rows += [replace(row, image=None) for row in some]
        labels = [cast(int, row.meta["label"]) for row in rows] if self.kind == "labels" else []
        captions = [text for row in rows for text in row.texts] if texts else []
        owner = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(row.texts) for row in rows]))
        return EmbeddedRows(
            torch.cat(found),
            torch.tensor(labels, dtype=torch.int64),
            encode_texts(reader, captions),
            owner if texts else owner[:0],
            tuple(rows),
        )

    def loader(
        self,
        model: DualEncoder,
        *,
        batch_size: int,
        augment: Callable[..., Any] | None = None,
        contents: BatchContents | None = None,
        caption: Literal["random", "first"] = "random",
        image_spec: ImageSpec | None = None,
    ) -> Loader:
        """Endless, shuffled, resumable batches of the part to learn from, at most as large as it is.

        Args:
            model: whose images and tokens they are.
            batch_size: rows of a batch.
            augment: a change of pixels, a ``data.augment.Augment``, or None.
            contents: what else a batch holds (views, boxes, no images), see ``data.contents``.
            caption: which of a row's texts.
            image_spec: how images are prepared, if not as the model says.
        """
        if self.kind == "texts":
            contents = contents or BatchContents(images=False)
        return Loader(
            self.source,
            batch_size=min(batch_size, self.rows),
            image_spec=model.image_spec if image_spec is None else image_spec,
            tokenizer=model.tokenizer,
            seed=self.seed,
            workers=self.workers,
            caption=caption,
            augment=cast("Augment | None", augment),
            contents=contents,
        )

    def _told(self, *, total: int | None) -> Progress | None:
        """What is told of the rows of one part, with how many there are."""
        tell = self.on_progress
        return None if tell is None else lambda done, _: tell(done, total)

    def _views(
        self, reader: CachedEncoder, source: Source, *, views: int, crop: Crop | None, told: Progress | None
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Rows of random crops; each depends on the seed, the number of the view and the row's key alone."""
        cutter = Crop(scale=(0.5, 1.0), flip=0.5) if crop is None else crop
        spec = cutter.spec(reader.image_spec.fixed())
        device = reader.logit_scale.device
        found: list[list[Tensor]] = [[] for _ in range(views)]
        labels: list[int] = []
        waiting: list[list[Tensor]] = [[] for _ in range(views)]

        def encode() -> None:
            for number, cuts in enumerate(waiting):
                if cuts:
                    with torch.no_grad():
                        found[number].append(reader.encode_image(torch.stack(cuts).to(device)).pooled.float().cpu())
                cuts.clear()

        for row in (row for block in source.blocks() for row in source.read(block)):
            assert row.image is not None  # such rows were left out when labels were read
            pixels = decode(row.image, name=row.key)
            height, width = int(pixels.shape[1]), int(pixels.shape[2])
            for number in range(views):
                draw = hash_int(row.key, seed=self.seed, salt=f"view {number}")
                place = cutter.draw("view", draw=draw, height=height, width=width, spec=spec, others={})
                view = cutter.changed("view", [cutter.cut(pixels, place, spec)], draws=np.array([draw], np.uint64))
                waiting[number].append(view[0])
            labels.append(int(cast(int, row.meta["label"])))
            if len(waiting[0]) == ROWS:
                encode()
            if told is not None:
                told(len(labels), None)
        encode()
        image = torch.cat([torch.cat(parts) for parts in found])
        return image, torch.tensor(labels, dtype=torch.int64).repeat(views)
