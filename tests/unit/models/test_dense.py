"""Patches and words in the joint space: what they add up to, which are words, and gradients, for every encoder."""

import pytest
import torch
import torch.nn.functional as F

from encoders import ENCODERS
from families import FAMILIES, PLAIN, coca, open_clip_tower, siglip, timm_tower
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.gather import LOCAL
from tether.core.types import Batch
from tether.methods.medical_survey import LocalAlignmentLoss
from tether.models import create
from tether.models.features.dense import DensePath, dense_image, dense_layers, dense_text, dense_tokens, word_mask
from tether.models.refusals import EXCEPTIONS
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep


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


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """An open_clip tower of four layers and four heads that stays open_clip's, in double precision."""
    vision = {**PLAIN, "layers": 4, "head_width": 16, "pool_type": "avg", "patch_size": 8, "ls_init_value": 0.7}
    return open_clip_tower(tmp_path_factory.mktemp("deep"), vision).double().eval()


def test_any_layer_is_open_clips_normed_and_projected(deep, tmp_path):
    for model in (deep, coca(tmp_path).double()):
        visual, image = model.model.visual, model.pixels(pixels())
        theirs = visual.forward_intermediates(image, output_fmt="NLC")["image_intermediates"]
        for layer, states in enumerate(theirs):
            found = dense_image(model, pixels(), layer=layer - len(theirs))
            if model is deep:
                expected = visual.ln_post(states) @ visual.proj
            else:
                alone = states.flatten(0, 1)[:, None]
                expected = visual._pool(alone)[0].unflatten(0, states.shape[:2]) @ visual.proj
            torch.testing.assert_close(found.tokens, expected, rtol=0, atol=1e-8)
            torch.testing.assert_close(found.pooled, model.encode_image(pixels()).pooled)


def test_any_layer_is_transformers_own(tmp_path):
    model = siglip(tmp_path)
    tower, image = model.model.vision_model, model.pixels(pixels())
    states = tower(pixel_values=image, output_hidden_states=True).hidden_states
    for layer, x in enumerate(states[1:]):
        alone = tower.post_layernorm(x).flatten(0, 1)[:, None]
        expected = tower.head(alone).unflatten(0, x.shape[:2])
        torch.testing.assert_close(dense_image(model, pixels(), layer=layer).tokens, expected, rtol=0, atol=1e-5)
    ids = model.tokenizer(["a small red cat sits", "sun"])
    text = model.model.text_model
    states = text(**model.text_inputs(ids), output_hidden_states=True).hidden_states
    expected = text.head(text.final_layer_norm(states[1]))[:, : ids.shape[1]]
    found = dense_text(model, ids, layer=0)
    torch.testing.assert_close(found.tokens, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, model.encode_text(ids).pooled)


def by_hand(model, *, letters, start, summed=False, beside=False, residual=True, feed_forward=True, affinity=None):
    """The paths of the papers written out with open_clip's own modules."""
    visual = model.model.visual
    original = x = visual._embeds(model.pixels(pixels()))
    for index, block in enumerate(visual.transformer.resblocks):
        if index >= start:
            source = block.ln_1(original if beside else x)
            width, heads = source.shape[-1], block.attn.num_heads
            whole = F.linear(source, block.attn.in_proj_weight, block.attn.in_proj_bias)
            parts = dict(zip("qkv", (p.unflatten(-1, (heads, -1)) for p in whole.split(width, -1)), strict=True))
            weights = [
                torch.einsum("bnhe,bmhe->bhnm", parts[one], parts[one]).div((width / heads) ** 0.5).softmax(-1)
                for one in letters
            ]
            tokens = source.shape[1]
            weight = sum(weights) / len(weights) if weights else torch.eye(tokens).double().expand(1, heads, -1, -1)
            if affinity is not None:
                weight = weight + F.pad(affinity, (1, 0, 1, 0))[:, None]
            if summed:
                weight = weight.sum(1, keepdim=True).expand(-1, heads, -1, -1)
            mixed = torch.einsum("bhnm,bmhe->bnhe", weight.expand(len(source), -1, -1, -1), parts["v"]).flatten(2)
            branch = block.ls_1(block.attn.out_proj(mixed))
            x = x + branch if residual else branch
            x = x + block.ls_2(block.mlp(block.ln_2(x))) if feed_forward else x
        original = block(original)
        x = original if index < start else x
    return (visual.ln_post(x) @ visual.proj)[:, 1:]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("value", {}),
        ("value", {"start": 2, "beside": True}),
        ("value", {"heads": "summed", "feed_forward": False}),
        ("v", {"start": 1, "beside": True, "feed_forward": False}),
        ("qkv", {"start": -3, "beside": True, "feed_forward": False, "heads": "summed"}),
        ("qk", {"residual": False, "feed_forward": False}),
        ("k", {"start": 0}),
    ],
)
def test_a_changed_path_is_what_its_paper_writes(deep, kind, options):
    given = {"start": -1, "heads": "apart"} | options
    named = {"start": given["start"] % 4, "summed": given.pop("heads") == "summed"}
    more = {key: value for key, value in options.items() if key in ("beside", "residual", "feed_forward")}
    letters = "" if kind == "value" else kind
    found = dense_image(deep, pixels(), path=DensePath(kind=kind, **options))
    torch.testing.assert_close(found.tokens, by_hand(deep, letters=letters, **named, **more), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.pooled, deep.encode_image(pixels()).pooled)
    alone = dense_tokens(deep, pixels(), path=DensePath(kind=kind, **options))
    torch.testing.assert_close(alone, found.tokens, rtol=1e-12, atol=1e-12)  # doubles
    likeness = torch.rand(3, 16, 16, dtype=torch.float64)
    found = dense_image(deep, pixels(), path=DensePath(kind=kind, **options), affinity=likeness)
    expected = by_hand(deep, letters=letters, affinity=likeness, **named, **more)
    torch.testing.assert_close(found.tokens, expected, rtol=0, atol=1e-9)


