"""A causal text transformer whose end token is the text's embedding: embed, blocks, readout."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tether.core.errors import InputError
from tether.core.geometry import GeometryName
from tether.core.types import Features
from tether.models.towers.blocks.packed_sequences import Runs
from tether.models.towers.blocks.trace import Trace
from tether.models.towers.config import TextConfig
from tether.models.towers.text.token_embedding import TokenTable
from tether.models.towers.tower import Tower, Want


class TextTower(Tower):
    """Reads token ids left to right (arXiv 2103.00020, section 2.4).

    A token sees nothing to its right, so whatever stands after the end token cannot change the embedding: on a CPU
    the texts of a batch are packed by length and padding is never computed at all; elsewhere they stay padded.
    """

    def __init__(self, config: TextConfig, *, dim: int, geometry: GeometryName = "clip") -> None:
        """Build the layers; weights stay unset until ``initialise_`` or ``load_state_dict``."""
        super().__init__()
        self.config = config
        self.token = TokenTable(config.vocabulary, width=config.width)
        learned = config.position == "learned"
        self.position = nn.Parameter(torch.empty(config.context, config.width)) if learned else None
        self.build_stack_(config, dim=dim, geometry=geometry)

    def initialise_(self, generator: torch.Generator) -> None:
        """Draw every weight: normal with CLIP's scales (arXiv 2103.00020, released code)."""
        self.token.restore_()
        nn.init.normal_(self.token.weight, std=0.02, generator=generator)
        if self.position is not None:
            nn.init.normal_(self.position, std=0.01, generator=generator)
        self.initialise_stack_(generator)

    def ends(self, text: Int[Tensor, "b l"]) -> Int[Tensor, " b"]:
        """Index of each row's first end token; a row without one is only noticed on the CPU, where looking is free."""
        if text.ndim != 2 or text.dtype != torch.int64 or not 0 < text.shape[1] <= self.config.context:
            limit = self.config.context
            raise InputError(f"text: expected int64 (b, 1..{limit}), got {text.dtype} {tuple(text.shape)}")
        found = text == self.config.end
        if _looks(text) and not bool(found.any(dim=1).all()):
            row = int((~found.any(dim=1)).nonzero()[0])
            raise InputError(f"text, row {row}: no end token (id {self.config.end})")
        return found.int().argmax(dim=1)

    def embed(self, text: Int[Tensor, "b l"]) -> Float[Tensor, "b l w"]:
        """Token ids to the stream that enters block 0."""
        tokens = self.token(text)
        return tokens if self.position is None else tokens + self.position[: text.shape[1]]

    def forward(
        self,
        text: Int[Tensor, "b l"],
        *,
        mask: Bool[Tensor, "b l"] | None = None,
        want: Want = "pooled",
        trace: Trace | None = None,
    ) -> Features:
        """See ``Clip.encode_text``."""
        end = self.ends(text)
        if _looks(text) and mask is None and want == "pooled" and trace is None:
            return self._packed(text, end)
        return self._padded(text, end, mask=mask, want=want, trace=trace)

    def _packed(self, text: Tensor, end: Tensor) -> Features:
        """Rows sorted by length, end to end in one stream."""
        length, order = torch.sort(end + 1, stable=True)
        kinds, rows = torch.unique_consecutive(length, return_counts=True)
        runs = Runs(tuple(rows.tolist()), tuple(kinds.tolist()))
        real = torch.arange(text.shape[1]) < length[:, None]
        where = real.nonzero()
        x = self.token(text[order][real])
        if self.position is not None:
            x = x + F.embedding(where[:, 1], self.position)
        x, extra = self.run(x, pool="last", causal=True, runs=runs)
        pooled = self.project(x)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return Features(pooled[back], extra=extra)

    def _padded(self, text: Tensor, end: Tensor, *, mask: Tensor | None, want: Want, trace: Trace | None) -> Features:
        x = self.embed(text)
        bias = None
        if mask is not None:
            if mask.dtype != torch.bool or mask.shape != text.shape:
                raise InputError(f"mask: expected bool {tuple(text.shape)}, got {mask.dtype} {tuple(mask.shape)}")
            own = torch.eye(text.shape[1], dtype=torch.bool, device=text.device)  # a hidden token still sees itself
            open_to = mask[:, None, None, :] | own
            bias = torch.zeros(open_to.shape, dtype=x.dtype, device=x.device).masked_fill(~open_to, -math.inf)
        rows = torch.arange(end.shape[0], device=end.device)
        real = torch.arange(text.shape[1], device=text.device) <= end[:, None]
        if mask is not None:
            real = real & mask
        alone = want == "pooled"
        at_end = bias[rows, :, end][:, :, None] if bias is not None and alone else bias
        pool = end if alone else "all"
        x, extra = self.run(x, pool=pool, bias=bias, last_bias=at_end, real=real, causal=True, trace=trace, reads=end)
        if alone:
            return Features(self.project(x[:, 0]), extra=extra)
        return Features(self.project(x[rows, end]), x, real, extra)


def _looks(text: Tensor) -> bool:
    """Whether reading values is free: on a CPU, unless a compiler or an exporter traces, which knows shapes alone."""
    return text.device.type == "cpu" and not torch.compiler.is_compiling()
