"""Segmenters with a trained mask head: masks are found first and named then."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tether.core.errors import InputError
from tether.core.masks import BACKGROUND
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder
from tether.core.ranges import Count, Positive, Share, checked
from tether.core.types import Batch
from tether.models.features.windows import Windows
from tether.models.heads.mask_models import (
    MaskModel,
    NamedMasks,
    PromptMasks,
    SeenImage,
    TrainedMasks,
    load_masks,
    see_image,
)
from tether.tasks.classify.zero_shot import class_weights
from tether.tasks.segment.segmenter import DenseSegmenter, resized

Given = str | Path | TrainedMasks | None
"""A head: the folder that ``tether adapt`` made, bound to the model; or a trained part."""
Ready = TypeVar("Ready", bound="MaskSegmenter")


class MaskSegmenter(DenseSegmenter):
    """A segmenter with a trained mask head; a score is the logarithm of how much of a class its masks put at a place.

    Attributes:
        head: folder of the head, or the head itself.
        trained: names of the classes that it was trained on, once prepared.
    """

    own_windows = Windows(fit="whole")

    head: Given
    trained: tuple[str, ...] = ()
    _found: MaskModel | None = None

    def prepare(
        self: Ready,
        model: DualEncoder,
        prompts: Sequence[str],
        *,
        windows: Windows | None = None,
        support: Iterable[Batch] | None = None,
    ) -> Ready:
        """See ``Segmenter``.

        Raises:
            InputError: no head, one of another kind or encoder, or as ``DenseSegmenter.prepare``.
        """
        if self.head is None:
            raise InputError(f"head: expected the folder that tether adapt --recipe {self.recipe} made, as head=FOLDER")
        given = self.head if isinstance(self.head, TrainedMasks) else load_masks(self.head, model=model)
        self._found, self.trained = given.masks, given.classes
        self._found.to(model.logit_scale.device).eval()
        super().prepare(model, prompts, windows=windows, support=support)
        times = 2 ** int(self._found.head.settings["doublings"] or 0)
        (size, (own, grid)), *_ = self._models.items()
        self._models = {size: (own, (grid[0] * times, grid[1] * times))}
        return self

    def patches(self, model: DualEncoder, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """See ``DenseSegmenter``; masks are named, not patches."""
        return see_image(model, image).places().flatten(1, 2)

    def refine(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "t r c"]:
        """Logarithms of the means over windows; where no mask is the likeliest class counts, however little."""
        return scores.float().clamp_min(torch.finfo(torch.float32).tiny).log()

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        return super().settings() | {"head": None if self._found is None else model_digest(self._found)}

    @abc.abstractmethod
    def amounts(self, seen: SeenImage) -> Float[Tensor, "b t r c"]:
        """How much of each text's class stands at each place."""

    def _dense(self, image: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b t r c"]:
        size = (image.shape[2], image.shape[3])
        if size not in self._models:
            first, grid = next(iter(self._models.values()))
            self._models[size] = (resized(first, size), grid)
        model = self._models[size][0]
        return self.amounts(see_image(model, image.to(model.logit_scale.device)))


class MtaSegmenter(MaskSegmenter):
    """MTA-CLIP: masks of the classes that its head was trained on, each named by the nearest of a class's prompts.

    Masks that show no object, as the head says, count less; the paper's own rule for them is not known.

    Source: arXiv 2407.21654; ``tether adapt --recipe mask-text`` trains the head.
    """

    recipe = "mask-text"
    learns_texts = True

    @checked
    def __init__(self, *, head: Given = None, least: Share = 0.0) -> None:
        """Choose the head.

        Args:
            head: see ``Given``; without one it cannot be prepared.
            least: see ``DenseSegmenter``.
        """
        super().__init__(least=least)
        self.head = head

    def class_rows(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """The mean of each class's prompts.

        Raises:
            InputError: other classes than the head's, or another kind of head.
        """
        found = self._found
        if not isinstance(found, PromptMasks):
            raise InputError(
                f"head: expected one of --recipe {self.recipe}, got one of kind {getattr(found, 'kind', '')}"
            )
        if {*texts} != {*self.trained}:
            raise InputError(f"classes: expected those of the head, {', '.join(self.trained)}; got {', '.join(texts)}")
        self._order = [self.trained.index(text) for text in texts]
        return found.texts[self._order].mean(dim=1)

    def amounts(self, seen: SeenImage) -> Float[Tensor, "b t r c"]:
        """See ``MaskSegmenter``."""
        assert isinstance(self._found, PromptMasks)  # class_rows has seen to it
        return self._found(seen)[:, self._order]


class MaftSegmenter(MaskSegmenter):
    """MAFT+: masks of any classes, each named by what the tuned encoder sees under it, with texts adapted to the image.

    With words for the background, or a least probability, what no mask covers is background; without, it has the class
    of the mask that comes nearest to it.

    Source: arXiv 2408.00744; ``tether adapt --recipe mask-aware`` tunes the encoder and trains the head.
    """

    recipe = "mask-aware"

    @checked
    def __init__(
        self,
        *,
        head: Given = None,
        synonyms: Mapping[str, Sequence[str]] | None = None,
        templates: Sequence[str] | None = None,
        temperature: Positive | None = None,
        background: Sequence[str] = (),
        least: Share = 0.0,
        batch_size: Count = 256,
    ) -> None:
        """Choose the head.

        Args:
            head: see ``Given``; without one it cannot be prepared.
            synonyms: further words of a class, by its name; the one that fits a mask best counts.
            templates: see ``DenseSegmenter``.
            temperature: see ``DenseSegmenter``.
            background: see ``DenseSegmenter``.
            least: see ``DenseSegmenter``.
            batch_size: see ``DenseSegmenter``.
        """
        super().__init__(
            templates=templates, temperature=temperature, background=background, least=least, batch_size=batch_size
        )
        self.head = head
        self.synonyms = dict(synonyms or {})
        self._counts: list[int] = []

    def class_rows(self, model: DualEncoder, texts: Sequence[str]) -> Float[Tensor, "t d"]:
        """A unit row for each word of each class, those of the background last.

        Raises:
            InputError: synonyms of no class, or another kind of head.
        """
        if not isinstance(self._found, NamedMasks):
            kind = getattr(self._found, "kind", "")
            raise InputError(f"head: expected one of --recipe {self.recipe}, got one of kind {kind}")
        if strange := [name for name in self.synonyms if name not in texts]:
            raise InputError(f"synonyms: {strange[0]!r} is no class; expected one of {', '.join(texts)}")
        own = texts[: len(texts) - len(self.background)]
        words = [[name, *self.synonyms.get(name, ())] for name in own]
        words += [list(self.background)] if self.background else []
        self._counts = [len(some) for some in words]
        every = [word for some in words for word in some]
        found = {word: number for number, word in enumerate(dict.fromkeys(every))}
        rows = class_weights(model, list(found), templates=self.templates, batch_size=self.batch_size)
        return rows[[found[word] for word in every]]

    def prepare(
        self,
        model: DualEncoder,
        prompts: Sequence[str],
        *,
        windows: Windows | None = None,
        support: Iterable[Batch] | None = None,
    ) -> MaftSegmenter:
        """See ``MaskSegmenter``."""
        super().prepare(model, prompts, windows=windows, support=support)
        names = [name for name in self.classes if name != BACKGROUND or not self._apart()]
        names += [BACKGROUND] * (bool(self.background) + self._apart() + (self.least > 0))
        self._owners = torch.tensor([self.classes.index(name) for name in names])
        return self

    def refine(self, scores: Float[Tensor, "t r c"], image: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "s r c"]:
        """See ``MaskSegmenter``; what no mask covers is background, too, where there is such a class."""
        if self._apart():
            scores = torch.cat([scores, (1 - scores.sum(dim=0, keepdim=True)).clamp_min(0)])
        return super().refine(scores, image)

    def _apart(self) -> bool:
        """Whether there is a background that is none of the names."""
        return bool(self.background) or self.least > 0

    def settings(self) -> dict[str, Any]:
        """See ``Segmenter``."""
        return super().settings() | {"synonyms": {name: list(some) for name, some in self.synonyms.items()}}

    def amounts(self, seen: SeenImage) -> Float[Tensor, "b t r c"]:
        """See ``MaskSegmenter``."""
        assert isinstance(self._found, NamedMasks)  # class_rows has seen to it
        rows = self.rows.to(seen.features)
        return self._found(seen, rows, scale=self.scale, synonyms=self._counts)
