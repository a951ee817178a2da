"""The module that a step trains: the model and what the terms learn, in the one forward that is wrapped."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tether.core.gather import Gather, process_gather
from tether.core.ranges import Count, checked
from tether.core.types import Batch, Features, Loss
from tether.models.encoders.tower_parts import Side
from tether.models.encoders.wrapped import WrappedEncoder
from tether.models.features.kept_patches import encode_patches
from tether.models.towers.clip import Clip, Want
from tether.models.towers.vision.masked_patches import MaskedPatchEmbed

Encoder = Clip | WrappedEncoder
ViewWant = Want | Literal["dense", "state", "states", "map"]


@dataclass(frozen=True, slots=True)
class ViewRows:
    """What one view gives to the model.

    Attributes:
        side: the tower that reads it.
        rows: (b, 3, h, w) images or (b, l) token ids.
        keep: (b, k) the patches that are seen, or None for all.
        want: ``tokens`` also asks for patches or words in the joint space, see ``models.features.dense``; ``dense`` for
            patches that the last block does not mix, see ``models.features.dense_regions``; ``state`` for what images'
            embeddings are projected from, ``states`` for each token's, and ``map`` for their tower's last map, see
            ``models.features.penultimate``.
        about: further tensors for the terms, by name.
        fixed: whether the row of a batch is the same each time it comes, so that what is made of it may be kept.
        names: keys of the images in the run's data, where they are its own, for a look into what is kept.
    """

    side: Side
    rows: Tensor
    keep: Tensor | None = None
    want: ViewWant = "pooled"
    about: Mapping[str, Tensor] = field(default_factory=dict)
    fixed: bool = True
    names: Sequence[str] | None = None

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Views with equal keys share one forward pass. Texts need not have equal length: they are padded."""
        if self.side == "text":
            return "text", self.want, self.fixed
        kept = None if self.keep is None else self.keep.shape[1]
        return "image", self.want, self.fixed, self.rows.shape[1:], self.rows.dtype, kept


Kept = Callable[[ViewRows], Features | None]


