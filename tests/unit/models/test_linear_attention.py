"""Linear attention against sums written out, and the picture-only options of the block."""

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.models import Trace, create
from tether.models.towers.blocks.attention import ATTENTION
from tether.models.towers.blocks.block import BlockConfig, TransformerBlock
from tether.models.towers.blocks.grid import Grid, GridConv
from tether.models.towers.blocks.linear_attention import CHUNK, KERNELS, linear_attention
from tether.models.towers.blocks.rope import ROPE, Turn

EPS = 1e-6


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def heads(n, *, d=8, seed=0):
    return [draw(2, 3, n, d, seed=seed + part) for part in range(3)]


def written_out(q, k, v, *, kernel, visible, weight=None):
    """One query at a time; ``visible(i)`` says how many keys it sees."""
    features = KERNELS[kernel]
    phi_q, phi_k = features.queries(q, 3.0), features.keys(k, 3.0)
    out = []
    for i in range(q.shape[2]):
        keys, values = phi_k[:, :, : visible(i)], v[:, :, : visible(i)]
        share = torch.ones(keys.shape[:3], dtype=q.dtype) if weight is None else weight[:, None, : visible(i)]
        share = share / share.sum(-1, keepdim=True)
        scores = (phi_q[:, :, i, None] * keys).sum(-1) * share
        out.append((scores[..., None] * values).sum(2) / (scores.sum(-1, keepdim=True) + EPS))
    return torch.stack(out, dim=2)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_equals_the_sums_written_out(kernel, n):
    q, k, v = heads(n)
    got = linear_attention(q, k, v, kernel=kernel)
    assert torch.allclose(got, written_out(q, k, v, kernel=kernel, visible=lambda i: n), atol=1e-10)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n", [1, 7, CHUNK + 3, 2 * CHUNK])
def test_the_causal_form_sees_only_what_came_before(kernel, n):
    q, k, v = heads(n, d=4)
    got = linear_attention(q, k, v, kernel=kernel, causal=True)
    assert torch.allclose(got, written_out(q, k, v, kernel=kernel, visible=lambda i: i + 1), atol=1e-9)
    for m in (1, 2):
        last = linear_attention(q[:, :, -m:], k, v, kernel=kernel, causal=True)
        assert torch.allclose(last, got[:, :, -m:], atol=1e-9)


def test_the_last_causal_query_is_that_of_the_whole():
    q, k, v = heads(9)
    causal, whole = linear_attention(q, k, v, causal=True), linear_attention(q, k, v)
    assert torch.allclose(causal[:, :, -1], whole[:, :, -1], atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_hidden_key_might_as_well_not_be_there(causal):
    q, k, v = heads(6)
    bias = torch.zeros(2, 1, 1, 6, dtype=torch.float64)
    bias[..., 2] = -torch.inf
    rest = [0, 1, 3, 4, 5]
    got = linear_attention(q, k, v, bias=bias, causal=causal)[:, :, rest]
    assert torch.allclose(got, linear_attention(*(x[:, :, rest] for x in (q, k, v)), causal=causal), atol=1e-12)


def test_a_bias_weighs_keys():
    q, k, v = heads(5)
    weight = torch.rand(2, 5, dtype=torch.float64)
    got = linear_attention(q, k, v, bias=weight.log()[:, None, None])
    assert torch.allclose(got, written_out(q, k, v, kernel="nala", visible=lambda i: 5, weight=weight), atol=1e-10)


def test_a_query_that_sees_no_key_gets_zero():
    q, k, v = heads(4)
    bias = torch.full((2, 1, 1, 4), -torch.inf, dtype=torch.float64)
    assert torch.equal(linear_attention(q, k, v, bias=bias), torch.zeros_like(q))


def test_a_bias_of_pairs_is_refused():
    q, k, v = heads(4)
    with pytest.raises(InputError, match=r"bias: linear attention can weigh keys, .* got \(4, 4\)"):
        ATTENTION["nala"](q, k, v, causal=False, bias=torch.zeros(4, 4))


def test_unknown_kernel():
    with pytest.raises(InputError, match="kernel: unknown choice 'cosine'; known: elu, nala, relu"):
        linear_attention(*heads(2), kernel="cosine")


def test_queries_and_keys_of_zero_are_safe():
    q, k, v = (torch.zeros(1, 1, 3, 4, requires_grad=True) for _ in range(3))
    out = linear_attention(q, k, v)
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in (q, k, v))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients(kernel, causal):
    q, k, v = (x[:1, :1].requires_grad_() for x in heads(5, d=4))
    assert torch.autograd.gradcheck(lambda *x: linear_attention(*x, kernel=kernel, causal=causal), (q, k, v))


