"""Arrangements of the block by name: in both towers, saved, loaded, exported, trained; and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import tether
from tether.core.errors import InputError
from tether.models import configure, create
from tether.models.export import export
from tether.models.towers.blocks.block import TransformerBlock
from tether.models.towers.blocks.options import BlockConfig
from tether.models.towers.blocks.presets import BLOCK_PRESETS, BlockPreset, block_preset, block_stack
from tether.optim import parameter_groups
from tether.training import train
from tether.training.config import load_config

pytestmark = pytest.mark.slow

CAPTIONS = ["a cat", "a small red cat sits on the long green mat", "sun", "a dog", "the old man and the sea"]
FOR_TEXT = [name for name in BLOCK_PRESETS if not any(b.needs_grid for b in block_stack(BlockPreset(name), layers=4))]
CLIP_LIKE = {"prenorm"}


def model_with(preset, **options):
    """A tiny model whose towers have these blocks; a preset that needs a picture's grid is for the image tower."""
    block = {"preset": preset, **options}
    three = {"layers": 4}
    if preset in FOR_TEXT:
        return create("tiny", seed=3, block=block, vision=three, text=three).double().eval()
    return create("tiny", seed=3, vision={**three, "block": block}, text=three).double().eval()


def lively(model):
    """Draw the factors too, which all start at one, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim == 1:
                value.add_(torch.randn(value.shape, generator=generator, dtype=value.dtype), alpha=0.2)
    return model


@pytest.fixture(params=list(BLOCK_PRESETS))
def preset(request):
    return request.param


class TestNames:
    def test_there_are_the_published_ones(self):
        assert {"prenorm", "postnorm", "normformer", "hybridnorm", "hybridnorm*"} <= set(BLOCK_PRESETS)

    def test_only_the_first_block_of_the_star_is_prenorm(self):
        first, *others = (block_preset("hybridnorm*", layer=layer, layers=5) for layer in range(5))
        assert (first.attn_norm, first.ffn_norm, first.qkv_norm) == (("pre",), ("pre",), "qkv")
        assert others == [block_preset("hybridnorm", layer=3, layers=5)] * 4

    def test_a_tower_too_short_is_refused(self):
        with pytest.raises(InputError, match=r"hybridnorm\* needs at least 2, .* got 1"):
            block_preset("hybridnorm*", layer=0, layers=1)
        with pytest.raises(InputError, match=r"^model\.vision\.layers: hybridnorm\* needs at least 2"):
            configure("tiny", vision={"layers": 1, "block": {"preset": "hybridnorm*"}})

    @pytest.mark.parametrize("layer", [-1, 4])
    def test_a_layer_outside_the_tower_is_refused(self, layer):
        with pytest.raises(InputError, match=f"layer: expected 0 to 3 in a tower of 4 layers, got {layer}"):
            block_preset("normformer", layer=layer, layers=4)

    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(InputError, match="preset: unknown choice 'normforma'; did you mean 'normformer'"):
            block_preset("normforma", layer=0, layers=2)
        with pytest.raises(InputError, match=r"model\.vision\.block: preset: unknown choice 'sandwich'; .*hybridnorm"):
            configure("tiny", block={"preset": "sandwich"})

    @pytest.mark.parametrize(
        ("block", "message"),
        [
            ({"preset": "hybridnorm", "attn_norn": ["pre"]}, r"model\.vision\.block: unknown key 'attn_norn'; did you"),
            ({"preset": "hybridnorm", "qkv_norm": "qx"}, r"model\.vision\.qkv_norm: expected letters of 'qkvc'"),
            (
                {"preset": "hybridnorm", "attn_norm": ["before"]},
                r"model\.vision\.attn_norm: expected a list, each 'pre'",
            ),
            ({"preset": "hybridnorm", "attn_norm": "pre"}, r"model\.vision\.attn_norm: expected a list"),
            ({"preset": "hybridnorm", "kv_heads": 3}, r"model\.vision\.kv_heads: expected a divisor of heads=2, got 3"),
            ({"preset": 3}, r"model\.vision\.block\.preset: expected a name, got 3; known: .*normformer"),
            ("hybridnorm", r"model\.vision\.block: expected a mapping.*written \{preset: hybridnorm\}"),
        ],
    )
    def test_wrong_options_on_top_are_named(self, block, message):
        with pytest.raises(InputError, match=message):
            configure("tiny", vision={"block": block})

    @pytest.mark.parametrize("block", ["hybridnorm", 3, ["hybridnorm"]])
    def test_blocks_of_both_towers_that_are_no_mapping_are_named(self, block):
        with pytest.raises(InputError, match=r"model\.vision\.block: expected a mapping, got"):
            configure("tiny", block=block)

    def test_blocks_may_be_given_ready_made(self):
        config = configure("tiny", block=BlockPreset("normformer"), text={"block": BlockConfig(norm="rms")})
        assert (config.vision.block, config.text.block) == (BlockPreset("normformer"), BlockConfig(norm="rms"))

    def test_unknown_options_in_code_are_named(self):
        with pytest.raises(InputError, match="preset normformer: unknown option 'colour'"):
            BlockPreset("normformer", {"colour": 3})


class TestConfiguration:
    def test_options_go_on_top_in_every_layer(self):
        tower = configure("tiny", block={"preset": "hybridnorm*", "activation": "swiglu", "bias": False}).vision
        plain = [block_preset("hybridnorm*", layer=layer, layers=2) for layer in range(2)]
        assert list(tower.blocks) == [dataclasses.replace(one, activation="swiglu", bias=False) for one in plain]

    def test_a_tower_may_differ(self):
        config = configure("tiny", block={"preset": "normformer"}, text={"block": {"preset": "hybridnorm"}})
        assert config.vision.block == BlockPreset("normformer")
        assert config.text.block == BlockPreset("hybridnorm")

    def test_the_preset_follows_the_depth(self):
        config = configure("tiny", vision={"layers": 5}, block={"preset": "hybridnorm*"})
        assert len(config.vision.blocks) == 5
        assert config.vision.blocks[0] != config.vision.blocks[1] == config.vision.blocks[4]

    def test_prenorm_is_what_stands_without_a_preset(self):
        assert configure("tiny", block={"preset": "prenorm"}).text.blocks == configure("tiny").text.blocks

    def test_the_final_norm_is_of_the_blocks_kind(self):
        model = model_with("hybridnorm*")
        assert [name for name, _ in model.visual.norm_post.named_parameters()] == ["weight"]


def test_saved_and_loaded_bit_for_bit(preset, tmp_path):
    model = lively(model_with(preset, norm_eps=1e-4)).float()
    again = tether.load(tether.save(model, tmp_path))
    assert again.config == model.config
    assert json.loads((tmp_path / "model.json").read_text())["model"]["vision"]["block"] == {
        "preset": preset,
        "norm_eps": 1e-4,
    }
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode_image(pictures).pooled, model.encode_image(pictures).pooled)
    ids = model.tokenizer(CAPTIONS)
    assert torch.equal(again.encode_text(ids).pooled, model.encode_text(ids).pooled)


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
def test_export_refuses_what_is_not_clip(preset, library, tmp_path):
    model = model_with(preset).float()
    if preset in CLIP_LIKE:
        export(model, tmp_path, format=library)
        return
    with pytest.raises(InputError, match=rf"{library} has no such blocks as this model's vision tower.*{preset[:5]}"):
        export(model, tmp_path / "new", format=library)
    assert not (tmp_path / "new").exists()
    text_only = create("tiny", text={"block": {"preset": "hybridnorm"}})
    with pytest.raises(InputError, match=f"{library} has no such blocks as this model's text tower"):
        export(text_only, tmp_path / "new", format=library)


class TestTowers:
    def test_the_pooled_token_alone_equals_the_one_among_all(self, preset):
        model = lively(model_with(preset))
        pictures = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        alone, full = model.encode_image(pictures), model.encode_image(pictures, want="tokens")
        assert torch.allclose(alone.pooled, full.pooled, atol=1e-11)
        assert torch.allclose(model.visual.project(full.tokens[:, 0]), full.pooled, atol=1e-11)

    @pytest.mark.parametrize("name", FOR_TEXT)
    def test_packed_and_padded_texts_agree_with_their_gradients(self, name):
        model = lively(model_with(name))
        ids = model.tokenizer(CAPTIONS)
        probe = torch.randn(5, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        results = []
        for want in ("pooled", "tokens"):
            model.zero_grad()
            pooled = model.encode_text(ids, want=want).pooled
            (pooled * probe).sum().backward()
            gradients = {key: value.grad.clone() for key, value in model.text.named_parameters()}
            results.append((pooled.detach(), gradients))
        (packed, mine), (padded, theirs) = results
        assert torch.allclose(packed, padded, atol=1e-11)
        for key, gradient in mine.items():
            assert torch.allclose(gradient, theirs[key], atol=1e-10), key
            assert gradient.abs().max() > 0, key

    @pytest.mark.parametrize("name", FOR_TEXT)
    def test_a_pruned_vocabulary_changes_nothing(self, name):
        whole, pruned = lively(model_with(name)), lively(model_with(name))
        ids = whole.tokenizer(CAPTIONS)
        pruned.prune_vocabulary_(ids)
        for model in (whole, pruned):
            model.encode_text(ids).pooled.square().sum().backward()
        used = pruned.text.token.used
        torch.testing.assert_close(whole.text.token.weight.grad[used], pruned.text.token.weight.grad)
        torch.testing.assert_close(whole.encode_text(ids).pooled, pruned.encode_text(ids).pooled)

    def test_dropped_patches_equal_hidden_ones(self, preset):
        model = lively(model_with(preset))
        pictures = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        keep = torch.tensor([[0, 5, 7], [1, 2, 3], [15, 8, 4]])
        mask = torch.zeros(3, 16, dtype=torch.bool).scatter_(1, keep, True)
        kept = model.encode_image(pictures, keep=keep).pooled
        assert torch.allclose(kept, model.encode_image(pictures, mask=mask).pooled, atol=1e-11)


def test_gains_and_factors_are_not_decayed(preset):
    groups = {group["name"]: group for group in parameter_groups(model_with(preset), weight_decay=0.1)}
    decayed = {name for name, _ in groups["decay"]["params"]}
    plain = {name for name, _ in groups["no_decay"]["params"]}
    assert not [name for name in decayed if "norm" in name or "scale" in name or name.endswith("bias")]
    assert groups["no_decay"]["weight_decay"] == 0
    if preset == "normformer":
        pieces = ("head_scale", "attn_out.weight", "attn_out.bias", "ffn_mid.weight", "ffn_mid.bias")
        assert {f"visual.blocks.{layer}.{piece}" for layer in range(4) for piece in pieces} <= plain
    scaled = {
        group["name"]: group for group in parameter_groups(model_with(preset, residual_scale=True), weight_decay=1)
    }
    assert (
        "text.blocks.0.residual_scale" in {name for name, _ in scaled["no_decay"]["params"]} or preset not in FOR_TEXT
    )


def test_a_recipe_trains_a_preset(preset, tmp_path):
    place = "block" if preset in FOR_TEXT else "vision.block"
    overrides = [
        "size=tiny", "data=emoji:size=32", "steps=2", "batch_size=4", "precision=fp32", "vocabulary=used", "threads=1",
        f"model.{place}.preset={preset}", f"model.{place}.norm_eps=1.0e-4", "schedule=constant",
    ]  # fmt: skip
    config = load_config(overrides=overrides)
    train(config, folder=tmp_path / "run")
    model = tether.load(tmp_path / "run")
    assert model.config.vision.block == BlockPreset(preset, {"norm_eps": 1e-4})
    assert all(value.isfinite().all() for value in model.state_dict().values())
    start = create("tiny", **config.model)
    moved = [
        name
        for name, value in model.visual.named_parameters()
        if not torch.equal(value, start.get_parameter(f"visual.{name}"))
    ]
    assert any("blocks.0" in name for name in moved)


class TestExact:
    """What must hold to the bit, or to the rounding, without any training."""

    @staticmethod
    def block(name, seed=0, dtype=torch.float64, **options):
        config = dataclasses.replace(block_preset(name, layer=1, layers=2), **options)
        block = TransformerBlock(16, heads=4, hidden=24, config=config)
        generator = torch.Generator().manual_seed(seed)
        for value in block.parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, std=0.3, generator=generator)
        for layer in (block.qkv, block.proj, block.up, block.down):
            torch.nn.init.normal_(layer.bias, std=0.1, generator=generator)
        return block.to(dtype)

    @staticmethod
    def stream(dtype=torch.float64):
        return torch.randn(2, 5, 16, dtype=dtype, generator=torch.Generator().manual_seed(3))

    @pytest.mark.parametrize("place", ["heads", "after_proj"])
    def test_normformer_without_its_norms_is_prenorm_bit_for_bit(self, place):
        plain = self.block("prenorm")
        stripped = self.block(
            "normformer", attn_norm=("pre",), ffn_mid_norm=False, head_scale=place, residual_scale=True
        )
        stripped.load_state_dict(plain.state_dict(), strict=False)
        assert torch.equal(stripped.head_scale, torch.ones(4, dtype=torch.float64))
        assert torch.equal(stripped.residual_scale, torch.ones(16, dtype=torch.float64))
        assert torch.equal(stripped(self.stream(), causal=True), plain(self.stream(), causal=True))

    @pytest.mark.parametrize("layer", ["proj", "up"])
    def test_normformer_does_not_feel_the_scale_of_its_weights(self, layer):
        changes = {}
        for name in ("normformer", "prenorm"):
            block = self.block(name, activation="relu")
            with torch.no_grad():
                block.up.bias.zero_()
            x = self.stream()
            with torch.no_grad():
                before = block(x, causal=True) - x
                for value in getattr(block, layer).parameters():
                    value.mul_(10)
                after = block(x, causal=True) - x
            changes[name] = float((after - before).norm() / before.norm())
        assert changes["normformer"] < 1e-3
        assert changes["prenorm"] > 1

    def test_head_factors_belong_to_query_heads(self):
        block = self.block("normformer", kv_heads=2)
        x = self.stream()
        with torch.no_grad():
            block.head_scale.copy_(torch.tensor([0.0, 1, 1, 1]))
            one = block(x, causal=True)
            block.proj.weight[:, :4] = 0
            assert torch.allclose(block(x, causal=True), one, atol=1e-12)
            block.head_scale.fill_(1)
            assert torch.allclose(block(x, causal=True), one, atol=1e-12)

    def test_the_two_places_of_the_head_factors_differ(self):
        factors = torch.tensor([0.5, 1, 2, 3], dtype=torch.float64)
        outs = []
        for place in ("heads", "after_proj"):
            block = self.block("normformer", head_scale=place)
            with torch.no_grad():
                block.head_scale.copy_(factors)
            outs.append(block(self.stream(), causal=True))
        assert (outs[0] - outs[1]).abs().max() > 1e-2

    def test_shifted_post_norm_is_post_norm_with_one_norm_in_front(self):
        """Norms at the start of each sublayer, skips taken from them, and a last one: two blocks, moved by one norm."""
        blocks = [self.block("postnorm", seed=seed, norm="rms") for seed in (1, 2)]
        generator = torch.Generator().manual_seed(5)
        norms = [torch.rand(16, dtype=torch.float64, generator=generator) + 0.5 for _ in range(5)]

        def normed(x, place):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * norms[place]

        with torch.no_grad():
            for place, norm in enumerate(
                (blocks[0].attn_post, blocks[0].ffn_post, blocks[1].attn_post, blocks[1].ffn_post)
            ):
                norm.weight.copy_(norms[place + 1])
        ordinary = normed(self.stream(), 0)
        for block in blocks:
            ordinary = block(ordinary, causal=True)
        shifted = self.stream()
        for place, block in enumerate(blocks):
            bare = self.block("postnorm", seed=place + 1, norm="rms", attn_norm=(), ffn_norm=())
            for mine, theirs in (
                (bare.qkv, block.qkv),
                (bare.proj, block.proj),
                (bare.up, block.up),
                (bare.down, block.down),
            ):
                mine.load_state_dict(theirs.state_dict())
            shifted = normed(shifted, 2 * place)
            quiet = TransformerBlock(16, heads=4, hidden=24, config=BlockConfig(attn_norm=(), ffn_norm=())).double()
            quiet.load_state_dict(bare.state_dict())
            with torch.no_grad():
                quiet.down.weight.zero_()
                quiet.down.bias.zero_()
            shifted = normed(quiet(shifted, causal=True), 2 * place + 1)
            shifted = shifted + bare.down(bare.activation(bare.up(shifted)))
        assert torch.allclose(normed(shifted, 4), ordinary, atol=1e-12)

    def test_queries_keys_and_values_are_normalised_per_head_before_the_turn(self):
        block = self.block("hybridnorm", rope="half", kv_heads=2)
        with torch.no_grad():
            block.qkv.bias.zero_()
            x = self.stream()
            before = block(x, causal=True)
            block.qkv.weight[:4].mul_(7)
            block.qkv.weight[16:20].mul_(3)
            block.qkv.weight[24:28].mul_(5)
        assert torch.allclose(block(x, causal=True), before, atol=1e-3)
        assert block.q_norm.weight.shape == block.v_norm.weight.shape == (4,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelo"}, r"activation: unknown choice 'gelo'; did you mean 'gelu'"),
        ({"norm": "batch"}, "norm: unknown choice 'batch'; known: layer, rms"),
        ({"attention": "performer"}, "attention: unknown choice 'performer'; known: elu, nala, none, relu, softmax"),
        ({"rope": "3d"}, "rope: unknown choice '3d'; known: 2d, half, interleaved, none"),
        ({"attention": "nala", "qkv_norm": "qk"}, "qkv_norm: nala attention reads the length of each query"),
        ({"lepe": 4}, "lepe: expected 0 or the odd side of a kernel, got 4"),
        ({"ffn_conv": 2}, "ffn_conv: expected 0 or the odd side"),
        ({"attn_norm": ("pre", "pre")}, "attn_norm: expected each position once, got pre, pre"),
        ({"qkv_norm": ("qk",)}, r"qkv_norm: expected letters of 'qkvc' once each, got \('qk',\)"),
        ({"qkv_norm": "qqk"}, "qkv_norm: expected letters of 'qkvc' once each, got 'qqk'"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        BlockConfig(**options)


def test_sizes_that_do_not_fit_are_refused_when_described():
    with pytest.raises(InputError, match=r"model\.text\.heads: expected a divisor of the width 64, got 3"):
        configure("tiny", text={"heads": 3})
    with pytest.raises(InputError, match="kv_heads: expected a divisor of heads=4, got 3"):
        TransformerBlock(16, heads=4, hidden=8, config=BlockConfig(kv_heads=3))
    with pytest.raises(InputError, match="heads: expected a divisor of the width 16, got 0"):
        TransformerBlock(16, heads=0, hidden=8, config=BlockConfig(head_scale="heads"))
    with pytest.raises(InputError, match=r"rope: .*got 3"):
        TransformerBlock(12, heads=4, hidden=8, config=BlockConfig(rope="half"))