class StepModule(nn.Module):
    """A model and the modules that terms train, with one ``forward`` for DDP and FSDP2 to hook into.

    ``forward`` runs a function on the module itself: whatever it encodes, and the loss it makes of that, happen inside
    the wrapper.

    With ``micro_batch`` the rows are encoded a slice at a time and only the embeddings are kept; the backward encodes
    each slice again. The loss still sees the whole batch, so the result is that of the large batch with the activation
    memory of a small one (the idea of GradCache, arXiv 2101.06983, by recomputation).

    Attributes:
        model: the encoder, the only part that is saved as a model.
        heads: modules of the terms, by name.
    """

    @checked
    def __init__(
        self,
        model: Encoder,
        *,
        micro_batch: Count | None = None,
        heads: Mapping[str, nn.Module] | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Take the parts.

        Args:
            model: the encoder.
            micro_batch: images encoded at once, or None for all.
            heads: see the class.
            kept: gives the features of views that need not be encoded, None of others.
        """
        super().__init__()
        self.model = model
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.micro_batch, self.kept = micro_batch, kept

    def forward(
        self, make_loss: Callable[..., Loss], *arguments: Any, **keywords: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """``make_loss(self, ...)``, as a tuple: wrappers look for tensors in tuples and dictionaries only."""
        loss = make_loss(self, *arguments, **keywords)
        return loss.total + self._nothing() if process_gather().world > 1 else loss.total, dict(loss.terms)

    def _nothing(self) -> Tensor | float:
        """Zero, with gradient to what a loss may leave out: DDP waits for the gradient of every parameter."""
        vectors = [part.vector for part in self.model.modules() if isinstance(part, MaskedPatchEmbed)]
        idle = [one for one in (self.model.logit_bias, *vectors) if one is not None and one.requires_grad]
        return sum((0.0 * one.sum() for one in idle), start=0.0)


def encode_views(
    module: StepModule, views: Mapping[str, ViewRows]
) -> tuple[dict[str, Features], dict[str, dict[str, Tensor]]]:
    """Features of every view, and for each side the towers' extras, summed over all its views.

    Views with equal keys share one forward pass.

    Args:
        module: whose model encodes them, ``micro_batch`` rows at once.
        views: rows by name.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name, view in views.items():
        groups.setdefault(view.batch_key, []).append(name)
    joined = [_joined([views[name] for name in names]) for names in groups.values()]
    found: dict[str, Features] = {}
    extra: dict[str, dict[str, Tensor]] = {"image": {}, "text": {}}
    ready = [None if module.kept is None else module.kept(batch) for batch in joined]
    todo = [batch for batch, one in zip(joined, ready, strict=True) if one is None]
    encoded = iter(_encode(module.model, todo, micro_batch=module.micro_batch) if todo else [])
    for names, batch, one in zip(groups.values(), joined, ready, strict=True):
        features = next(encoded) if one is None else one
        sums = extra[batch.side]
        for key, value in features.extra.items():
            sums[key] = sums[key] + value if key in sums else value
        found |= _apart(features, {name: len(views[name].rows) for name in names})
    return found, extra


def _encode(model: Encoder, batches: Sequence[ViewRows], *, micro_batch: int | None) -> list[Features]:
    images = [len(batch.rows) for batch in batches if batch.side == "image"]
    most = max(images or [len(batch.rows) for batch in batches])
    if micro_batch is None or micro_batch >= most:
        return [run_tower(model, batch.side, batch.rows, batch.keep, batch.want) for batch in batches]
    parts: list[list[Features]] = [[] for _ in batches]
    for number in range(-(-most // micro_batch)):  # towers by turns, as the backward of shared towers adds up in order
        for batch, done in zip(batches, parts, strict=True):
            rows = micro_batch * -(-len(batch.rows) // most)
            part = slice(number * rows, (number + 1) * rows)
            if part.start >= len(batch.rows):
                continue
            keep = None if batch.keep is None else batch.keep[part]
            done.append(
                checkpoint(run_tower, model, batch.side, batch.rows[part], keep, batch.want, use_reentrant=False)
            )
    return [joined_features(part) for part in parts]


def run_tower(model: Encoder, side: Side, rows: Tensor, keep: Tensor | None, want: ViewWant) -> Features:
    """What one tower of a model makes of a view's rows."""
    if want == "tokens":
        from tether.models.features.dense import dense_image, dense_text

        return dense_image(model, rows, keep=keep) if side == "image" else dense_text(model, rows)
    if want == "dense":
        from tether.models.features.dense_regions import dense_patches

        return dense_patches(model, rows)
    if want != "pooled":
        from tether.models.features.penultimate import image_map, image_state, image_tokens

        if want == "map":
            return image_map(model, rows)
        return image_state(model, rows, keep=keep) if want == "state" else image_tokens(model, rows, keep=keep)
    if side == "text":
        return model.encode_text(rows)
    if keep is None:
        return model.encode_image(rows)
    return encode_patches(model, rows, keep=keep)


def loss_inside(module: nn.Module, make_loss: Callable[..., Loss], *arguments: Any, **keywords: Any) -> Loss:
    """``make_loss(step_module, ...)``, run inside the forward of the (wrapped) StepModule."""
    return Loss(*module(make_loss, *arguments, **keywords))


class InsideStep(abc.ABC):
    """A ``core.protocols.Step`` whose loss is made inside the forward of the (wrapped) StepModule."""

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step."""
        return loss_inside(model, self.loss_of, batch, step=step, gather=gather)

    @abc.abstractmethod
    def loss_of(self, module: StepModule, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """The loss of a batch."""


def _joined(views: Sequence[ViewRows]) -> ViewRows:
    """Views of one key below each other; texts get the length of the longest."""
    first = views[0]
    if len(views) == 1:
        return first
    keep = None if first.keep is None else torch.cat([view.keep for view in views if view.keep is not None])
    rows = [view.rows for view in views]
    joined = torch.cat(rows) if first.side == "image" else joined_texts(rows)
    names = [name for view in views for name in view.names or ()]
    return replace(first, rows=joined, keep=keep, names=names if len(names) == len(joined) else None)


def joined_texts(texts: Sequence[Tensor]) -> Tensor:
    """Token ids of several batches below each other, (sum of b, longest l), zero after the end tokens."""
    width = max(text.shape[1] for text in texts)
    return torch.cat([nn.functional.pad(text, (0, width - text.shape[1])) for text in texts])


def joined_features(parts: Sequence[Features]) -> Features:
    """Slices of one batch: rows follow each other, extras add up."""

    def cat(tensors: Sequence[Tensor | None]) -> Tensor | None:
        present = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(present) if present else None

    extra = {name: torch.stack([part.extra[name] for part in parts]).sum(0) for name in parts[0].extra}
    pooled = torch.cat([part.pooled for part in parts])
    return Features(pooled, cat([part.tokens for part in parts]), cat([part.mask for part in parts]), extra)


def _apart(features: Features, rows: Mapping[str, int]) -> dict[str, Features]:
    """The features of each view of a batch; extras are sums over all of it and belong to none."""
    if len(rows) == 1:
        return {name: Features(features.pooled, features.tokens, features.mask) for name in rows}
    found, start = {}, 0
    for name, count in rows.items():
        part = slice(start, start := start + count)
        tokens, mask = (None if x is None else x[part] for x in (features.tokens, features.mask))
        found[name] = Features(features.pooled[part], tokens, mask)
    return found
