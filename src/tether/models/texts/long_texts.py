"""What is done with texts past a model's context: cut, read through windows, or read by interpolated positions."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, Literal, final

import torch
from jaxtyping import Int
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.core.types import Features
from tether.models.embed_anything import Embeds
from tether.models.encoders.truncated import NarrowEncoder
from tether.models.tokenizer import TextCutWarning, lengths
from tether.models.towers.sizes import MAX_CONTEXT, Resizes

LongTexts = Literal["cut", "windows", "stretch", "linear"]
"""Ways to read texts past the context; none changes how texts that fit are read."""


@final
class StretchedTextEncoder(EncoderAround, Embeds):
    """An encoder that reads long texts by a copy of itself with more positions; a ``core.protocols.DualEncoder``.

    A text that fits into the context has the very embedding that the model inside gives it. For longer ones the
    learned positions are interpolated, which the model was not trained for, and read up to a few contexts; texts keep
    their beginnings' meaning best with ``stretch``, and best of all after training (``recipes/long-text.yaml``).

    Source: arXiv 2403.15378, section 3.1.

    Attributes:
        long: the copy that reads longer texts.
        tokenizer: for texts of up to the copy's context; longer ones are cut, counted and warned of.

    Example:
        >>> import tether
        >>> from tether.models.texts.long_texts import StretchedTextEncoder
        >>> reader = StretchedTextEncoder(tether.load("tiny", random_weights=True))
        >>> reader.tokenizer.context_length, reader.embed(["a red square " * 20, "a cat"]).shape
        (72, torch.Size([2, 64]))
    """

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        how: Literal["stretch", "linear"] = "stretch",
        keep: Whole | None = None,
        ratio: Count = 4,
    ) -> None:
        """Make the copy.

        Args:
            model: any that has ``resized``.
            how: ``stretch`` leaves the first positions as they are; ``linear`` interpolates all.
            keep: how many those are; default min(20, n // 3) of n.
            ratio: positions for each of the others.

        Raises:
            InputError: ``keep`` is above n - 2.
            UnsupportedModelError: a model without ``resized``, or whose library has no more positions.
        """
        super().__init__(model)
        if not isinstance(model, Resizes):
            raise UnsupportedModelError(f"long_text: {type(model).__name__} has no positions to stretch; take windows")
        rows, kept = model.text_rows, 0
        spec: dict[str, Any] = {"name": how}
        if how == "stretch":
            kept = min(20, rows // 3) if keep is None else keep
            spec |= {"keep": kept, "ratio": ratio}
        elif keep:
            raise InputError(f"keep: linear keeps no position; expected None, got {keep}")
        self.long: Any = model.resized(context=min(kept + ratio * (rows - kept), MAX_CONTEXT), how=spec)
        self.tokenizer = self.long.tokenizer

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids, zero after the end; a mask goes with texts that fit alone."""
        context = self.inside.tokenizer.context_length
        longer = lengths(text) > context
        if not bool(longer.any()):
            return self.inside.encode_text(text[:, :context], mask=mask)
        if mask is not None:
            raise InputError("mask: texts past the context take none; expected None")
        short, long = (~longer).nonzero()[:, 0], longer.nonzero()[:, 0]
        rows = [self.long.encode_text(text[long]).pooled]
        if len(short):
            rows.append(self.inside.encode_text(text[short, :context]).pooled)
        return Features(torch.cat(rows)[torch.cat([long, short]).argsort()])


@checked
def reading(model: DualEncoder, long_text: LongTexts) -> DualEncoder:
    """The model, or an encoder around it that reads longer texts than its context.

    Args:
        model: any that ``tether.load`` gives.
        long_text: ``cut`` is the model itself, whose tokenizer cuts them; ``windows`` reads them whole; ``stretch`` and
            ``linear`` read up to their new context, 248 and 308 tokens of a model's 77, and cut what is longer.

    Raises:
        UnsupportedModelError: ``stretch`` or ``linear`` of a model whose positions cannot be resized.
    """
    if long_text == "cut":
        return model
    if isinstance(model, NarrowEncoder):  # the positions are those of the encoder inside
        return NarrowEncoder(reading(model.inside, long_text), dims=model.dim)
    if long_text != "windows":
        return StretchedTextEncoder(model, how=long_text)
    from tether.models.texts.text_windows import SlidingTextEncoder

    return SlidingTextEncoder(model)


class CutNotice:
    """Says once how many texts a model's tokenizer cut, and what reads them whole.

    Example:
        >>> import warnings, tether
        >>> from tether.models.embed import encode_texts
        >>> from tether.models.texts.long_texts import CutNotice
        >>> model = tether.load("tiny", random_weights=True)
        >>> notice = CutNotice(model)
        >>> with warnings.catch_warnings(record=True):
        ...     warnings.simplefilter("always")
        ...     with notice.watching():
        ...         _ = encode_texts(model, ["a red square " * 30, "a cat"])
        >>> notice.told
        1
    """

    def __init__(self, model: DualEncoder) -> None:
        """Args: model: whose tokenizer counts what it cuts."""
        self._tokenizer: Any = model.tokenizer
        inside = model.inside if isinstance(model, NarrowEncoder) else model
        self._advice = (
            "" if getattr(inside, "reads_whole", False) else ": windows reads them whole (long_text=..., --long-text)"
        )
        self.told = 0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """The tokenizer's own warning is not heard inside; at the end comes this one, unless it came before.

        ``told`` is then the number of texts.
        """
        before = self._cut
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TextCutWarning)
            yield
        cut = self._cut - before
        if cut and not self.told:
            self.told = cut
            warnings.warn(
                f"{cut} {'text is' if cut == 1 else 'texts are'} longer than {self._tokenizer.context_length} tokens "
                f"and lost the end{self._advice}",
                TextCutWarning,
                stacklevel=4,
            )

    @property
    def _cut(self) -> int:
        return getattr(self._tokenizer, "cut", 0)