def test_float32_inside_whatever_autocast_says():
    q, k, v = (50 * x.float() for x in heads(6))  # the third power of such keys overflows float16
    plain = linear_attention(q, k, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear_attention(q, k, v), plain)
        low = linear_attention(q.half(), k.half(), v.half())
    assert low.dtype == torch.float16
    assert torch.allclose(low.float(), plain, rtol=0.01, atol=0.1)


def test_turned_features_leave_the_denominator_alone():
    q, k, v = heads(6)
    place = torch.arange(6)
    turn = Turn(ROPE["half"], 10.0, place, place)
    phi_q, phi_k = KERNELS["nala"].queries(q, 3.0), KERNELS["nala"].keys(k, 3.0)
    below = (phi_q @ phi_k.mean(2)[..., None]) + EPS

    def turned(phi):
        return torch.cat([ROPE["half"](part, position=place, theta=10.0) for part in phi.chunk(2, -1)], -1)

    above = turned(phi_q) @ turned(phi_k).transpose(-2, -1) @ v / 6
    assert torch.allclose(linear_attention(q, k, v, turn=turn), above / below, atol=1e-10)


def test_keys_may_be_normalised_with_nala():
    assert BlockConfig(attention="nala", qkv_norm="k").qkv_norm == "k"
    assert BlockConfig(attention="relu", qkv_norm="qk").attention == "relu"


def test_a_head_that_2d_rope_cannot_turn():
    with pytest.raises(InputError, match="rope: '2d' needs heads of a multiple of 4 channels, got 6"):
        TransformerBlock(12, heads=2, hidden=8, config=BlockConfig(rope="2d"))


NALAFORMER = BlockConfig(
    attention="nala", rope="2d", out_gate=True, ctx_norm=True, lepe=3, position_conv=3, ffn_conv=3, layer_scale=0.7
)


def picture_block(config=NALAFORMER):
    torch.manual_seed(0)
    block = TransformerBlock(16, heads=2, hidden=24, config=config).double()
    for value in block.parameters():
        torch.nn.init.normal_(value, std=0.3)
    return block


def test_a_grid_is_asked_for():
    with pytest.raises(InputError, match="grid: 2d rope and convolutions need"):
        picture_block()(draw(2, 6, 16), causal=False)
    with pytest.raises(InputError, match=r"grid: 1 \+ 6 tokens expected, got 6"):
        picture_block()(draw(2, 6, 16), causal=False, grid=Grid(2, 3, before=1))


def test_convolution_over_patches_alone():
    conv = GridConv(4, side=3).double()
    conv.initialise_(torch.Generator().manual_seed(1))
    x = draw(2, 7, 4)
    got = conv(x, grid=Grid(2, 3, before=1))
    picture = x[:, 1:].transpose(1, 2).unflatten(2, (2, 3))
    expected = F.conv2d(picture, conv.weight, conv.bias, padding=1, groups=4).flatten(2).transpose(1, 2)
    assert torch.equal(got[:, 0], torch.zeros(2, 4, dtype=torch.float64))
    assert torch.allclose(got[:, 1:], expected, atol=1e-12)


def test_dropped_patches_count_as_zero():
    conv = GridConv(4, side=3).double()
    conv.initialise_(torch.Generator().manual_seed(1))
    x, keep = draw(2, 7, 4), torch.tensor([[0, 4], [5, 1]])
    holes = torch.zeros_like(x)
    holes[:, 0] = x[:, 0]
    rows = torch.arange(2)[:, None]
    holes[rows, 1 + keep] = x[rows, 1 + keep]
    whole = conv(holes, grid=Grid(2, 3, before=1))
    kept = torch.cat([x[:, :1], x[rows, 1 + keep]], dim=1)
    assert torch.allclose(conv(kept, grid=Grid(2, 3, before=1, keep=keep))[:, 1:], whole[rows, 1 + keep], atol=1e-12)


