"""The prompter: a block that a prompt alone asks, boxes held to what they are, and widths that fit."""

from __future__ import annotations

import pytest
import torch

from tether.core.errors import InputError
from tether.models.features.dense import DensePath, dense_image
from tether.models.features.dense_regions import encode_boxes
from tether.models.heads.prompter import Prompter
from tether.models.presets import create
from tether.optim import parameter_groups

BOXES = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]]])


def test_is_a_pre_norm_block_of_torch():
    torch.manual_seed(0)
    made, tokens = Prompter(16, heads=4, fourier=3).double(), torch.randn(1, 5, 16, dtype=torch.float64)
    layer = torch.nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    names = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "feed_forward.0."}
    names |= {"linear2.": "feed_forward.2.", "norm1.": "norm1.", "norm2.": "norm2."}
    own = made.state_dict()
    layer.load_state_dict({f"{a}{end}": own[f"{b}{end}"] for a, b in names.items() for end in ("weight", "bias")})
    text = torch.nn.functional.normalize(torch.randn(1, 2, 16, dtype=torch.float64), dim=2)
    found = made.ground(tokens, text)
    for place in range(2):
        state = layer(torch.cat([text[:, place : place + 1], tokens], dim=1))[:, 0]
        torch.testing.assert_close(found[:, place], made.box(state).sigmoid())


def test_regions_do_not_see_each_other_and_may_be_missing():
    made, tokens = Prompter(16, state=24, heads=4), torch.randn(1, 5, 24)
    both = made(tokens, BOXES)
    torch.testing.assert_close(both[:, :1], made(tokens, BOXES[:, :1]))
    torch.testing.assert_close(both.norm(dim=2), torch.ones(1, 2))
    some = made(tokens, BOXES * 0, valid=torch.tensor([[False, False]]))
    assert not some.any()


def test_the_generator_makes_the_weights():
    first, again = (Prompter(16, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.qkv.weight, again.qkv.weight)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([0.6, 0.2, 0.1, 0.9], "wrong in row 0, region 1"),
        ([0.1, 0.2, 1.2, 0.9], "wrong in row 0, region 1"),
        ([10.0, 20.0, 60.0, 90.0], "in shares of the image's width and height"),
        ([0.1, 0.2, float("nan"), 0.9], "wrong in row 0, region 1"),
    ],
)
def test_bad_boxes_are_named(box, words):
    boxes = torch.stack([BOXES[0, 0], torch.tensor(box)])[None]
    with pytest.raises(InputError, match=words):
        Prompter(16, heads=4)(torch.randn(1, 5, 16), boxes)
    with pytest.raises(InputError, match=words):
        encode_boxes(create("tiny").eval(), torch.rand(1, 3, 32, 32), boxes)


def test_bad_shapes():
    made = Prompter(16, heads=4)
    with pytest.raises(InputError, match="tokens: expected"):
        made(torch.randn(1, 5, 8), BOXES)
    with pytest.raises(InputError, match="boxes: expected"):
        made(torch.randn(1, 5, 16), BOXES[0])
    with pytest.raises(InputError, match="text: expected"):
        made.ground(torch.randn(1, 5, 16), torch.randn(1, 2, 8))
    with pytest.raises(InputError, match="heads: expected a divisor"):
        Prompter(16, heads=5)


def test_boxes_of_wide_images():
    model = create("tiny", image_size=[32, 64]).eval()
    image = torch.rand(1, 3, 32, 64)
    left = torch.tensor([[[0.0, 0.0, 0.125, 0.25]]])
    tokens = torch.nn.functional.normalize(dense_image(model, image, path=DensePath()).tokens, dim=2)
    torch.testing.assert_close(encode_boxes(model, image, left)[0, 0], tokens[0, 0])


def test_sum_of_self_correlations_is_three_times_their_mean_before_the_bias():
    model, image = create("tiny").eval(), torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="letters"):
        DensePath(kind="qkv", letters="max")
    one, other = (DensePath(kind="q", letters=how, residual=False) for how in ("mean", "sum"))
    torch.testing.assert_close(dense_image(model, image, path=one).tokens, dense_image(model, image, path=other).tokens)


def test_its_rate_is_seen_by_the_optimiser():
    assert {group["lr_scale"] for group in parameter_groups(Prompter(16, heads=4, rate=10.0), weight_decay=0.1)} == {
        10.0
    }
