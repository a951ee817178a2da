"""Hidden patches of an image rebuilt with the help of its caption, as a term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.ranges import checked
from tether.core.types import Loss
from tether.methods.sycoca.cross_decoder import TextGuidedDecoder
from tether.methods.sycoca.masked_patches import Pixel, masked_patch_loss, patch_pixels
from tether.models.towers.patch_selection import removed_tokens
from tether.training.terms.term import Term, TermInputs


class RebuildTerm(Term):
    """The error of the pixels of hidden patches, which a decoder tells from the others and the caption's words.

    SyCoCa's direction from text to image (arXiv 2401.02137). The encoder reads the view without the hidden patches, so
    that they cannot leak.
    """

    @checked
    def __init__(
        self,
        *,
        head: str = "rebuilder",
        image: str = "masked_image",
        text: str = "text",
        pixel: Pixel = "mse",
        norm: Literal["patch", "none"] = "patch",
    ) -> None:
        """Take the views.

        Args:
            head: a ``text_guided`` decoder.
            image: view with ``want: tokens`` and ``patches``: those that it leaves out are rebuilt.
            text: view of the captions with ``want: tokens``.
            pixel: see ``masked_patch_loss``.
            norm: see ``patch_pixels``.
        """
        self._head, self._image, self._text = head, image, text
        self.views, self.heads = {"image": image, "text": text}, {"head": head}
        self._pixel: Pixel = pixel
        self._norm: Literal["patch", "none"] = norm

    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """See Term.

        Raises:
            InputError: a view without ``want: tokens``, or images without ``patches``.
        """
        image, text = seen.views[self._image], seen.views[self._text]
        keep, patches, words = image.about.get("keep"), image.features.tokens, text.features.tokens
        for name, tokens in ((self._image, patches), (self._text, words)):
            if tokens is None:
                raise InputError(f"rebuild: expected want: tokens in the view {name!r}")
        if keep is None or patches is None or words is None:
            raise InputError(f"rebuild: expected patches in the view {self._image!r}, such as patches: untold")
        decoder = cast(TextGuidedDecoder, seen.heads[self._head])
        height, width = image.rows.shape[2:]
        grid = height // decoder.patch[0], width // decoder.patch[1]
        told = decoder(patches, words, keep=keep, grid=grid, word_mask=text.features.mask)
        target = patch_pixels(image.rows, patch=decoder.patch, norm=self._norm)
        hidden = removed_tokens(keep, tokens=target.shape[1])
        return (Loss(masked_patch_loss(told.float(), target.float(), hidden, pixel=self._pixel, gather=gather)),)
