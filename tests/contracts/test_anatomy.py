"""What a tower's anatomy must keep on every family: the encoder's own numbers from a stream, blocks and pieces."""

import pytest
import torch

from families import (
    CLOSED,
    FAMILIES,
    PLAIN,
    SEALED,
    coca,
    eva_tower,
    hugging_face,
    open_clip_tower,
    siglip,
    timm_tower,
)
from tether.adaptation.finetune.lora import Lora
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.composed.towers import ImageSide
from tether.models.features.decompose import decompose
from tether.models.features.dense import DensePath, dense_image, dense_text
from tether.models.features.find import anatomy_of, text_anatomy, tower_of
from tether.models.features.parametrization import linears
from tether.models.refusals import EXCEPTIONS
from tether.models.texts.text_state import text_state

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
TEXTS = ["a small red cat", "sun", "the dog in the sun"]
SIDES = ("image", "text")


@pytest.fixture(scope="module", params=list(FAMILIES))
def named(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return request.param, FAMILIES[request.param](tmp_path_factory.mktemp("family")).double().eval()


def batch_of(model, side):
    if side == "text":
        return model.tokenizer(TEXTS)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, *model.image_spec.size, dtype=torch.float64, generator=generator)


def encoded(model, side, batch):
    return (model.encode_image if side == "image" else model.encode_text)(batch).pooled


def test_a_text_shows_what_its_embedding_is_projected_from(named):
    name, model = named
    ids = batch_of(model, "text")
    if (name, "text") in CLOSED:
        with pytest.raises(UnsupportedModelError):
            text_state(model, ids)
        return
    read = text_state(model, ids)
    assert torch.allclose(read.pooled, encoded(model, "text", ids), atol=1e-8)
    assert torch.allclose(tower_of(model, "text").project(read.tokens[:, 0]), read.pooled)


def opened(named, side):
    """The tower, or None where the family is refused, in which case the reason is the table's."""
    name, model = named
    if (name, side) not in SEALED:
        return anatomy_of(model, side)
    with pytest.raises(UnsupportedModelError) as caught:
        anatomy_of(model, side)
    assert EXCEPTIONS[SEALED[name, side]] in str(caught.value)
    return None


@pytest.mark.parametrize("side", SIDES)
def test_run_and_read_out_is_the_encoder(named, side):
    tower = opened(named, side)
    if tower is None:
        return
    model, batch = named[1], batch_of(named[1], side)
    before = model.training
    stream = tower.run(tower.embed(batch))
    torch.testing.assert_close(tower.read_out(stream), encoded(model, side, batch), rtol=0, atol=1e-9)
    assert stream.x.shape[2] == tower.width
    assert tower.read_tokens(stream).shape == (*stream.x.shape[:2], model.dim)
    assert model.training == before
    if side == "image":
        rows, columns = tower.grid(batch)
        assert stream.x.shape[1] == tower.prefix + rows * columns
        assert stream.layout.grid == (rows, columns)


@pytest.mark.parametrize("side", SIDES)
def test_the_pieces_of_a_block_are_its_call(named, side):
    tower = opened(named, side)
    if tower is None:
        return
    stream = tower.embed(batch_of(named[1], side))
    for index, block in enumerate(tower.blocks):
        x, layout = stream.x, tower.layout_at(stream.layout, index)
        q, k, v = block.qkv(block.norm1(x), layout)
        assert q.shape == k.shape == (len(x), tower.heads, x.shape[1], q.shape[-1])
        weights = block.weights(q, k, layout.bias)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        torch.testing.assert_close(weights @ v, block.attend(q, k, v, layout.bias), rtol=0, atol=1e-6)
        y = x + block.attention(x, layout)
        whole = tower.step(stream, index)
        torch.testing.assert_close(y + block.feed_forward(y, layout), whole.x, rtol=0, atol=1e-9)
        assert not torch.allclose(block.norm2(y), y, atol=1e-3)
        stream = whole


@pytest.mark.parametrize("side", SIDES)
def test_slices_follow_on_one_another(named, side):
    tower = opened(named, side)
    if tower is None:
        return
    stream = tower.embed(batch_of(named[1], side))
    whole = tower.run(stream).x
    torch.testing.assert_close(tower.run(tower.run(stream, 0, 1), 1).x, whole)
    torch.testing.assert_close(tower.run(tower.run(stream, stop=-1), -1).x, whole)
    assert tower.run(stream, 1, 1).x is stream.x
    depth = len(tower.blocks)
    for bad in ({"start": depth + 1}, {"stop": -depth - 1}):
        with pytest.raises(InputError, match=rf"st\w+: expected -{depth} to {depth}, got"):
            tower.run(stream, **bad)
    with pytest.raises(InputError, match="layer: expected"):
        tower.place(depth)


