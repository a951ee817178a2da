"""Patches and words in the joint space: what they add up to, which are words, and gradients, for every encoder."""

import pytest
import torch
from test_decompose import open_clip_tower, siglip, timm_tower

from encoders import ENCODERS
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.losses import LocalAlignmentLoss
from tether.models import create
from tether.models.dense import dense_image, dense_text, word_mask
from tether.train.steps.module import StepModule
from tether.train.steps.presets import ContrastiveStep

PLAIN = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}


def pixels(count=3, *, size=32):
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module", params=list(ENCODERS))
def model(request, tmp_path_factory):
    return ENCODERS[request.param](tmp_path_factory.mktemp("encoder"))


def test_every_encoder_gives_its_parts_beside_what_it_gives_anyway(model):
    found = dense_image(model, pixels())
    torch.testing.assert_close(found.pooled, model.encode_image(pixels()).pooled)
    assert found.tokens.shape[0] == 3
    assert found.tokens.shape[2] == model.dim
    assert found.tokens.requires_grad
    assert found.tokens.isfinite().all()
    text = model.tokenizer(["a small red cat sits", "sun", "the dog in the sun"])
    words = dense_text(model, text)
    torch.testing.assert_close(words.pooled, model.encode_text(text).pooled)
    assert words.tokens.shape == (*text.shape, model.dim)
    assert words.mask.sum(dim=1).tolist() == [5, 1, 5]
    words.tokens.sum().backward()


def test_every_encoder_learns_from_its_parts(model):
    text = model.tokenizer(["a small red cat", "sun", "the dog"])
    step = ContrastiveStep(LocalAlignmentLoss(), steps=2, seed=0, want="tokens")
    losses = [
        step(StepModule(model.double(), micro_batch=size), Batch(pixels(), text), step=0, gather=LOCAL)
        for size in (None, 2)
    ]
    torch.testing.assert_close(losses[0].total, losses[1].total)
    torch.testing.assert_close(losses[0].terms["local"], losses[1].terms["local"])
    model.zero_grad()
    losses[1].total.backward()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    model.float()


def test_a_mean_of_patches_is_the_mean_of_the_read_out_patches(tmp_path):
    model = open_clip_tower(tmp_path, {**PLAIN, "pool_type": "avg"}).double().eval()
    found = dense_image(model, pixels())
    torch.testing.assert_close(found.tokens.mean(dim=1), found.pooled)
    model = timm_tower(tmp_path, global_pool="avg", fc_norm=False).double().eval()
    found = dense_image(model, pixels())
    assert found.tokens.shape == (3, 4, 24)
    torch.testing.assert_close(found.tokens.mean(dim=1), found.pooled)


@pytest.mark.parametrize("settings", [{}, {"global_pool": "map", "class_token": False}, {"reg_tokens": 2}])
def test_towers_of_timm_read_each_patch_alone(tmp_path, settings):
    model = timm_tower(tmp_path, **settings).eval()
    found = dense_image(model, pixels())
    assert found.tokens.shape == (3, 4, 24)
    torch.testing.assert_close(found.pooled, model.encode_image(pixels()).pooled)


def test_a_pooling_attention_over_one_patch_is_that_patch(tmp_path):
    model = siglip(tmp_path)
    tower = model.model.vision_model
    states = tower(pixel_values=model.pixels(pixels())).last_hidden_state
    torch.testing.assert_close(dense_image(model, pixels()).tokens[:, 1], tower.head(states[:, 1:2]))


def test_our_own_patches_go_through_the_class_tokens_read_out():
    model = create("tiny").eval()
    found = dense_image(model, pixels())
    assert found.tokens.shape == (3, 16, 64)
    states = model.encode_image(pixels(), want="tokens").tokens
    torch.testing.assert_close(found.tokens[:, 4], model.visual.project(states[:, 5]))
    keep = torch.tensor([[0, 5], [2, 3], [14, 15]])
    assert dense_image(model, pixels(), keep=keep).tokens.shape == (3, 2, 64)


def test_words_are_neither_start_nor_end_nor_padding():
    text = torch.tensor([[9, 1, 2, 3, 8, 0, 0], [9, 0, 2, 8, 0, 0, 0], [9, 8, 0, 0, 0, 0, 0]])
    assert word_mask(text).int().tolist() == [[0, 1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]
    assert word_mask(text, starts=0)[1].int().tolist() == [1, 1, 1, 0, 0, 0, 0]


def test_what_has_no_parts_is_refused(tmp_path):
    class Other(torch.nn.Module):
        pass

    for call in (lambda: dense_image(Other(), pixels()), lambda: dense_text(Other(), torch.zeros(1, 2).long())):
        with pytest.raises(UnsupportedModelError, match=r"Other: expected a model of tether.load"):
            call()
    wrapped = ENCODERS["open_clip"](tmp_path)
    with pytest.raises(UnsupportedModelError, match="cannot drop patches"):
        dense_image(wrapped, pixels(), keep=torch.zeros(3, 1).long())
    with pytest.raises(InputError, match=r"image: expected \(b, 3, 32, 32\)"):
        dense_image(wrapped, pixels(size=16))
    with pytest.raises(InputError, match="want"):
        ContrastiveStep(LocalAlignmentLoss(), steps=2, seed=0, want="words")
    step = ContrastiveStep(LocalAlignmentLoss(), steps=2, seed=0)
    forward = StepModule(create("tiny"))
    batch = Batch(pixels(), create("tiny").tokenizer(["a", "b", "c"]))
    with pytest.raises(InputError, match=r"image side has no tokens; use the step \{name: contrastive, want: tokens\}"):
        step(forward, batch, step=0, gather=LOCAL)
