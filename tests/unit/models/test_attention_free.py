"""Blocks without attention: what they compute, their files, and what is refused."""

import pytest
import torch

import tether
from families import filled
from tether.core.errors import InputError, UnsupportedModelError
from tether.models import create
from tether.models.features.find import anatomy_of
from tether.models.features.parametrization import linears
from tether.models.towers.attention_free import without_attention

TEXTS = ["a small red cat", "sun", "the dog in the sun"]


def encoded(model, side):
    if side == "text":
        return model.encode_text(model.tokenizer(TEXTS)).pooled
    return model.encode_image(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))).pooled


@pytest.mark.parametrize("preset", ["prenorm", "postnorm", "normformer", "hybridnorm", "nalaformer", "skip_middle"])
@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("index", [0, -1])
@torch.no_grad()
def test_as_if_attention_gave_nothing(preset, side, index, tmp_path):
    if preset == "nalaformer" and side == "text":
        block = {"preset": "normformer", "layer_scale": 0.3, "kv_heads": 1, "rope": "half"}
    else:
        block = {"preset": preset}
    tower = "vision" if side == "image" else "text"
    model = filled(create("tiny", seed=1, **{tower: {"block": block}})).eval()
    pruned = without_attention(model, side=side, blocks=[index])
    assert not torch.allclose(encoded(pruned, side), encoded(model, side), atol=1e-3)
    other = (model.visual if side == "image" else model.text).blocks[index]
    assert pruned.state_dict().keys() < model.state_dict().keys()
    for part in (other.proj, other.attn_out, other.lepe):  # all through which attention reaches the stream
        for value in () if part is None else part.parameters():
            value.zero_()
    torch.testing.assert_close(encoded(pruned, side), encoded(model, side))
    loaded = tether.load(tether.save(pruned, tmp_path / "pruned"))
    assert torch.equal(encoded(loaded, side), encoded(pruned, side))
    assert loaded.config == pruned.config


def test_a_shared_tower_and_a_model_whose_attention_goes_bit_by_bit():
    shared = without_attention(create("tiny", towers="shared"), side="text", blocks=[0])
    assert shared.config.vision.without_attention == shared.config.text.without_attention == (0,)
    assert shared.text.blocks is shared.visual.blocks
    model = create("tiny")
    model.visual.requires_grad_(False)
    twice = without_attention(without_attention(model, blocks=[1]), blocks=[0])
    assert twice.config.vision.without_attention == (0, 1)
    assert {place.part for place in linears(twice)} == {"up", "down"}
    assert not any(value.requires_grad for value in twice.visual.parameters())
    assert all(value.requires_grad for value in twice.text.parameters())
    assert twice.config.text.without_attention == ()


def test_it_learns_and_its_gates_are_kept():
    model = create("tiny", vision={"gate": "mirror", "without_attention": [1], "block": {"preset": "skip_middle"}})
    found = model.encode_image(torch.rand(2, 3, 32, 32))
    found.pooled.square().sum().backward()
    assert model.visual.blocks[1].up.weight.grad.any()
    assert "gates" in found.extra


def test_what_is_refused():
    model = create("tiny")
    for make, message in (
        (lambda: without_attention(model, blocks=[2]), "blocks: expected -2 to 1, got 2"),
        (lambda: without_attention(model, side="both", blocks=[0]), "side: expected image or text"),
        (lambda: without_attention(torch.nn.Linear(1, 1), blocks=[0]), "model: expected one of Tether's own"),
        (lambda: create("tiny", vision={"without_attention": [1, 0]}), "without_attention: expected rising indices"),
        (
            lambda: create("tiny", vision={"without_attention": [2]}),
            "without_attention: expected rising indices below 2",
        ),
        (
            lambda: create("tiny", vision={"block": {"attention": "non"}}),
            "attention: unknown choice 'non'; did you mean",
        ),
    ):
        with pytest.raises(InputError, match=message):
            make()
    tower = anatomy_of(without_attention(model, blocks=[0]).eval())
    stream = tower.embed(torch.zeros(1, 3, 32, 32))
    assert tower.run(stream).x.shape == stream.x.shape
    with pytest.raises(UnsupportedModelError, match="the block has no attention: expected pre-norm blocks"):
        tower.blocks[0].qkv(stream.x, stream.layout)