@pytest.mark.parametrize("side", SIDES)
def test_a_sealed_tower_shows_its_last_states(named, side):
    name, model = named
    if (name, side) not in SEALED:
        assert tower_of(model, side).sealed is None
        return
    if (name, side) in CLOSED:
        with pytest.raises(UnsupportedModelError):
            tower_of(model, side)
        return
    tower, batch = tower_of(model, side), batch_of(model, side)
    stream = tower.run(tower.embed(batch))
    torch.testing.assert_close(tower.read_out(stream), encoded(model, side, batch), rtol=0, atol=1e-9)
    assert tower.read_tokens(stream).shape == (*stream.x.shape[:2], model.dim)
    assert side == "text" or stream.x.shape[1] == tower.grid(batch)[0] * tower.grid(batch)[1]


def test_texts_run_from_rows_of_their_own(named):
    if opened(named, "text") is None:
        return
    model = named[1]
    tower, text = text_anatomy(model), batch_of(model, "text")
    ids = tower.prepare(text)
    rows = tower.token_rows(ids)
    same = tower.read_out(tower.run(tower.embed(text, rows=rows)))
    torch.testing.assert_close(same, encoded(model, "text", text), rtol=0, atol=1e-9)
    learned = rows.detach().clone().requires_grad_()
    tower.read_out(tower.run(tower.embed(text, rows=learned))).sum().backward()
    assert learned.grad.abs().amax(dim=(1, 2)).min() > 0
    for other in (rows[:1], torch.cat([rows, rows], dim=1), rows[..., :-1]):
        with pytest.raises(InputError, match=r"rows: expected \("):
            tower.embed(text, rows=other)


def test_every_reason_is_met(tmp_path):
    met = set(SEALED.values())
    refused = {
        "stranger": lambda: anatomy_of(torch.nn.Linear(2, 2)),
        "gates": lambda: pieces(create("tiny", vision={"gate": "mirror", "block": {"preset": "skip_middle"}})),
        "blocks": lambda: pieces(create("tiny", vision={"block": {"preset": "postnorm"}})),
        "pooling": lambda: shares(timm_tower(tmp_path, global_pool="max")),
        "rows alone": lambda: anatomy_of(around_rows(tmp_path)),
        "other transformer": lambda: anatomy_of(hugging_face(tmp_path, "beit and bert")),
        "linear": lambda: linears(Lora(rank=2, targets="qkv").apply_(create("tiny"))),
    }
    for reason, call in refused.items():
        with pytest.raises(UnsupportedModelError) as caught:
            call()
        assert EXCEPTIONS[reason] in str(caught.value)
    elsewhere = {
        "projection",
        "final norm",
        "padded left",
        "no dropping",
        "first layer",
    }  # test_dense, test_decompose, test_kept_patches, test_region_tower
    assert met | set(refused) | elsewhere == set(EXCEPTIONS)


