"""Before and after: own data, data that must not be forgotten, and what had to rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tether.adaptation.heads import Head, MasksHead, OrderHead
from tether.adaptation.recipes import Given, Kind
from tether.core.geometry import geometry_of
from tether.core.protocols import DualEncoder, Source
from tether.data.in_order import ordered
from tether.evaluate.adaptation import MEASURES, Compared, Pictured, class_figures, recall_figure
from tether.evaluate.adaptation.figures import class_weights_of
from tether.evaluate.adaptation.report import Frozen
from tether.evaluate.embeddings import Embedded, embed_source
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.embed import encode_images, encode_texts
from tether.models.encoders.tower_parts import SIDES
from tether.models.features.image_digest import image_digest
from tether.tasks.classify.zero_shot import class_weights
from tether.workflows.adaptation.data import words_of

LEAST = 2
"""Images that recall is measured on, at least."""
KEEP = "emoji:split=test"
KEEP_LIMIT = 300
"""The set that is looked at where no data to keep are named: drawings with their names, which nobody adapts to."""


class Measurer:
    """Measures models on one held-out part, always on the same rows; those of the base are embedded once.

    Attributes:
        kind: of data.
        test: the part, or None.
        keep: the source that must not be forgotten, or None.
    """

    def __init__(
        self,
        base: DualEncoder,
        given: Given,
        *,
        test: Source | None,
        keep: Source | None,
        keep_limit: int | None,
        templates: Sequence[str] | None,
        brought: bool = False,
    ) -> None:
        """Take the parts; nothing is measured yet.

        Args:
            base: the model before.
            given: what the recipe got.
            test: the part to measure on.
            keep: data that must not be forgotten.
            keep_limit: rows of them that are looked at.
            templates: of class names.
            brought: whether the part to measure on was brought, and so may have classes or captions of its own.
        """
        self._brought = brought
        self.base, self.given, self.test, self.keep = base, given, test, keep
        self.kind: Kind = given.kind
        self._limit, self._templates = keep_limit, templates
        self._seen: dict[tuple[str, str], Embedded] = {}

    def own(
        self,
        model: DualEncoder | None,
        head: Head | None,
        *,
        aims: Sequence[str] = (),
        columns: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Compared]:
        """Figures of the held-out part: of the base against a model, or a head on either.

        Args:
            model: what came of the base; None takes the base.
            head: what names images; None takes the texts of the classes.
            aims: names of ``evaluate.adaptation.MEASURES``.
            columns: of the data, by what those call them.
        """
        if self.test is None:
            return []
        after = self.base if model is None else model
        before_seen, after_seen = self._embedded(self.base, self.test), self._embedded(after, self.test)
        found: list[Compared] = []
        of_masks = isinstance(head, MasksHead)
        said: tuple[Tensor, Tensor] | None = None
        if of_masks and model is None:
            pass  # whole images are named as by the base
        elif self.kind == "labels":
            labels = torch.tensor([int(name) for name in before_seen.labels])
            first = self._probability(self.base, before_seen.image, self.given.class_text)
            text = self.given.class_text if model is None else self._class_text(after)
            if head is None:
                last = self._probability(after, after_seen.image, text)
            else:
                last = F.softmax(head.logits(self._read(head, after, after_seen, self.test)), dim=1)
            said = first, last
            found += class_figures(first, last, labels=labels)
        elif self.kind == "pairs" and len(before_seen.image) < LEAST:
            pass  # the tenth of a few images
        elif self.kind == "pairs":
            found.append(recall_figure(before_seen, after_seen))
        elif isinstance(head, OrderHead):
            geometry = geometry_of(self.base).detached()
            text = geometry.points(encode_texts(CachedEncoder(self.base), head.classes))
            alone = geometry.similarity(geometry.points(before_seen.image), text)
            said = alone, head.logits(self._read(head, after, after_seen, self.test))
        elif self._brought:
            found += self._general(before_seen, after_seen, after)
        seen = Pictured(
            self.test,
            self.base,
            after,
            before_seen,
            after_seen,
            said=said,
            columns=columns,
            texts=head.classes if isinstance(head, OrderHead) else (),
            head=head,
        )
        asked = [figure for name in aims for figure in MEASURES[name]()(seen)]
        return asked + found if of_masks else found + asked

    def kept(self, model: DualEncoder | None) -> list[Compared]:
        """Figures of the data that must not be forgotten; none for a model that has not changed."""
        if model is None or self.keep is None:
            return []
        before, after = (self._embedded(one, self.keep, limit=self._limit) for one in (self.base, model))
        return self._general(before, after, model)

    def _general(self, before: Embedded, after: Embedded, model: DualEncoder) -> list[Compared]:
        """Figures of any source: accuracy where it has classes, recall where it has captions."""
        if len(before.classes) > 1:
            first, last = (
                self._probability(one, seen.image, class_weights(one, words_of(seen.classes)))
                for one, seen in ((self.base, before), (model, after))
            )
            return class_figures(first, last, labels=before.label_numbers)
        return [recall_figure(before, after)] if len(before.text) and len(before.image) > 1 else []

    def score(self, model: DualEncoder, part: Source) -> float:
        """How good a model is on a part, to choose by: accuracy over the classes of labelled images, else recall."""
        seen = self._embedded(model, part)
        if self.kind == "labels":
            labels = torch.tensor([int(name) for name in seen.labels])
            found = self._probability(model, seen.image, self._class_text(model))
            weights = class_weights_of(labels)
            return float((weights * (found.argmax(dim=1) == labels)).sum() / weights.sum())
        return recall_figure(seen, seen).after.value

    @staticmethod
    def _read(head: Head, model: DualEncoder, seen: Embedded, source: Source) -> Float[Tensor, "n d"]:
        """The rows that a head takes of the images that were seen: embeddings, or what it reads in their place."""
        reader = head.reader(model)
        if reader is model:
            return seen.image
        batches = ordered(source, image_spec=reader.image_spec, batch_size=256)
        return encode_images(reader, (pixels for _, pixels in batches))

    def _class_text(self, model: DualEncoder) -> Tensor:
        return class_weights(model, words_of(self.given.classes), templates=self._templates)

    @staticmethod
    def _probability(model: DualEncoder, image: Tensor, text: Tensor) -> Float[Tensor, "n c"]:
        geometry = geometry_of(model).detached()
        return F.softmax(float(model.logit_scale.detach()) * geometry.similarity(geometry.points(image), text), dim=1)

    def _embedded(self, model: DualEncoder, source: Source, *, limit: int | None = None) -> Embedded:
        """Rows of a source; those of the base, and of sides that are the base's, through the feature cache."""
        if self.kind == "texts" and source is self.test and not self._brought:
            return _texts_alone(model, source)
        if model is self.base:
            key = source.name, source.version
            if key not in self._seen:
                self._seen[key] = embed_source(CachedEncoder(model), source, limit=limit)
            return self._seen[key]
        same = [
            side
            for side in SIDES
            if side_digest(cast(nn.Module, model), side) == side_digest(cast(nn.Module, self.base), side)
        ]
        return embed_source(CachedEncoder(model, sides=same), source, limit=limit)


