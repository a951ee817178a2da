"""Learned queries that read a memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tether.core.errors import InputError
from tether.models.heads.query_decoder import QueryDecoder


def decoder(norm: str, queries_as: str, *, layers: int = 2, **more: float) -> QueryDecoder:
    torch.manual_seed(0)
    return QueryDecoder(16, queries=3, layers=layers, heads=4, inner=24, norm=norm, queries_as=queries_as, **more)


class TestQueryDecoder:
    @pytest.mark.parametrize("norm", ["post", "pre"])
    def test_is_torchs_decoder_where_queries_enter(self, norm: str) -> None:
        ours, memory = decoder(norm, "input").eval().double(), torch.randn(2, 5, 16, dtype=torch.float64)
        layer = nn.TransformerDecoderLayer(16, 4, 24, batch_first=True, norm_first=norm == "pre")
        theirs = nn.TransformerDecoder(layer, 2, norm=nn.LayerNorm(16)).eval().double()
        theirs.load_state_dict({name: value for name, value in ours.state_dict().items() if name != "queries"})
        wanted = theirs(ours.queries.expand(2, -1, -1), memory)
        assert torch.allclose(ours(memory), wanted, atol=1e-12)

    def test_positions_are_added_in_every_layer(self) -> None:
        ours, memory = decoder("pre", "positions").eval(), torch.randn(2, 5, 16)
        x = torch.zeros(2, 3, 16)
        for layer in ours.layers:
            at = layer.norm1(x) + ours.queries
            x = x + layer.self_attn(at, at, layer.norm1(x))[0]
            x = x + layer.multihead_attn(layer.norm2(x) + ours.queries, memory, memory)[0]
            x = x + layer.linear2(layer.linear1(layer.norm3(x)).relu())
        assert torch.allclose(ours(memory), ours.norm(x), atol=1e-5)
        assert ours.each(memory).shape == (2, 2, 3, 16)

    def test_gradient_reaches_all(self) -> None:
        ours = decoder("pre", "positions", dropout=0.0)
        ours(torch.randn(2, 5, 16)).square().sum().backward()
        assert all(parameter.grad is not None for parameter in ours.parameters())

    def test_refuses(self) -> None:
        ours = decoder("post", "input")
        with pytest.raises(InputError, match="k above 0"):
            ours(torch.randn(2, 0, 16))
        with pytest.raises(InputError, match=r"\(b, k, 16\)"):
            ours(torch.randn(2, 4, 8))
        with pytest.raises(InputError, match="to be seen"):
            ours(torch.randn(1, 2, 16), hidden=torch.ones(1, 2, dtype=torch.bool))
        with pytest.raises(InputError, match="divides dim"):
            QueryDecoder(10, heads=4)
