"""Latents as numbers of codewords: a coarse map first, then what is left of it, scale by scale."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Le, MaxLen, MinLen
from jaxtyping import Float
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.hash_rng import hash_int
from tether.core.ranges import Count, Decay, NonNegative, Share, Whole, checked

Scales = Annotated[tuple[Count, ...], MinLen(1), MaxLen(64)]
Vocabulary = Annotated[int, Ge(2), Le(2**20)]
Shared = Annotated[int, Ge(0), Le(64)]
_MEMORY = 0.9
"""How much of what was counted of a codeword is kept over a step."""


class MultiScaleQuantizer(nn.Module):
    """Square maps of features as one codeword for each place of each scale, the scales adding up (VAR's tokenizer).

    What is left of a map is averaged down to a scale, each place becomes its nearest codeword, and these, enlarged and
    smoothed by a convolution (``phi``), are taken away from it; the last scale is that of the map itself. Distances and
    sums are in float32 whatever comes in. As a bottleneck of an auto-encoder it lets the gradient through to what it
    was given, and its penalty pulls features and codewords together.

    Source: VAR-CLIP (arXiv 2408.01181) and its ``models/quant.py``. That codewords which nothing chooses begin anew at
    a feature of the batch (``restart``) is ours: a small vocabulary would otherwise fall together.

    Attributes:
        scales: side of the map of each scale, rising; the last is that of the features.
        codewords: (v, c) table.
        used: (v,) how often each codeword was chosen of late, in training.

    Example:
        >>> import torch
        >>> from tether.models.latent.quantizer import MultiScaleQuantizer
        >>> quantizer = MultiScaleQuantizer(vocab=16, channels=4, scales=(1, 2, 4)).eval()
        >>> features = torch.randn(2, 4, 4, 4)
        >>> found = quantizer.encode(features)
        >>> [tuple(one.shape) for one in found], torch.allclose(quantizer.decode(found), quantizer(features)[0])
        ([(2, 1), (2, 4), (2, 16)], True)
    """

    outputs = 1
    """Numbers that an encoder gives for each of a latent."""
    weight = 1.0
    """Of its penalty in the loss of an auto-encoder."""

    @checked
    def __init__(
        self,
        vocab: Vocabulary,
        channels: Count,
        scales: Scales,
        znorm: bool = False,
        phi: Shared = 4,
        ratio: Share = 0.5,
        *,
        beta: NonNegative = 0.25,
        restart: Decay = 0.03,
        seed: Whole = 0,
    ) -> None:
        """Draw codewords and convolutions from torch's generator.

        Args:
            vocab: codewords.
            channels: of the features.
            scales: see the class.
            znorm: choose the codeword of the largest cosine, in place of the nearest.
            phi: how many convolutions the scales share; 0 gives each its own.
            ratio: share of the convolution in what a scale adds; 0 has none.
            beta: weight of what pulls features to codewords, against 1 of the other way.
            restart: codewords chosen less often than this share of an equal one begin anew in training; 0 restarts
                none.
            seed: of the features that they begin at.

        Raises:
            InputError: scales that do not rise.
        """
        super().__init__()
        if any(after <= before for before, after in itertools.pairwise(scales)):
            raise InputError(f"scales: expected rising sides of maps, got {tuple(scales)}")
        self.scales, self.znorm, self.ratio, self.beta = tuple(scales), znorm, ratio, beta
        self.restart, self.seed = restart, seed
        self.codewords = nn.Parameter(torch.empty(vocab, channels).uniform_(-1 / vocab, 1 / vocab))
        count = phi or len(scales)
        self.phi = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(count if ratio else 0))
        edge = 1 / (3 if count == 4 else 2) / count
        ticks, last = np.linspace(edge, 1 - edge, count), max(1, len(scales) - 1)
        self.phi_of_scale = tuple(int(np.abs(ticks - k / last).argmin()) for k in range(len(scales)))
        self.register_buffer("used", torch.ones(vocab))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def channels(self) -> int:
        """Of the features."""
        return self.codewords.shape[1]

    @property
    def side(self) -> int:
        """Of the features' map."""
        return self.scales[-1]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Places of each scale."""
        return tuple(side**2 for side in self.scales)

    def forward(
        self, features: Float[Tensor, "b c h w"], noise: Tensor | None = None
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, ""]]:
        """Features as their codewords have them, and the penalty; in training dead codewords begin anew.

        Args:
            features: (b, channels, side, side).
            noise: nothing; other bottlenecks have it.

        Raises:
            InputError: a map of another size or other channels.
        """
        del noise
        self._check(features)
        kind, features = features.dtype, features.float()
        with torch.autocast(features.device.type, enabled=False):
            rest, made = features.detach(), torch.zeros_like(features)
            penalty = features.new_zeros(())
            looked, chosen = list[Tensor](), list[Tensor]()
            for scale in range(len(self.scales)):
                rows = self._rows(rest, scale)
                ids = self._nearest(rows)
                added = self._added(self.codewords[ids], scale)
                made, rest = made + added, rest - added.detach()
                penalty = penalty + self.beta * F.mse_loss(features, made.detach())
                penalty = penalty + F.mse_loss(made, features.detach())
                looked.append(rows.flatten(0, 1))
                chosen.append(ids.flatten())
            if self.training:
                self._renew_(torch.cat(looked), torch.cat(chosen))
            return (features + (made - features).detach()).to(kind), penalty / len(self.scales)

    @torch.no_grad()
    def encode(self, features: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """(b, side * side) numbers of codewords for each scale, row by row.

        Raises:
            InputError: a map of another size or other channels.
        """
        self._check(features)
        rest, found = features.float(), list[Tensor]()
        with torch.autocast(rest.device.type, enabled=False):
            for scale in range(len(self.scales)):
                ids = self._nearest(self._rows(rest, scale))
                rest = rest - self._added(self.codewords[ids], scale)
                found.append(ids)
        return found

    def decode(self, ids: Sequence[Tensor]) -> Float[Tensor, "b c h w"]:
        """Features of the codewords of all scales.

        Raises:
            InputError: another number of scales or places, or numbers that no codeword has.
        """
        return self.partial(ids)[-1]

    def partial(self, ids: Sequence[Tensor]) -> list[Float[Tensor, "b c h w"]]:
        """Features after each of the first scales, the sums up to it.

        Raises:
            InputError: see ``decode``.
        """
        if not 1 <= len(ids) <= len(self.scales):
            raise InputError(f"ids: expected one tensor for each of 1 to {len(self.scales)} scales, got {len(ids)}")
        found, made = list[Tensor](), None
        for scale, some in enumerate(ids):
            if some.ndim != 2 or some.shape[1] != self.lengths[scale]:
                raise InputError(f"ids[{scale}]: expected (b, {self.lengths[scale]}), got {tuple(some.shape)}")
            if some.numel() and not (some.min() >= 0 and some.max() < len(self.codewords)):
                known = f"0 to {len(self.codewords) - 1}"
                raise InputError(f"ids[{scale}]: expected numbers in {known}, got {some.min()} to {some.max()}")
            made = self.add(made, self.codewords[some], scale=scale)
            found.append(made)
        return found

    def add(
        self, made: Float[Tensor, "b c h w"] | None, rows: Float[Tensor, "b l c"], *, scale: int
    ) -> Float[Tensor, "b c h w"]:
        """What was made up to a scale, with what the rows of this scale add; None is nothing yet."""
        added = self._added(rows, scale)
        return added if made is None else made + added

    def told(self, made: Float[Tensor, "b c h w"], *, scale: int) -> Float[Tensor, "b l c"]:
        """What a scale is told of those before it: their sum, averaged down to its side, row by row."""
        side = self.scales[scale]
        return F.interpolate(made, size=(side, side), mode="area").flatten(2).transpose(1, 2)

    def teacher_input(self, ids: Sequence[Tensor]) -> Float[Tensor, "b n c"]:
        """What all scales but the first are told where those before them are known, one scale after the other.

        Raises:
            InputError: see ``decode``.
        """
        if len(ids) == 1:
            return self.codewords.new_zeros(len(ids[0]), 0, self.channels)
        made = self.partial(ids[: len(self.scales) - 1])
        return torch.cat([self.told(one, scale=scale + 1) for scale, one in enumerate(made)], dim=1)

    def _check(self, features: Tensor) -> None:
        wanted = (self.channels, self.side, self.side)
        if features.ndim != 4 or tuple(features.shape[1:]) != wanted:
            raise InputError(
                f"features: expected (b, {', '.join(map(str, wanted))}), whose side is the last scale, "
                f"got {tuple(features.shape)}"
            )

    def _rows(self, rest: Tensor, scale: int) -> Tensor:
        """(b, l, c) of what is left, at a scale."""
        if scale == len(self.scales) - 1:
            return rest.flatten(2).transpose(1, 2)
        return self.told(rest, scale=scale)

    @torch.no_grad()
    def _nearest(self, rows: Tensor) -> Tensor:
        table = self.codewords.float()
        if self.znorm:
            return (F.normalize(rows, dim=-1) @ F.normalize(table, dim=1).T).argmax(dim=-1)
        return (rows.square().sum(-1, keepdim=True) + table.square().sum(1) - 2 * rows @ table.T).argmin(dim=-1)

    def _added(self, rows: Tensor, scale: int) -> Tensor:
        """(b, l, c) rows of a scale as a map of features, enlarged and smoothed."""
        side = self.scales[scale]
        found = rows.transpose(1, 2).unflatten(2, (side, side))
        if scale < len(self.scales) - 1:
            found = F.interpolate(found, size=(self.side, self.side), mode="bicubic")
        if not self.ratio:
            return found
        return (1 - self.ratio) * found + self.ratio * self.phi[self.phi_of_scale[scale]](found)

    @torch.no_grad()
    def _renew_(self, rows: Tensor, ids: Tensor) -> None:
        """Count what was chosen, relative to an equal share; what is hardly chosen begins anew at rows of the batch."""
        share = torch.bincount(ids, minlength=len(self.used)).float() * (len(self.used) / len(ids))
        self.used.mul_(_MEMORY).add_(share, alpha=1 - _MEMORY)
        self.seen += 1
        dead = (self.used < self.restart).nonzero().flatten()
        if len(dead):
            draw = torch.Generator().manual_seed(hash_int(f"{int(self.seen)}", seed=self.seed, salt="codewords") >> 1)
            chosen = torch.randint(len(rows), (len(dead),), generator=draw).to(rows.device)
            self.codewords[dead] = rows[chosen].to(self.codewords.dtype)
            self.used[dead] = 1.0
