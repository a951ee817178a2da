"""Images at hand as a source: a list of files, Pillow images, encoded bytes, pixels or rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tether.core.errors import InputError
from tether.core.types import ImageLike, Row
from tether.data.blocks import IndexedSource
from tether.data.images import decode, is_pillow
from tether.data.paths import fingerprint, is_image_file, labels


class ListedSource(IndexedSource):
    """Images in the order in which they are given.

    Files have their names for keys, from the first folder on in which they differ; other images have their numbers,
    counted from 0; rows are taken as they are.

    Example:
        >>> import numpy as np
        >>> from tether.data.sources.listed import ListedSource
        >>> source = ListedSource([np.zeros((4, 6, 3), np.uint8)] * 2)
        >>> source.name, [row.key for block in source.blocks() for row in source.read(block)]
        ('2 images', ['0', '1'])
    """

    def __init__(self, images: Sequence[Any], *, where: str = "--data") -> None:
        """Keep them.

        Args:
            images: paths of image files, Pillow images, an image file's bytes, uint8 pixels (h, w, 3) or (3, h, w) of
                torch, or rows.
            where: what errors call them.

        Raises:
            InputError: none, what is no image or no such file, or two rows of one key; it names the first.
        """
        if not images:
            raise InputError(f"{where}: expected at least one image, got an empty list")
        self.name = f"{len(images):,} images"
        files = [(at, str(one)) for at, one in enumerate(images) if isinstance(one, (str, Path))]
        for at, path in files:
            if not Path(path).is_file() or not is_image_file(path):
                raise InputError(f"{where}: {at} (counted from 0): {path}: expected the path of an image file")
        paths = [path for _, path in files]
        names = dict(zip((at for at, _ in files), labels(paths), strict=True))
        self._rows = [_row(at, one, name=names.get(at, str(at)), where=where) for at, one in enumerate(images)]
        if twice := [key for key, count in Counter(row.key for row in self._rows).items() if count > 1]:
            raise InputError(f"{where}: {twice[0]!r} comes twice")
        digest = hashlib.blake2b(fingerprint(paths).encode(), digest_size=8)
        for row in self._rows:
            digest.update(f"\x00{row.key}\x00{row.texts!r}\x00".encode(errors="surrogatepass"))
            if isinstance(row.image, bytes):
                digest.update(row.image)
            elif isinstance(row.image, np.ndarray):
                digest.update(repr(row.image.shape).encode() + row.image.tobytes())
        self.version = digest.hexdigest()

    def __len__(self) -> int:
        """How many images."""
        return len(self._rows)

    def row(self, index: int) -> Row:
        """One row."""
        return self._rows[index]


def _row(at: int, image: Any, *, name: str, where: str) -> Row:
    if isinstance(image, Row):
        return replace(image, image=_pixels(image.image)) if is_pillow(image.image) else image
    if isinstance(image, (str, Path)):
        return Row(name, Path(image))
    if is_pillow(image):
        return Row(name, _pixels(image))
    if isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3:
        image = image.permute(1, 2, 0).cpu().numpy()
    if isinstance(image, (bytes, np.ndarray)):
        return Row(name, image)
    expected = "the path of an image, a Pillow image, bytes, uint8 pixels or a row"
    raise InputError(f"{where}: {at} (counted from 0): expected {expected}, got {type(image).__name__}")


def _pixels(image: Any) -> ImageLike:
    return decode(image).permute(1, 2, 0).numpy()