def test_positions_of_kept_patches():
    keep = torch.tensor([[5, 0]])
    assert Grid(2, 3, before=1).positions(keep.device)[:3].tolist() == [[0, 0], [0, 0], [0, 1]]
    assert Grid(2, 3, before=1).places(keep.device).tolist() == list(range(7))
    assert Grid(2, 3, before=1, keep=keep).places(keep.device).tolist() == [[0, 6, 1]]
    assert Grid(2, 3, before=1, keep=keep).positions(keep.device).tolist() == [[[0, 0], [1, 2], [0, 0]]]


def test_the_class_token_alone_is_that_of_all():
    block, x, grid = picture_block(), draw(2, 7, 16), Grid(2, 3, before=1)
    whole = block(x, causal=False, grid=grid)
    assert torch.allclose(block(x, causal=False, grid=grid, pool="first")[:, 0], whole[:, 0], atol=1e-12)


def test_keeping_every_patch_changes_nothing():
    block, x = picture_block(), draw(2, 7, 16)
    keep = torch.arange(6).expand(2, 6)
    whole = block(x, causal=False, grid=Grid(2, 3, before=1))
    assert torch.allclose(block(x, causal=False, grid=Grid(2, 3, before=1, keep=keep)), whole, atol=1e-12)
    mixed = torch.tensor([[3, 0, 5, 1, 2, 4]] * 2)
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + mixed[0]])
    got = block(x[:, order], causal=False, grid=Grid(2, 3, before=1, keep=mixed))
    assert torch.allclose(got, whole[:, order], atol=1e-12)


@pytest.mark.parametrize("attention", ["nala", "relu", "softmax"])
def test_an_image_tower_of_these_blocks(attention):
    block = {"preset": "nalaformer", "attention": attention}
    model = create("tiny", vision={"block": block}, seed=1).double().eval()
    images = draw(3, 3, 32, 32)
    whole = model.encode_image(images, want="tokens")
    assert torch.allclose(model.encode_image(images).pooled, whole.pooled, atol=1e-10)
    keep = torch.tensor([[1, 5, 9], [0, 2, 3], [15, 14, 8]])
    mask = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, keep, True)
    assert model.encode_image(images, keep=keep, mask=mask).pooled.isfinite().all()
    trace = Trace(keep=["blocks.0.attention"])
    model.encode_image(images, trace=trace, mask=mask)
    seen = trace.values["blocks.0.attention"]
    assert torch.allclose(seen.sum(-1), torch.ones_like(seen.sum(-1)))
    assert (seen[..., 1:][~mask[:, None].expand(-1, 2, -1)] == 0).all()
    other = images.clone()
    other[:, :, :8, :8] += 1  # of patch 0, which the first picture hides and drops
    dropped = model.encode_image(other, keep=keep).pooled
    assert torch.allclose(dropped[0], model.encode_image(images, keep=keep).pooled[0], atol=1e-12)


@pytest.mark.parametrize("vision", [{"preset": "nalaformer"}, {"attention": "relu", "rope": "2d"}])
def test_training_in_bfloat16_is_finite(vision):
    model = create("tiny", vision={"block": vision}, text={"block": {"attention": "nala"}}, seed=1)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(pixels, model.tokenizer(["a cat", "sun", "a dog", "the old man and the sea"]))
    plain = model(pixels, model.tokenizer(["a cat", "sun", "a dog", "the old man and the sea"]))
    assert F.cosine_similarity(out.image.pooled.float(), plain.image.pooled).min() > 0.99
    assert F.cosine_similarity(out.text.pooled.float(), plain.text.pooled).min() > 0.99
    (out.image.pooled.float() @ out.text.pooled.float().T).logsumexp(1).sum().backward()
    gradients = [p.grad for n, p in model.named_parameters() if n != "log_logit_scale"]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("attention", KERNELS)
def test_a_text_tower_packed_and_padded(attention):
    model = create("tiny", text={"block": {"attention": attention}}, seed=1).double().eval()
    ids = model.tokenizer(["a cat", "a small red cat sits on the long green mat", "sun"])
    assert torch.allclose(model.encode_text(ids).pooled, model.encode_text(ids, want="tokens").pooled, atol=1e-10)
    with pytest.raises(InputError, match="bias: linear attention can weigh keys"):
        model.encode_text(ids, mask=ids != 320)


def test_a_text_has_no_grid():
    with pytest.raises(InputError, match="block: 2d rope and convolutions need an image"):
        create("tiny", block={"preset": "nalaformer"})
