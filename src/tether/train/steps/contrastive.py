"""From a batch to a loss: the pair forward that is wrapped for many processes, and the contrastive step on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tether.core.errors import InputError
from tether.core.gather import Gather
from tether.core.geometry import Geometry, GeometryName, geometry_of
from tether.core.hash_rng import hash_int
from tether.core.protocols import Drawing, Objective, Scheduled
from tether.core.types import Batch, Encoded, Features, Loss
from tether.models.dense import dense_image, dense_text
from tether.models.dual import Clip
from tether.models.wrapped_encoders import WrappedEncoder

Side = tuple[Tensor, dict[str, Tensor]]
"""Pooled embeddings (b, d) of one tower, and its extras; with ``want="tokens"`` also tokens in the joint space."""
Want = Literal["pooled", "tokens"]
TOKENS, REAL = "tokens", "real tokens"
"""Where a side's extras hold the tokens (b, n, d), and which of them are real; rows, where all others are sums."""
Outputs = tuple[Side, Side, Tensor, Tensor | None, tuple[GeometryName, Tensor | float | None]]
"""Images, texts, logit scale, logit bias, and the geometry's name and curvature: tuples and dictionaries only, which
DDP and FSDP2 can look into."""


class PairForward(nn.Module):
    """Both towers in one ``forward``, which is what DDP and FSDP2 hook into.

    With ``micro_batch`` the pairs are encoded a slice at a time and only the embeddings are kept; the backward
    encodes each slice again. The loss still sees the whole batch, so the result is that of the large batch with the
    activation memory of a small one (the idea of GradCache, arXiv 2101.06983, by recomputation).

    There may be a whole number of texts for each picture, such as a caption and its hard negative; a slice then has as
    many times more texts.
    """

    def __init__(self, model: Clip | WrappedEncoder, *, micro_batch: int | None = None) -> None:
        """Args: model: the encoder, a Module. micro_batch: pairs encoded at once, or None for all."""
        super().__init__()
        if micro_batch is not None and micro_batch < 1:
            raise InputError(f"micro_batch: expected at least 1, got {micro_batch}")
        self.model = model
        self.micro_batch = micro_batch

    def forward(self, image: Tensor, text: Tensor, keep: Tensor | None = None, want: Want = "pooled") -> Outputs:
        """Both sides' embeddings and extras, scale, bias and geometry; ``encoded`` makes an ``Encoded`` of them."""
        size = self.micro_batch
        if size is None or size >= len(image):
            sides = self._encode(image, text, keep, want)
        else:
            ratio, rest = divmod(len(text), len(image))
            if rest:
                raise InputError(f"expected a whole number of texts for each of {len(image)} pictures, got {len(text)}")
            slices = [slice(start, start + size) for start in range(0, len(image), size)]
            parts = [
                checkpoint(
                    self._encode,
                    image[s],
                    text[ratio * s.start : ratio * s.stop],
                    None if keep is None else keep[s],
                    want,
                    use_reentrant=False,
                )
                for s in slices
            ]
            images, texts = zip(*parts, strict=True)
            sides = (_joined(images), _joined(texts))
        geometry = geometry_of(self.model)
        return (*sides, self.model.logit_scale, self.model.logit_bias, (geometry.name, geometry.curvature))

    def _encode(self, image: Tensor, text: Tensor, keep: Tensor | None, want: Want) -> tuple[Side, Side]:
        if want == "tokens":
            return _with_tokens(dense_image(self.model, image, keep=keep)), _with_tokens(dense_text(self.model, text))
        if keep is None:
            images = self.model.encode_image(image)
        else:
            assert isinstance(self.model, Clip)  # checked when the patches were counted
            images = self.model.encode_image(image, keep=keep)
        texts = self.model.encode_text(text)
        return (images.pooled, dict(images.extra)), (texts.pooled, dict(texts.extra))


def encoded(outputs: Outputs) -> Encoded:
    """What a ``PairForward`` gave, as an objective takes it."""
    (image, image_extra), (text, text_extra), scale, bias, (name, curvature) = outputs
    images, texts = _features(image, image_extra), _features(text, text_extra)
    return Encoded(images, texts, scale, bias, geometry=Geometry(name, curvature))


