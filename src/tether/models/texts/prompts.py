"""Text embeddings of classes from learnt vectors around their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, PositiveSingle, Whole, checked
from tether.core.types import Features
from tether.models.features.find import text_anatomy
from tether.models.texts.text_vectors import FILLER, TextVectors, placed, put


class Prompts(TextVectors):
    """Learnt vectors before and after the words of classes, through a text tower at rest.

    CoOp (arXiv 2109.01134) is ``context=16``; MTA-CLIP (2407.21654) ``context=8, count=8``; AdaptCLIP (2505.09926)
    ``{"normal": ".", "abnormal": "."}, context=12, per_class=True``; AnomalyCLIP (2310.18961) that with the words
    ``object.`` and ``damaged object.`` and ``deep=8, deep_length=4``.

    Attributes:
        classes: their names, in order.
        vectors: (classes or 1, count, context + suffix, w) parameter.
        deep: (blocks, deep_length, w) parameter, shared by all classes; or None.
        row_class: (classes * count,) the class of each row that ``forward`` gives.

    Example:
        >>> import torch
        >>> from tether.models import create
        >>> from tether.models.texts.prompts import Prompts
        >>> model, images = create("tiny").eval(), torch.rand(4, 3, 32, 32)
        >>> prompts = Prompts(model, ["cat", "dog"], context=4)
        >>> optimizer = torch.optim.SGD(prompts.parameters(), lr=0.002)
        >>> logits = model.logit_scale.detach() * model.encode_image(images).unit.detach() @ prompts().unit.T
        >>> torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1])).backward()
        >>> optimizer.step()
    """

    _format: ClassVar[str] = "tether.prompts/1"
    ids: Tensor
    slots: Tensor
    deep_slots: Tensor

    @checked
    def __init__(
        self,
        model: DualEncoder,
        texts: Sequence[str] | Mapping[str, str],
        *,
        context: Whole | str = 16,
        suffix: Whole | str = 0,
        per_class: bool = False,
        count: Count = 1,
        deep: Whole = 0,
        deep_length: Count | None = None,
        std: PositiveSingle = 0.02,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the vectors, on the model's device.

        Args:
            model: any that ``tether.load`` gives with a text tower that ``anatomy_of`` opens.
            texts: the words of each class, as a mapping from its name where they are not the name.
            context: how many vectors stand before the words, or words whose rows they start as.
            suffix: the same after them; a full stop that stays is part of ``texts``.
            per_class: whether each class has vectors of its own.
            count: prompts of a class, each with vectors of its own; the first starts as given words, others near them.
            deep: blocks after the first at whose input new vectors replace what stands in the context's first places.
            deep_length: how many of these places; None for the whole context.
            std: deviation of what is drawn, with mean 0 (released codes: 0.02).
            generator: of the draws; None is torch's own.

        Raises:
            UnsupportedModelError: the text tower cannot be looked into, with a reason of ``models.refusals``.
            InputError: no class, one twice, two with one prompt, no vector, a prompt longer than the context, or more
                deep prompts than blocks or places.
        """
        named = dict(texts) if isinstance(texts, Mapping) else {text: text for text in texts}
        if not 0 < len(named) == len(texts):
            raise InputError(f"texts: expected classes, each once, got {list(texts)!r:.200}")
        if not per_class and len({*named.values()}) < len(named):
            raise InputError("texts: classes with the same words would have the same prompts; expected per_class=True")
        settings = {"texts": named, "context": context, "suffix": suffix, "per_class": per_class, "count": count}
        super().__init__(model, settings=settings | {"deep": deep, "deep_length": deep_length})
        self.classes = list(named)
        ends = [given if isinstance(given, str) else FILLER * min(given, 1) for given in (context, suffix)]
        filler, first, last = self.words_of([FILLER, ends[0], f"{FILLER} {ends[1]}".strip()])
        last = last[len(filler) :]  # as it is coded after words
        head = first if isinstance(context, str) else first[:1] * context
        tail = last if isinstance(suffix, str) else last[:1] * suffix
        words = self.words_of([" ".join(filter(None, (ends[0], text, ends[1]))) for text in named.values()])
        for row, name in enumerate(named):
            ids, end = words[row], len(words[row]) - len(last)
            if ids[: len(first)] != first or ids[end:] != last or end < len(first):
                raise InputError(f"class {name!r}: its words and those of the context or suffix share a token")
            words[row] = head + ids[len(first) : end] + tail
        tower, start = text_anatomy(model), self.token_rows(head + tail)
        deepest, places = len(tower.blocks) - 1, len(head) if deep_length is None else deep_length
        if not len(start) or (deep and (deep > deepest or not 0 < places <= len(head))):
            raise InputError(
                f"context, suffix, deep, deep_length: expected a vector, at most {deepest} blocks after the first and "
                f"{len(head)} places of the context, got {len(start)} vectors, {deep} blocks and {places} places"
            )

        def drawn(*shape: int) -> Tensor:
            return (std * torch.randn(*shape, start.shape[1], generator=generator)).to(start)

        vectors = drawn(len(named) if per_class else 1, count, len(start))
        worded = [isinstance(context, str)] * len(head) + [isinstance(suffix, str)] * len(tail)
        vectors[:, 0, worded] = 0
        vectors[:, :, worded] += start[worded]
        self.vectors = nn.Parameter(vectors)
        self.deep = nn.Parameter(drawn(deep, places)) if deep else None
        whole = self.framed(words, names=[f"class {name!r}" for name in named])
        local = torch.full_like(whole, -1)  # which of its vectors stands where in a prompt
        for slots, ids in zip(local[:, len(self.before) :], words, strict=True):
            slots[: len(head)] = torch.arange(len(head))
            slots[len(ids) - len(tail) : len(ids)] = torch.arange(len(head), len(start))
        local = placed(tower, whole, local).repeat_interleave(count, dim=0)
        row = torch.arange(len(local), device=local.device)
        first_vector = (row if per_class else row % count)[:, None] * len(start)
        self.register_buffer("ids", whole.repeat_interleave(count, dim=0), persistent=False)
        self.register_buffer("slots", torch.where(local >= 0, local + first_vector, -1), persistent=False)
        self.register_buffer("deep_slots", torch.where(local < places, local, -1), persistent=False)
        self.register_buffer("row_class", row // count, persistent=False)

    def forward(self) -> Features:
        """Embed every prompt, those of one class after each other: ``pooled`` (classes * count, d), not normalised."""
        with self.resting() as tower:
            rows = put(tower.token_rows(tower.prepare(self.ids)), self.slots, self.vectors.flatten(0, 2))
            stream, deep = tower.embed(self.ids, rows=rows), () if self.deep is None else self.deep
            for index, vectors in enumerate(deep):
                stream = tower.run(stream, index, index + 1)
                stream = stream.to(put(stream.x, self.deep_slots, vectors))
            stream = tower.run(stream, len(deep))
            return Features(tower.read_out(stream), extra=stream.extra)
