"""Towers and block: the last block's shortcut, dropped patches, packed text, traces, options."""

import pytest
import torch

from tether.core.errors import InputError
from tether.models import Trace, create
from tether.models.towers.blocks.attention import softmax_attention
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.layers import LEAST_ONEDNN, Linear, linear
from tether.models.towers.blocks.packed_sequences import Runs
from tether.models.towers.blocks.rope import ROPE

CAPTIONS = ["a cat", "a small red cat sits on the long green mat", "sun", "a dog", "the old man and the sea"]


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=5).double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _block(config, *, width=16, heads=4, seed=0):
    torch.manual_seed(seed)
    block = TransformerBlock(width, heads=heads, hidden=24, config=config)
    for value in block.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return block.double()


def test_text_packed_and_padded_agree(model):
    ids = model.tokenizer(CAPTIONS)
    alone, full = model.encode_text(ids), model.encode_text(ids, want="tokens")
    assert torch.allclose(alone.pooled, full.pooled, atol=1e-12)
    assert torch.equal(full.mask, ids != 0)
    ends = full.mask.sum(1) - 1
    assert torch.allclose(model.text.project(full.tokens[torch.arange(5), ends]), full.pooled, atol=1e-12)


def test_what_follows_the_end_token_is_never_read(model):
    ids = model.tokenizer(CAPTIONS)
    dirty = torch.where(ids == 0, 320, ids)
    assert torch.allclose(model.encode_text(dirty).pooled, model.encode_text(ids).pooled, atol=1e-12)


def test_a_text_without_end_is_named(model):
    ids = model.tokenizer(CAPTIONS)
    ids[3][ids[3] == 49407] = 7
    with pytest.raises(InputError, match="row 3: no end token"):
        model.encode_text(ids)


def test_kept_patches_equal_masked_others(model, images):
    keep = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(row))[:5] for row in range(4)])
    mask = torch.zeros(4, 16, dtype=torch.bool).scatter_(1, keep, True)
    kept = model.encode_image(images, keep=keep)
    assert torch.allclose(kept.pooled, model.encode_image(images, mask=mask).pooled, atol=1e-12)
    assert not torch.allclose(kept.pooled, model.encode_image(images).pooled, atol=1e-3)
    both = model.encode_image(images, keep=keep, mask=mask, want="tokens")
    assert torch.allclose(both.pooled, kept.pooled, atol=1e-12)
    assert both.tokens.shape == (4, 6, 64)


def test_uint8_patches_are_normalised_after_dropping():
    model = create("tiny").eval()
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    keep = torch.tensor([[3, 0], [15, 7]])
    floats = model.image_spec.normalise(pixels)
    same = model.encode_image(floats, keep=keep).pooled
    assert torch.allclose(model.encode_image(pixels, keep=keep).pooled, same, atol=1e-6)


def test_oblong_pictures():
    model = create("tiny", image_size=(16, 40)).eval()
    pixels = torch.randint(0, 256, (2, 3, 16, 40), dtype=torch.uint8)
    keep = torch.arange(10).expand(2, 10)
    assert model.visual.position.shape[0] == 11
    kept = model.encode_image(pixels, keep=keep).pooled
    assert torch.allclose(model.encode_image(pixels).pooled, kept, atol=1e-6)


def test_trace_records_and_adds_up(model, images):
    trace = Trace(
        keep=["blocks.0.input", "blocks.1.input", "blocks.0.heads", "blocks.0.attention", "blocks.1.attention"]
    )
    plain = model.encode_image(images)
    assert torch.allclose(model.encode_image(images, trace=trace).pooled, plain.pooled, atol=1e-12)
    got = trace.values
    assert got["blocks.0.input"].shape == (4, 17, 64)
    assert got["blocks.0.heads"].shape == (4, 2, 17, 32)
    for name in ("blocks.0.attention", "blocks.1.attention"):
        assert got[name].shape == (4, 2, 17)
        assert torch.allclose(got[name].sum(-1), torch.ones(4, 2).double())
    block = model.visual.blocks[0]
    value = block.qkv(block.attn_pre(got["blocks.0.input"]))[..., 128:].unflatten(-1, (2, 32)).transpose(1, 2)
    pooled = (got["blocks.0.attention"][:, :, None] @ value)[:, :, 0]
    assert torch.allclose(pooled, got["blocks.0.heads"][:, :, 0], atol=1e-12)
    middle = got["blocks.0.input"] + block.proj(got["blocks.0.heads"].transpose(1, 2).flatten(2))
    after = middle + block.down(block.activation(block.up(block.ffn_pre(middle))))
    assert torch.allclose(after, got["blocks.1.input"], atol=1e-12)


def test_trace_reads_the_end_token_of_a_text(model):
    ids = model.tokenizer(CAPTIONS)
    for want in ("pooled", "tokens"):
        trace = Trace(keep=["blocks.1.attention"])
        assert torch.allclose(
            model.encode_text(ids, trace=trace, want=want).pooled, model.encode_text(ids).pooled, atol=1e-12
        )
        seen = trace.values["blocks.1.attention"]
        assert torch.allclose(seen.sum(-1), torch.ones(5, 2).double())
        assert (seen[:, 0][ids == 0] == 0).all()
        assert (seen[:, 0][ids != 0] > 0).all()