def _texts_alone(model: DualEncoder, source: Source) -> Embedded:
    """The rows of a source of texts without images."""
    rows = [row for block in source.blocks() for row in source.read(block)]
    captions = tuple(text for row in rows for text in row.texts)
    text, nothing = encode_texts(model, captions), torch.empty(0, model.dim)
    return Embedded(tuple(row.key for row in rows), captions, (), nothing, text, torch.arange(len(captions)))


def rows_of(source: Source | None) -> int:
    """How many rows a source has that are not bad; 0 without one."""
    return 0 if source is None else sum(not row.bad for block in source.blocks() for row in source.read(block))


def resting(base: DualEncoder, model: DualEncoder | None, *, free: frozenset[str] | None) -> Frozen:
    """Compare two models tensor by tensor.

    Args:
        base: as it was.
        model: what came of it; None where the base itself is the result.
        free: names of the tensors that were free to change; None are those that did.
    """
    before = cast(nn.Module, base).state_dict()
    if model is None:
        return Frozen(len(before), (), 0, image_side=True, text_side=True)
    after = cast(nn.Module, model).state_dict()
    changed = {name for name, value in before.items() if name not in after or not _same(value, after[name])}
    allowed = changed if free is None else free
    return Frozen(
        resting=len(set(before) - allowed),
        changed=sorted(changed - allowed),
        free=len(set(before) & allowed),
        image_side=image_digest(base) == image_digest(model),
        text_side=_text_same(base, changed),
        same=not changed and len(after) == len(before),
    )


def _text_same(base: DualEncoder, changed: set[str]) -> bool:
    """Whether no tensor that a text's embedding depends on has changed."""
    from tether.adaptation.recipes.moving import prefixes

    begins = tuple(f"{one}." for one in prefixes(base, "text"))
    return not any(f"{name}.".startswith(begins) for name in changed)


def _same(first: Tensor, second: Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    one, other = (value.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for value in (first, second))
    return torch.equal(one, other)
