"""Texts past a model's context, read through windows that overlap: any encoder's text tower, unchanged."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, final

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tether.core.encoder_wrapper import EncoderAround
from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Whole, checked
from tether.core.types import Features
from tether.models.embed_anything import Embeds
from tether.models.features.find import text_anatomy
from tether.models.texts.text_vectors import placed
from tether.models.tokenizer import lengths
from tether.models.towers.sizes import MAX_CONTEXT, tokenizer_at

Mode = Literal["framed", "raw"]
Weights = Literal["mean", "tokens"]
Reads = Literal["largest", "last"]

PAPER_WINDOW, PAPER_STEP = 77, 70


@dataclass(frozen=True, slots=True)
class TextWindows:
    """The windows of b texts, those of one text after each other.

    Attributes:
        ids: (k, window) token ids.
        mask: (k, window) True for tokens, False for padding.
        counts: (b,) windows of each text, at least 1.
        ends: (k,) whether a window ends where its text does.
    """

    ids: Int[Tensor, "k w"]
    mask: Bool[Tensor, "k w"]
    counts: Int[Tensor, " b"]
    ends: Bool[Tensor, " k"]


@checked
def sliding_windows(
    ids: Int[Tensor, "b l"],
    mask: Bool[Tensor, "b l"] | Int[Tensor, "b l"] | None = None,
    *,
    window: Annotated[int, Ge(3)] = PAPER_WINDOW,
    step: Count = PAPER_STEP,
    mode: Mode = "framed",
    before: Whole = 1,
    after: Whole = 1,
    pad: Whole = 0,
) -> TextWindows:
    """Cut texts of any length into windows of one (arXiv 2303.13340, section 3; released code).

    A text that is not longer than the window stays whole. Of others, full windows begin every ``step`` tokens, and one
    more takes what is left, so it begins with tokens that the window before it has, and may have no others.

    Args:
        ids: whole texts, start and end tokens included.
        mask: not 0 for tokens, 0 for padding on either side; None where what follows a text is zeros.
        window: tokens of a window, its start and end tokens included; at least 3.
        step: tokens from one window to the next, at most ``window``.
        mode: ``framed`` gives each window its text's start and end tokens; ``raw``, the released code, cuts the ids as
            they are, so that only a text's first window has the one and only its last the other.
        before: start tokens of a text.
        after: its end tokens.
        pad: id of the padding.

    Raises:
        InputError: a step above the window or that leaves no token between the frames, or a text of no token.

    Example:
        >>> import torch
        >>> from tether.models.texts.text_windows import sliding_windows
        >>> text = torch.tensor([[90, 1, 2, 3, 4, 5, 6, 99]])
        >>> sliding_windows(text, window=5, step=4).ids.tolist()
        [[90, 1, 2, 3, 99], [90, 3, 4, 5, 99], [90, 5, 6, 99, 0]]
        >>> sliding_windows(text, window=5, step=4, mode="raw").ids.tolist()
        [[90, 1, 2, 3, 4], [4, 5, 6, 99, 0]]
    """
    first, last = (before, after) if mode == "framed" else (0, 0)
    size, stride = window - first - last, step - first - last
    if step > window or stride < 1:
        raise InputError(f"step: expected {first + last + 1} to {window} (the window), got {step}")
    if mask is None:
        length = (lengths(ids) if ids.shape[1] else ids.new_zeros(len(ids))) * ids.ne(0).any(dim=1)
    else:
        if mask.shape != ids.shape:
            raise InputError(f"mask: expected {tuple(ids.shape)} like ids, got {tuple(mask.shape)}")
        length = mask.ne(0).sum(dim=1)
        ids = ids.gather(1, mask.eq(0).int().argsort(dim=1, stable=True))
    least = max(1, first + last)
    if bool((length < least).any()):
        row = int((length < least).nonzero()[0])
        raise InputError(f"ids, row {row}: expected at least {least} tokens, got {int(length[row])}")
    content = length - first - last
    full = torch.where(content > size, (content - size).div(stride, rounding_mode="floor") + 1, 0)
    counts = (full + (content > stride * full)).clamp(min=1)
    owner = torch.repeat_interleave(torch.arange(len(ids), device=ids.device), counts)
    number = torch.arange(len(owner), device=ids.device) - (counts.cumsum(0) - counts)[owner]
    start = stride * number
    inside = (content[owner] - start).clamp(max=size)
    place = torch.arange(window, device=ids.device).expand(len(owner), -1)
    closing = place - first - inside[:, None]
    where = torch.where(place < first, place, start[:, None] + place)
    where = torch.where(closing >= 0, (length[owner] - last)[:, None] + closing, where)
    real = closing < last
    found = ids[owner].gather(1, where.clamp(0, max(ids.shape[1] - 1, 0))).where(real, pad)
    return TextWindows(found, real, counts, number + 1 == counts[owner])


def pool_windows(
    features: Float[Tensor, "k d"], windows: TextWindows, *, weights: Weights = "mean"
) -> Float[Tensor, "b d"]:
    """One row for each text: the mean of its windows' rows, which are not normalised.

    Args:
        features: of the windows, in order.
        windows: what ``sliding_windows`` gave.
        weights: of a text's windows: the same for all (``mean``, the paper's, in which a padded window counts as much
            as a full one), or by their number of ``tokens``.

    Raises:
        InputError: another number of features than windows.
    """
    counts = windows.counts
    if len(features) != len(windows.ids):
        raise InputError(f"features: expected a row for each of the {len(windows.ids)} windows, got {len(features)}")
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    share = windows.mask.sum(1) if weights == "tokens" else torch.ones_like(owner)
    share = share.to(features.dtype)
    share = share / share.new_zeros(len(counts)).index_add(0, owner, share)[owner]
    return features.new_zeros(len(counts), features.shape[1]).index_add(0, owner, features * share[:, None])


@final
class SlidingTextEncoder(EncoderAround, Embeds):
    """An encoder that reads texts of any length through windows; a ``core.protocols.DualEncoder``.

    A text that fits into a window has the very embedding that the model inside gives it. Of a longer one each window
    goes through the text tower, and the embeddings, not normalised, are averaged. There is nothing to learn, though a
    model that is trained on it reads long texts better. A long text costs as many texts as it has windows.

    Source: arXiv 2303.13340, section 3, whose released code is ``mode="raw"`` with the default window, step and
    ``reads``; frames and weights are ours.

    Attributes:
        reads_whole: True, as no text of a caption's length is cut.
        tokenizer: that of the model inside, for texts of up to ``models.towers.sizes.MAX_CONTEXT`` tokens.

    Example:
        >>> import tether
        >>> from tether.models.texts.text_windows import SlidingTextEncoder
        >>> model = tether.load("tiny", random_weights=True)
        >>> reader = SlidingTextEncoder(model)
        >>> long = "a red square beside a blue circle, " * 40
        >>> reader.embed([long, "a red square"]).shape
        torch.Size([2, 64])
    """

    reads_whole = True

    @checked
    def __init__(
        self,
        model: DualEncoder,
        *,
        window: Count | None = None,
        step: Count | None = None,
        mode: Mode = "framed",
        weights: Weights = "mean",
        reads: Reads = "largest",
        at_once: Count = 256,
    ) -> None:
        """Wrap a model.

        Args:
            model: any that ``tether.load`` gives.
            window: tokens of a window, at most the model's context; None for the context.
            step: tokens from one window to the next; None for 70 of 77 windows' tokens, as in the paper.
            mode: see ``sliding_windows``. For ``raw`` the text tower must be one that can be looked into.
            weights: see ``pool_windows``.
            reads: in ``raw`` mode, the token whose state is the embedding of a window without an end token: that with
                the ``largest`` id, which is where CLIP's code looks for the end, or the ``last``.
            at_once: windows in one forward.

        Raises:
            InputError: a window above the context or too small for its frames, or a step that ``sliding_windows``
                refuses.
            UnsupportedModelError: in ``raw`` mode, a text tower that cannot be looked into.
        """
        super().__init__(model)
        context, empty = model.tokenizer.context_length, model.tokenizer([""])
        frame = int(lengths(empty)[0]) if empty.shape[1] else 0
        self.before, self.after = max(frame - 1, 0), min(frame, 1)
        self.end = int(empty[0, frame - 1]) if frame else None
        self.window = context if window is None else window
        self.step = max(1, round(self.window * PAPER_STEP / PAPER_WINDOW)) if step is None else step
        self.mode, self.weights, self.reads, self.at_once = mode, weights, reads, at_once
        least = max(3, frame + 1)
        if not least <= self.window <= context:
            raise InputError(f"window: expected {least} to {context} tokens (the context), got {self.window}")
        if mode == "raw":
            text_anatomy(model)
        self._cut(torch.ones(1, frame + 1, dtype=torch.int64), None)  # refuses a step that is too large or too small
        self.tokenizer = tokenizer_at(model.tokenizer, MAX_CONTEXT)

    def behaviour(self) -> dict[str, Any]:
        """What decides its rows besides the model inside, for the digest."""
        names = ("window", "step", "mode", "weights", "reads")
        return {"windows": {name: getattr(self, name) for name in names}}

    def encode_text(self, text: Int[Tensor, "b l"], *, mask: Tensor | None = None) -> Features:
        """(b, l) token ids of any length, zero after the end; there is no mask."""
        if mask is not None:
            raise InputError("mask: windows of texts take none; expected None")
        mask = torch.arange(text.shape[1], device=text.device) < lengths(text)[:, None]
        windows = self._cut(text, mask)
        whole = windows.ends if self.mode == "raw" else torch.ones_like(windows.ends)
        rows = [self._read(windows, part, whole) for part in torch.arange(len(whole)).split(self.at_once)]
        return Features(pool_windows(torch.cat(rows), windows, weights=self.weights))

    def _cut(self, text: Tensor, mask: Tensor | None) -> TextWindows:
        return sliding_windows(
            text, mask, window=self.window, step=self.step, mode=self.mode, before=self.before, after=self.after
        )

    def _read(self, windows: TextWindows, part: Tensor, whole: Tensor) -> Tensor:
        """Embeddings of some of the windows; those without an end token are read where ``reads`` says."""
        ids, whole = windows.ids[part], whole[part]
        whole_rows, cut_rows = whole.nonzero()[:, 0], (~whole).nonzero()[:, 0]
        found: list[Tensor] = []
        if len(whole_rows):
            longest = int(windows.mask[part][whole_rows].sum(1).max())
            found.append(self.inside.encode_text(ids[whole_rows, :longest]).pooled)
        if len(cut_rows):
            found.append(self._read_cut(ids[cut_rows]))
        return torch.cat(found)[torch.cat([whole_rows, cut_rows]).argsort()]

    def _read_cut(self, ids: Int[Tensor, "k w"]) -> Float[Tensor, "k d"]:
        """Full windows: a tower is told of an end in the last place, and is given the rows of the words that stand."""
        tower = text_anatomy(self.inside)
        ended = ids.clone()
        if self.end is not None:
            ended[:, -1] = self.end
        slots = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        slots = placed(tower, ended, slots)
        prepared = torch.where(slots >= 0, ids.gather(1, slots.clamp(min=0)), tower.prepare(ended))
        at = ids.argmax(dim=1) if self.reads == "largest" else torch.full_like(ids[:, 0], ids.shape[1] - 1)
        stream = tower.embed(ended, rows=tower.token_rows(prepared))
        reads, own = (slots == at[:, None]).int().argmax(dim=1), stream.layout.reads
        layout = replace(stream.layout, reads=torch.where(own < slots.shape[1], reads, own))  # CoCa reads its own token
        return tower.read_out(tower.run(replace(stream, layout=layout)))