def pieces(model):
    tower = anatomy_of(model.eval())
    stream = tower.embed(torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(tower.read_out(tower.run(stream)), model.encode_image(torch.zeros(1, 3, 32, 32)).pooled)
    tower.blocks[0].attention(stream.x, stream.layout)


def shares(model):
    tower = anatomy_of(model)
    stream = tower.run(tower.embed(torch.zeros(1, 3, 32, 32)))
    torch.testing.assert_close(tower.read_out(stream), model.encode_image(torch.zeros(1, 3, 32, 32)).pooled)
    tower.pooling.shares(stream.x, stream.layout)


def around_rows(folder):
    """A composed encoder whose image side is none of the library's."""
    model = FAMILIES["composed ViT"](folder)

    class Rows(ImageSide):
        def forward(self, image):
            return self.inner(image)

        def at_sizes(self, sizes):
            return self

    side = model.parts.image
    model.parts.image = Rows(side.inner, width=side.width, image_spec=side.image_spec, settings=side.settings)
    return model


@pytest.mark.parametrize("layer_scale", [None, 0.4])
@pytest.mark.parametrize("preset", ["prenorm", "normformer", "skip_middle", "nala"])
def test_own_blocks_of_many_kinds(preset, layer_scale):
    options = {"nala": {"attention": "relu", "ffn_conv": 3}, "skip_middle": {"preset": preset, "kv_heads": 1}}
    block = options.get(preset, {"preset": preset, "head_scale": "after_proj"}) | {"layer_scale": layer_scale}
    model = create("tiny", seed=1, vision={"block": block}).double().eval()
    tower = anatomy_of(model)
    stream = tower.embed(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    for index, one in enumerate(tower.blocks):
        y = stream.x + one.attention(stream.x, stream.layout)
        stream, before = tower.step(stream, index), y
        torch.testing.assert_close(before + one.feed_forward(before, stream.layout), stream.x, rtol=0, atol=1e-6)


def test_gates_are_tallied_as_the_encoder_does():
    model = create("tiny", seed=1, vision={"gate": "mirror", "layers": 4}, text={"gate": "mirror"}).eval()
    for side, batch in (("image", torch.randn(2, 3, 32, 32)), ("text", model.tokenizer(TEXTS))):
        tower = anatomy_of(model, side)
        stream = tower.run(tower.embed(batch))
        found = (model.encode_image if side == "image" else model.encode_text)(batch, want="tokens")
        torch.testing.assert_close(stream.extra["gates"], found.extra["gates"])
        torch.testing.assert_close(tower.read_out(stream), found.pooled)


def test_blocks_of_timm_that_turn_each_in_their_own_way(tmp_path):
    model = eva_tower(tmp_path, rope_type="mixed", global_pool="avg").double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    tower = anatomy_of(model)
    stream = tower.embed(images)
    torch.testing.assert_close(tower.read_out(tower.run(stream)), model.encode_image(images).pooled, rtol=0, atol=1e-9)
    layout = tower.layout_at(stream.layout, 0)
    y = stream.x + tower.blocks[0].attention(stream.x, layout)
    torch.testing.assert_close(y + tower.blocks[0].feed_forward(y, layout), tower.step(stream, 0).x)


def test_every_layer_is_open_clips_and_transformers_own(tmp_path):
    images = torch.randn(2, 3, 32, 32)
    for model in (
        open_clip_tower(tmp_path, PLAIN | {"pool_type": "avg"}),
        timm_tower(tmp_path, init_values=0.2),
        coca(tmp_path),
    ):
        visual = model.model.visual
        theirs = visual.forward_intermediates(images, output_fmt="NLC")["image_intermediates"]
        tower = anatomy_of(model)
        for layer, expected in enumerate(theirs):
            found = tower.run(tower.embed(images), stop=layer + 1).x[:, tower.prefix :]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    model = siglip(tmp_path)
    theirs = model.model.vision_model(pixel_values=images, output_hidden_states=True).hidden_states
    tower = anatomy_of(model)
    for layer, expected in enumerate(theirs):
        torch.testing.assert_close(tower.run(tower.embed(images), stop=layer).x, expected, rtol=0, atol=1e-5)


def test_what_cannot_be_looked_into_is_named(tmp_path):
    model = create("tiny").eval()
    with pytest.raises(InputError, match="is compiled"):
        anatomy_of(torch.compile(model))
    with pytest.raises(InputError, match="side: expected image or text, got 'both'"):
        anatomy_of(model, "both")
    with pytest.raises(InputError, match="a text has none"):
        anatomy_of(model, "text").grid(model.tokenizer(["a"]))
    odd = siglip(tmp_path, num_attention_heads=2)
    odd.model.vision_model.encoder.layers[0].self_attn.num_heads = 5
    tower = anatomy_of(odd)
    stream = tower.embed(torch.zeros(1, 3, 32, 32))
    with pytest.raises(InputError, match="heads: expected a divisor of the 32 channels of attention, got 5"):
        tower.blocks[0].attention(stream.x, stream.layout)


@pytest.mark.parametrize("side", SIDES)
def test_parts_in_the_joint_space_or_a_reason(named, side):
    name, model = named
    batch = batch_of(model, side)
    dense = dense_image if side == "image" else dense_text
    if (name, side) in CLOSED or (name, side) == ("SigLIP 2 padded left", "text"):
        with pytest.raises(UnsupportedModelError) as caught:
            dense(model, batch)
        assert any(reason in str(caught.value) for reason in EXCEPTIONS.values())
        return
    found = dense(model, batch)
    torch.testing.assert_close(found.pooled, encoded(model, side, batch), rtol=0, atol=1e-9)
    assert found.tokens.shape[::2] == (3, model.dim)
    assert found.tokens.isfinite().all()
    if side == "image" and (name, side) not in SEALED:
        changed = dense_image(model, batch, path=DensePath(kind="qkv", start=0))
        torch.testing.assert_close(changed.pooled, found.pooled)
        assert (changed.tokens - found.tokens).abs().max() > 1e-7
        first = dense_image(model, batch, layer=0)
        assert (first.tokens - found.tokens).abs().max() > 1e-7


ADAPTED = ["Tether", "open_clip ViT", "CoCa", "PE-Core", "transformers' CLIP", "transformers' SigLIP"]
TORCHS = {("open_clip ViT", "image"), ("CoCa", "image"), *((name, "text") for name in ADAPTED[1:4])}
"""Towers whose attention is torch's own, which an adapter replaces as a whole."""


@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_take_part_or_are_refused(name, tmp_path):
    model = FAMILIES[name](tmp_path).double().eval()
    Lora(rank=2).apply_(model)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_B" in key:
                value.normal_()
    for side in SIDES:
        batch = batch_of(model, side)
        tower = anatomy_of(model, side)
        stream = tower.embed(batch)
        torch.testing.assert_close(tower.read_out(tower.run(stream)), encoded(model, side, batch), rtol=0, atol=1e-9)
        if (name, side) in TORCHS:
            with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["blocks"]):
                tower.blocks[0].attention(stream.x, stream.layout)
        else:
            y = stream.x + tower.blocks[0].attention(stream.x, stream.layout)
            expected = tower.step(stream, 0).x
            torch.testing.assert_close(y + tower.blocks[0].feed_forward(y, stream.layout), expected, rtol=0, atol=1e-9)
    images = batch_of(model, "image")
    if (name, "image") in TORCHS:
        with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["blocks"]):
            decompose(model, images)
    else:
        torch.testing.assert_close(decompose(model, images).total(), model.encode_image(images).unit, rtol=0, atol=1e-9)
