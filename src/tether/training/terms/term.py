"""What a term of a step's loss is, and what it sees."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import Tensor, nn

from tether.core.gather import Gather
from tether.core.geometry import Geometry
from tether.core.types import Batch, Features, Loss

LABELS = {"text": "labels", "negative_text": "negative_labels"}
"""Where a batch's extra holds the labels of its texts, equal where captions mean the same."""
DENSE = ("seg", "depth", "normal")
"""In the ``about`` of a view of images: what is known of their pixels, see ``data.dense_labels``."""
LOGIT_SCALE = "logit_scale"
"""In the ``about`` of a view that another encoder reads: what that one multiplies its cosines by."""


@dataclass(frozen=True, slots=True)
class SeenView:
    """One view after it was encoded.

    Attributes:
        rows: images or token ids, as the model saw them.
        features: what came out; with gradient, unless a frozen encoder read it.
        about: what else belongs to the rows, such as ``labels``, equal where captions mean the same.
    """

    rows: Tensor
    features: Features
    about: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class TermInputs:
    """What the terms of one step are made of.

    Attributes:
        batch: as the loader gave it.
        views: by name; an optional view that the batch does not have is missing.
        extra: for each side what the model's tower tells besides, summed over all its views.
        heads: trainable modules by name.
        logit_scale: of the model, already exponentiated.
        logit_bias: of the model, or None.
        geometry: what the model compares embeddings with.
        trailing: copies that trail some of the heads, by the same names: those of ``Term.trailed``, and of heads with a
            ``momentum`` of their own.
        read: embeddings by the step's teacher of other images of its size, without gradient; None without a teacher.
    """

    batch: Batch
    views: Mapping[str, SeenView]
    extra: Mapping[str, Mapping[str, Tensor]]
    heads: Mapping[str, nn.Module]
    logit_scale: Tensor
    logit_bias: Tensor | None
    geometry: Geometry
    trailing: Mapping[str, nn.Module] = field(default_factory=dict)
    read: Callable[[Tensor], Tensor] | None = None


class Term(abc.ABC):
    """Something that is added to a step's loss.

    One that learns by itself, without gradient, is a ``core.protocols.Stateful``.

    Attributes:
        views: names of the views it looks at, by the setting that names them; none where it looks at what the towers
            tell of all of them.
        heads: names of the modules it calls, by the setting that names them.
        trailed: names of the modules whose trailing copy it calls; without a ``momentum`` they trail by the teacher's.
    """

    views: Mapping[str, str] = MappingProxyType({})
    heads: Mapping[str, str] = MappingProxyType({})
    trailed: Sequence[str] = ()

    @abc.abstractmethod
    def __call__(self, seen: TermInputs, *, step: int, gather: Gather) -> Sequence[Loss]:
        """What is added, one by one, over this process's rows; the mean over processes is that of the whole batch."""