def test_trace_edits(model, images):
    silent = Trace(edit={"blocks.1.heads": torch.zeros_like})
    lit = Trace(keep=["blocks.1.input"])
    model.encode_image(images, trace=lit)
    block, x = model.visual.blocks[1], lit.values["blocks.1.input"][:, :1]
    middle = x + block.proj.bias
    after = middle + block.down(block.activation(block.up(block.ffn_pre(middle))))
    expected = model.visual.project(model.visual.readout(after))[:, 0]
    assert torch.allclose(model.encode_image(images, trace=silent).pooled, expected, atol=1e-12)


OPTIONS = {
    "clip": BlockConfig(),
    "normformer": BlockConfig(attn_norm=("pre", "out"), ffn_mid_norm=True, head_scale="heads", residual_scale=True),
    "after_proj": BlockConfig(head_scale="after_proj"),
    "hybrid": BlockConfig(
        attn_norm=("post",), ffn_norm=(), qkv_norm="qkvc", norm="rms", activation="swiglu", bias=False
    ),
    "sandwich": BlockConfig(attn_norm=("pre", "out"), ffn_norm=("pre", "out"), rope="interleaved", kv_heads=2),
    "rope": BlockConfig(rope="half", qkv_norm="qk", activation="relu2"),
    "nala": BlockConfig(attention="nala", out_gate=True, ctx_norm=True, layer_scale=0.5, rope="half"),
    "relu": BlockConfig(attention="relu", kv_heads=2, qkv_norm="qkvc", head_scale="heads"),
    "elu": BlockConfig(attention="elu"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_pools_and_packs_exactly(name):
    block = _block(OPTIONS[name])
    x = torch.randn(6, 5, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = block(x, causal=True)
    assert torch.allclose(block(x, causal=True, pool="last")[:, 0], whole[:, -1], atol=1e-12)
    assert torch.allclose(block(x, causal=False, pool="first")[:, 0], block(x, causal=False)[:, 0], atol=1e-12)
    runs = Runs((2, 1, 3), (2, 3, 5))
    packed = torch.cat([x[:2, :2].flatten(0, 1), x[2, :3], x[3:].flatten(0, 1)])
    out = block(packed, causal=True, runs=runs)
    expected = torch.cat([whole[:2, :2].flatten(0, 1), whole[2, :3], whole[3:].flatten(0, 1)])
    assert torch.allclose(out, expected, atol=1e-12)
    ends = torch.stack([whole[0, 1], whole[1, 1], whole[2, 2], whole[3, 4], whole[4, 4], whole[5, 4]])
    assert torch.allclose(block(packed, causal=True, runs=runs, pool="last"), ends, atol=1e-12)
    at = torch.tensor([0, 4, 2, 1, 3, 4])
    picked = block(x, causal=True, pool=at)[:, 0]
    assert torch.allclose(picked, whole[torch.arange(6), at], atol=1e-12)


def test_causal_tokens_do_not_see_ahead():
    block = _block(BlockConfig())
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    other = x.clone()
    other[:, 3:] = torch.randn(2, 2, 16, dtype=torch.float64)
    assert torch.allclose(block(x, causal=True)[:, :3], block(other, causal=True)[:, :3], atol=1e-12)
    assert not torch.allclose(block(x, causal=False)[:, :3], block(other, causal=False)[:, :3], atol=1e-3)


@pytest.mark.parametrize("rope", ["half", "interleaved"])
def test_rope_depends_on_distance_only(rope):
    q, k = torch.randn(1, 8, dtype=torch.float64), torch.randn(1, 8, dtype=torch.float64)
    turn = ROPE[rope]

    def score(at, other):
        a = turn(q, position=torch.tensor([at]), theta=100.0)
        b = turn(k, position=torch.tensor([other]), theta=100.0)
        return (a * b).sum().item()

    assert score(7, 3) == pytest.approx(score(4, 0), rel=1e-12)
    assert score(7, 3) != pytest.approx(score(7, 5), rel=1e-3)
    assert score(0, 0) == pytest.approx((q * k).sum().item())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_by_products_and_fused_agree(causal, masked):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 9, 8, generator=generator) for _ in range(3))
    bias = torch.zeros(2, 1, 1, 9)
    bias[0, ..., 4] = -torch.inf
    bias = bias if masked else None
    fused = softmax_attention(q, k, v, causal=causal, bias=bias)
    low = softmax_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), causal=causal, bias=bias)
    assert low.dtype == torch.bfloat16
    assert (low.float() - fused).abs().max() < 0.05
    scores = q @ k.transpose(-2, -1) * 8**-0.5
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores + torch.full((9, 9), -torch.inf).triu(1)
    assert torch.allclose(scores.softmax(-1) @ v, fused, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("low", [False, True])
def test_large_products_in_inference_agree_with_those_in_training(bias, low):
    """Rows that do not lie side by side and weights that are a cut of larger ones included."""
    generator = torch.Generator().manual_seed(0)
    layer, rows = Linear(512, 1024, bias=bias), LEAST_ONEDNN // (512 * 512) // 4
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    x = torch.randn(4, 512, rows, generator=generator).transpose(1, 2)
    offset = None if layer.bias is None else layer.bias[512:]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        wanted = layer(x).detach()
        with torch.inference_mode():
            whole, half = layer(x), linear(x, layer.weight[512:], offset)
    assert whole.dtype == wanted.dtype == (torch.bfloat16 if low else torch.float32)
    torch.testing.assert_close(whole, wanted, atol=2e-4, rtol=0.02 if low else 1e-5)
    torch.testing.assert_close(half, wanted[..., 512:], atol=2e-4, rtol=0.02 if low else 1e-5)