def _joined(parts: Sequence[Side]) -> Side:
    """Slices of one side: embeddings follow each other, extras add up."""
    found = {name: [part[1][name] for part in parts] for name in parts[0][1]}
    extra = {
        name: torch.cat(each) if name in (TOKENS, REAL) else torch.stack(each).sum(0) for name, each in found.items()
    }
    return torch.cat([part[0] for part in parts]), extra


def _with_tokens(features: Features) -> Side:
    extra = dict(features.extra)
    if features.tokens is not None:
        extra[TOKENS] = features.tokens
    if features.mask is not None:
        extra[REAL] = features.mask
    return features.pooled, extra


def _features(pooled: Tensor, extra: dict[str, Tensor]) -> Features:
    sums = {name: value for name, value in extra.items() if name not in (TOKENS, REAL)}
    return Features(pooled, extra.get(TOKENS), extra.get(REAL), sums)


class ContrastiveStep:
    """Encode a batch of pairs, ask the objective; optionally look at only some of each picture's patches.

    Dropped patches never reach the projection, so half the patches cost about half the image tower (FLIP,
    arXiv 2212.00794). A last stretch at full length closes the gap to test time.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        steps: int,
        seed: int,
        keep_patches: float = 1.0,
        full_last: float = 0.0,
        want: Want = "pooled",
    ) -> None:
        """Args: the loss and how much of a picture is seen.

        objective: the loss.
        steps: length of the run.
        seed: of the patch choice, which depends on (seed, step) alone and not on the number of processes.
        keep_patches: share of the patches that is kept, in (0, 1].
        full_last: last share of the run that sees every patch, in [0, 1].
        want: ``tokens`` also gives the objective parts and words in the joint space, see ``models.dense``.
        """
        if want not in ("pooled", "tokens"):
            raise InputError(f"want: expected 'pooled' or 'tokens', got {want!r}")
        self.want: Want = want
        if not 0 < keep_patches <= 1 or not 0 <= full_last <= 1:
            raise InputError(
                f"expected keep_patches in (0, 1] and full_last in [0, 1], got {keep_patches}, {full_last}"
            )
        self.objective, self.seed = objective, seed
        self.keep_patches = keep_patches
        self._last = max(1, steps - 1)
        self.full_from = round(steps * (1 - full_last))

    def __call__(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Loss:
        """See core.protocols.Step; ``model`` is a (wrapped) PairForward."""
        out = self.encode(model, batch, step=step, gather=gather)
        return self.objective_at(step)(out, batch, gather=gather)

    def objective_at(self, step: int) -> Objective:
        """The loss of one step; most are the same throughout. Chance depends on (seed, step) alone."""
        objective = self.objective
        if isinstance(objective, Scheduled):
            objective = objective.at(step / self._last)
        if isinstance(objective, Drawing):
            objective = objective.drawn(hash_int(str(step), seed=self.seed, salt="objective"))
        return objective

    def encode(self, model: nn.Module, batch: Batch, *, step: int, gather: Gather) -> Encoded:
        """The batch as the objective will see it, for steps that add something of their own."""
        keep = self.patches(model, rows=len(batch.image), step=step, gather=gather)
        seen = None if keep is None else keep.to(batch.image.device, non_blocking=True)
        more = () if self.want == "pooled" else (self.want,)
        return encoded(model(batch.image, batch.text, seen, *more))

    def patches(self, model: nn.Module, *, rows: int, step: int, gather: Gather) -> Tensor | None:
        """(rows, k) indices of the patches that pictures of this process show at this step, or None for all."""
        if self.keep_patches == 1 or step >= self.full_from:
            return None
        return self._choose(rows, patch_count(model), step, gather)

    def _choose(self, rows: int, patches: int, step: int, gather: Gather) -> Tensor:
        count = max(1, round(self.keep_patches * patches))
        generator = torch.Generator().manual_seed(hash_int(str(step), seed=self.seed, salt="patches") >> 1)
        order = torch.rand(rows * gather.world, patches, generator=generator).argsort(dim=1)
        return order[gather.rank * rows : (gather.rank + 1) * rows, :count].sort(dim=1).values


def patch_count(model: nn.Module) -> int:
    """Patches of one picture in a tower of ours.

    Raises:
        InputError: the tower cannot drop patches (wrapped models).
    """
    encoder = next(module.model for module in model.modules() if isinstance(module, PairForward))
    if not isinstance(encoder, Clip):
        raise InputError(f"keep_patches: {type(encoder).__name__} cannot drop patches; use keep_patches=1")
    down, across = encoder.config.vision.grid
    return down * across