def test_several_layers_are_read_in_one_pass(deep):
    path = DensePath(kind="v", start=1, beside=True, feed_forward=False)
    found = dense_layers(deep, pixels(), layers=[0, -1, 2], path=path)
    for layer, features in zip([0, -1, 2], found, strict=True):
        torch.testing.assert_close(features.tokens, dense_image(deep, pixels(), layer=layer, path=path).tokens)
    torch.testing.assert_close(found[0].tokens, dense_image(deep, pixels(), layer=0).tokens)


def test_the_class_token_without_the_final_norm(tmp_path):
    model = create("tiny", seed=1).eval()
    states = model.visual.run(model.visual.embed(pixels()), pool="all", causal=False)[0]
    found = dense_image(model, pixels(), pooled_norm=False)
    assert not torch.allclose(found.pooled, model.visual.project(states[:, 0]), atol=1e-3)
    model.visual.norm_post = torch.nn.Identity()
    torch.testing.assert_close(found.pooled, model.encode_image(pixels()).pooled)


def test_places_of_a_pooled_map(tmp_path):
    model = FAMILIES["RN50"](tmp_path).eval()
    image = pixels(size=64)
    pool = model.model.visual.attnpool
    maps = []
    pool.register_forward_pre_hook(lambda _, given: maps.append(given[0].flatten(2).transpose(1, 2)))
    with torch.no_grad():
        pool.k_proj.weight.zero_()  # all scores are alike: the pooled row is the mean of what is seen alone
    found = dense_image(model, image)
    assert found.tokens.shape == (3, 4, 24)
    pooled = model.encode_image(image).pooled
    first = pool.c_proj(pool.v_proj(maps[-1].mean(dim=1) + pool.positional_embedding[0]))
    torch.testing.assert_close((first + found.tokens.sum(dim=1)) / 5, pooled, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.pooled, pooled)


@pytest.mark.parametrize("name", ["ConvNeXt", "composed EfficientNet"])
def test_places_of_a_map_that_is_averaged(name, tmp_path):
    model = FAMILIES[name](tmp_path).eval()
    size = model.image_spec.size[0]
    found = dense_image(model, pixels(size=size))
    torch.testing.assert_close(found.pooled, model.encode_image(pixels(size=size)).pooled)
    if name != "ConvNeXt":  # its norm stands after the mean
        torch.testing.assert_close(found.tokens.mean(dim=1), found.pooled, rtol=0, atol=1e-4)
    for options in ({"layer": 0}, {"path": DensePath()}):
        with pytest.raises(UnsupportedModelError) as caught:
            dense_image(model, pixels(size=size), **options)
        assert EXCEPTIONS["map"] in str(caught.value)


def test_bad_input(deep, tmp_path):
    with pytest.raises(InputError, match="layer: expected -4 to 3, got 4"):
        dense_image(deep, pixels(), layer=4)
    with pytest.raises(InputError, match=r"path\.start: expected -4 to 3, got -5"):
        dense_image(deep, pixels(), path=DensePath(start=-5))
    with pytest.raises(InputError, match=r"affinity: expected \(b, 16, 16\), got \(3, 17, 17\)"):
        dense_image(deep, pixels(), path=DensePath(), affinity=torch.zeros(3, 17, 17))
    with pytest.raises(InputError, match=r"path: expected a DensePath, .*got 'maskclip'"):
        dense_image(deep, pixels(), path="maskclip")
    with pytest.raises(InputError, match="kind"):
        DensePath(kind="vv")
    with pytest.raises(UnsupportedModelError, match="padded on the left"):
        dense_text(FAMILIES["SigLIP 2 padded left"](tmp_path), torch.ones(1, 3).long())
    with pytest.raises(UnsupportedModelError, match="norm=False: the tower is of class EfficientNet: the tower has no"):
        dense_image(FAMILIES["composed EfficientNet"](tmp_path), pixels(size=160), pooled_norm=False)


def test_what_has_no_parts_is_refused(tmp_path):
    class Other(torch.nn.Module):
        pass

    for call in (lambda: dense_image(Other(), pixels()), lambda: dense_text(Other(), torch.zeros(1, 2).long())):
        with pytest.raises(UnsupportedModelError, match=r"Other: expected a model of tether.load"):
            call()
    wrapped = ENCODERS["open_clip"](tmp_path)
    with pytest.raises(UnsupportedModelError, match="the tower is of class ConvNeXt: its convolutions"):
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
