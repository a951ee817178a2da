"""A test set seen through a model: every row with its embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.geometry import Geometry, check_finite, geometry_of
from tether.core.protocols import DualEncoder, Source
from tether.core.ranges import Count, checked
from tether.core.types import Row
from tether.data.in_order import ordered
from tether.models.embed import encode_images


@dataclass(frozen=True)
class SeenSet:
    """Rows and the embeddings of their images.

    Attributes:
        name: of the source.
        rows: without their images.
        image: (n, d) points of the model's geometry.
        geometry: what the model compares with.
    """

    name: str
    rows: tuple[Row, ...]
    image: Float[Tensor, "n d"]
    geometry: Geometry

    @property
    def labels(self) -> np.ndarray:
        """(n,) number of each row's class.

        Raises:
            InputError: all rows have one class, so there is nothing to tell apart.
        """
        found = np.array([row.meta["label"] for row in self.rows], dtype=np.int64)
        if (found == found[0]).all():
            raise InputError(f"{self.name}: all {len(found)} rows have the label {found[0]}; one class tells nothing")
        return found


@checked
def see(
    model: DualEncoder,
    source: Source,
    *,
    batch_size: Count = 256,
    workers: int = 0,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> SeenSet:
    """Embed every image of a test set; one bad row is an error, since a number of the rest is another number.

    Images are resized by Pillow, as open_clip does: a grey level more in a few pixels decides a near tie otherwise.

    Args:
        model: any model that ``tether.load`` gives.
        source: such as ``ShardSet.source("test")``.
        batch_size: images in one forward.
        workers: threads that decode.
        on_progress: called with (images done, None).

    Raises:
        InputError: a bad row, which is named, or none at all.
    """
    check_finite(model)
    rows: list[Row] = []

    def pixels() -> Iterator[Tensor]:
        spec = model.image_spec
        how = {"batch_size": batch_size, "workers": workers, "strict": True, "exact": True}
        for some, images in ordered(source, image_spec=spec, **how):
            rows.extend(Row(row.key, None, row.texts, row.meta) for row in some)
            yield images

    image = encode_images(model, pixels(), on_progress=on_progress)
    geometry = geometry_of(model).detached()
    return SeenSet(source.name, tuple(rows), geometry.points(image), geometry)
