"""Images and texts as people have them, to unit rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tether.core.errors import InputError
from tether.core.ranges import Count, checked
from tether.core.types import ImageLike
from tether.models.tokenizer import LongText

Thing = str | bytes | Path | np.ndarray | Tensor | Any
"""A text, or an image: also one of PIL, which is not imported for a type."""


_LONGEST_NAME = 1024
"""Characters of a text up to which it may be meant as a path."""


_LATENT = np.empty(0, np.uint8)
"""Stands for a latent among images."""


class Embeds:
    """Gives a ``DualEncoder`` its method ``embed``."""

    @checked
    def embed(
        self, things: Thing | Sequence[Thing], *, batch_size: Count = 64, long_text: LongText = "raise"
    ) -> Float[Tensor, "n d"]:
        """Images and texts to rows of length 1, in the order given.

        Args:
            things: one or several, mixed as you like. Images are paths (``pathlib.Path``, or a ``str`` that ends like
                an image file), PIL images, encoded bytes, and uint8 pixels (h, w, 3); any other ``str`` is a text. A
                model on latents also takes these: floats (c, h, w), or (n, c, h, w).
            batch_size: images or texts in one forward.
            long_text: texts past the model's context ``raise`` an InputError, or are ``cut``, counted and warned of.

        Returns:
            (n, d) float32 on the CPU; ``rows @ rows.T`` are cosines. n is 1 for one thing.

        Raises:
            InputError: a thing that is none of these, an image that cannot be read, or a text that is too long; it
                says which.

        Example:
            >>> import numpy as np, tether
            >>> model = tether.load("tiny", random_weights=True)
            >>> model.embed(["a cat", np.zeros((48, 64, 3), np.uint8)]).shape
            torch.Size([2, 64])
        """
        from tether.data.images import load
        from tether.models.embed import encode_images, encode_texts

        model = cast(Any, self)
        on_latents = hasattr(getattr(model, "visual", None), "latents")
        if on_latents and isinstance(things, Tensor) and things.ndim == 4:
            things = list(things)
        if isinstance(things, (str, bytes, Path, np.ndarray, Tensor)) or not isinstance(things, Sequence):
            things = cast("Sequence[Thing]", [things])

        def is_latent(thing: Thing) -> bool:
            return on_latents and isinstance(thing, Tensor) and thing.is_floating_point()

        latents = [number for number, thing in enumerate(things) if is_latent(thing)]
        found = [
            _LATENT if is_latent(thing) else _image_of(thing, where=f"thing {number}")
            for number, thing in enumerate(things)
        ]
        texts = [number for number, image in enumerate(found) if image is None]
        images = [number for number, image in enumerate(found) if image is not None and image is not _LATENT]
        rows = torch.empty(len(found), model.dim)
        if texts:
            words = [str(things[number]) for number in texts]
            rows[texts] = encode_texts(model, words, batch_size=batch_size, long_text=long_text)
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size]
            pixels = [
                load(cast(ImageLike, found[number]), model.image_spec, name=f"thing {number} (counted from 0)")
                for number in some
            ]
            rows[some] = encode_images(model, [torch.stack(pixels)])
        for start in range(0, len(latents), batch_size):
            some = latents[start : start + batch_size]
            held = [model.visual.latents(cast(Tensor, things[number])[None]) for number in some]
            rows[some] = encode_images(model, [torch.cat(held)])
        return torch.nn.functional.normalize(rows, dim=1)


def _image_of(thing: Any, *, where: str) -> ImageLike | None:
    """What ``data.images.load`` takes, or None for a text."""
    from tether.data.paths import is_image_file

    if isinstance(thing, str):
        named = is_image_file(thing) and len(thing) < _LONGEST_NAME
        if named and not Path(thing).is_file():
            raise InputError(f"{where} (counted from 0): {thing}: named like an image, and there is no such file")
        if not named and "/" in thing and len(thing) < _LONGEST_NAME and Path(thing).is_dir():
            raise InputError(f"{where} (counted from 0): {thing}: a folder; tether.embed takes folders")
        return Path(thing) if named else None
    if isinstance(thing, (bytes, Path)):
        return thing
    if isinstance(thing, Tensor):
        thing = thing.cpu().numpy()
    if hasattr(thing, "convert") and hasattr(thing, "mode"):  # a PIL image
        thing = np.asarray(thing.convert("RGB"))
    if isinstance(thing, np.ndarray) and thing.dtype == np.uint8 and thing.ndim == 3 and thing.shape[2] == 3:
        return thing
    what = f"{thing.dtype} {thing.shape}" if isinstance(thing, np.ndarray) else type(thing).__name__
    raise InputError(
        f"{where} (counted from 0): expected a text, the path of an image, a PIL image, bytes or uint8 pixels "
        f"(h, w, 3), got {what}"
    )
