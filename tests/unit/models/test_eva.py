"""EVA's image towers: equal to timm's with copied weights, their sizes, their patches, and weights from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva

import tether
from tether.core.errors import InputError
from tether.core.types import ImageSpec
from tether.methods.eva_clip_18b.eva import load_tower_
from tether.methods.positional_artefacts.clipped_encoder import ClippedDualEncoder
from tether.models import create
from tether.models.compose import compose
from tether.models.features.decompose import decompose
from tether.models.features.find import anatomy_of
from tether.models.presets import configure
from tether.models.towers.vision.eva import EvaTower
from tether.models.towers.vision.eva_config import EvaConfig, eva_block
from tether.models.towers.vision.eva_sizes import EVA_SIZES

SHAPE: dict[str, Any] = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 48,
    "depth": 2,
    "num_heads": 4,
}
GATED = {"mlp_ratio": 8 / 3, "swiglu_mlp": True}
INNER = {"scale_mlp": True, "scale_attn_inner": True}
TURNED = {"use_rot_pos_emb": True, "ref_feat_shape": (6, 6)}
THEIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "eva02 base": ({**GATED, **INNER, **TURNED, "qkv_fused": False}, {"swiglu": True, "sub_norm": True}, {"span": 6}),
    "eva02 tiny": ({**GATED, **TURNED, "init_values": 0.3}, {"swiglu": True, "layer_scale": 0.3}, {"span": 6}),
    "eva02 enormous": ({"mlp_ratio": 5, "use_post_norm": True}, {"norm_position": "post"}, {}),
    "eva giant": ({"mlp_ratio": 4}, {}, {}),
}
"""timm's options, and ours of the block and of the tower."""


def own(block: dict[str, Any], *, hidden: int, span: int | None = None, **more: Any) -> EvaTower:
    config = EvaConfig(
        image=ImageSpec(size=(32, 32)),
        patch=8,
        width=48,
        layers=2,
        heads=4,
        hidden=hidden,
        block=eva_block(**block),
        rope_span=span,
        **more,
    )
    return EvaTower(config, dim=10)


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight away from where it starts, so that none can be left out unseen."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape) * 0.1)
    return model.eval()


@pytest.mark.parametrize("name", THEIRS)
def test_is_timms_tower_with_its_weights(name: str, tmp_path: Path) -> None:
    options, block, tower = THEIRS[name]
    theirs = shaken(Eva(**SHAPE, **options, num_classes=10, global_pool="token"))
    ours = own(block, hidden=int(48 * options["mlp_ratio"]), **tower)
    save_file({f"visual.trunk.{key}": value for key, value in theirs.state_dict().items()}, tmp_path / "w.safetensors")
    report = load_tower_(ours, tmp_path / "w.safetensors")
    assert (report.missing, report.unexpected, report.resized) == ((), (), ())
    assert len(report.loaded) == len(ours.state_dict())
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(image).pooled, theirs(image), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("eva02-b-16", "eva02_base_patch16_clip_224"),
        ("eva02-l-14-336", "eva02_large_patch14_clip_336"),
        ("eva02-e-14-plus", "eva02_enormous_patch14_clip_224"),
        ("eva01-g-14", "eva_giant_patch14_clip_224"),
    ],
)
def test_published_sizes_have_timms_parameters(name: str, theirs: str) -> None:
    config = configure(name)
    with torch.device("meta"):
        ours, other = EvaTower(eva(config), dim=config.dim), timm.create_model(theirs, num_classes=config.dim)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in other.parameters())


def eva(config: Any) -> EvaConfig:
    assert isinstance(config.vision, EvaConfig)
    return config.vision


@pytest.mark.parametrize(("name", "billions"), [("eva-clip-8b", 7.5), ("eva-clip-8b-448", 7.5), ("eva-clip-18b", 17.5)])
def test_the_largest_are_counted_without_memory(name: str, billions: float) -> None:
    with torch.device("meta"):
        model = tether.models.Clip(EVA_SIZES[name])
    width, layers = model.config.vision.width, model.config.vision.layers
    tokens = model.config.vision.grid[0] ** 2 + 1
    block = 3 * width**2 + (width**2 + width) + (5 * width**2 + 5 * width) + (5 * width**2 + width) + 2 * width
    stem = (3 * 14**2 + 1) * width + width + tokens * width
    visual = sum(p.numel() for p in model.visual.parameters())
    assert visual == stem + layers * block + width + width * model.config.dim
    assert visual / 1e9 == pytest.approx(billions, rel=0.01)
    assert sum(p.numel() for p in model.text.parameters()) / 1e9 == pytest.approx(0.69, rel=0.01)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_dropped_patches_are_as_hidden_ones(pool: str) -> None:
    model = create("eva02-tiny", vision={"pool": pool}).eval()
    shaken(model)
    image, keep = torch.randn(2, 3, 32, 32), torch.tensor([[9, 2, 5], [0, 15, 7]])
    seen = torch.zeros(2, 16, dtype=torch.bool).scatter(1, keep, True)
    dropped, hidden = model.encode_image(image, keep=keep), model.encode_image(image, mask=seen)
    torch.testing.assert_close(dropped.pooled, hidden.pooled)
    assert not torch.allclose(dropped.pooled, model.encode_image(image).pooled)
    found = model.encode_image(image, want="tokens")
    torch.testing.assert_close(found.pooled, model.encode_image(image).pooled)
    if pool == "mean":
        assert found.tokens is not None
        torch.testing.assert_close(model.visual.project(model.visual.norm_post(found.tokens.mean(1))), found.pooled)


def test_a_larger_grid_is_laid_over_the_same_span() -> None:
    model = create("eva02-tiny")
    wide = model.resized(image_size=64, how={"name": "bicubic", "antialias": False, "kernel": "plain"})
    x = torch.randn(1, 2, 1, 32, dtype=torch.float64)
    turned = [
        each.visual.blocks[0].rope(x, position=torch.tensor([place]), theta=1e4)
        for each, place in ((model, [1, 3]), (wide, [2, 6]))
    ]
    torch.testing.assert_close(*turned)
    assert load_tower_(wide.visual, _released(model)).resized == ("position",)


def _released(model: Any) -> dict[str, torch.Tensor]:
    """Stem and norm in the released code's names."""
    tower = model.visual
    return {
        "cls_token": tower.class_token[None, None],
        "pos_embed": tower.position[None],
        "patch_embed.proj.weight": tower.patch.weight.unflatten(1, (3, 8, 8)),
        "norm.weight": tower.norm_post.weight,
    }


def test_the_report_says_what_became_of_each_weight() -> None:
    model = create("eva02-tiny")
    state = {f"module.visual.{name}": value for name, value in _released(model).items()}
    more = {"module.visual.head.weight": torch.zeros(3, 64), "module.visual.blocks.9.norm1.weight": torch.zeros(64)}
    others = {"module.logit_scale": torch.ones(()), "module.text.ln_final.weight": torch.ones(64)}
    before = {name: value.clone() for name, value in model.visual.state_dict().items()}
    with pytest.raises(InputError, match=r"projection.weight is \(3, 64\), expected \(64, 64\)"):
        load_tower_(model.visual, {**state, **more, **others})
    assert all(torch.equal(value, before[name]) for name, value in model.visual.state_dict().items())
    report = load_tower_(model.visual, {**state, **more, **others}, skip=("head",))
    assert report.skipped == ("head.weight",)
    assert report.unexpected == ("blocks.9.norm1.weight",)
    assert set(report.loaded) == {"class_token", "position", "patch.weight", "norm_post.weight"}
    for key in ("state_dict", "model", "module"):
        assert load_tower_(model.visual, {key: {**state, **more}, "epoch": 3}, skip=("head",)) == report
    assert {"projection.weight", "blocks.0.qkv.q_bias"} < set(report.missing)
    finer = {**_released(model), "patch_embed.proj.weight": torch.randn(64, 3, 4, 4)}
    assert load_tower_(model.visual, finer).resized == ("patch.weight",)
    with pytest.raises(InputError, match=r"patch.weight is \(64, 48\), expected \(64, 192\)"):
        load_tower_(model.visual, finer, resize=None)
    with pytest.raises(InputError, match="begins with it"):
        load_tower_(model.visual, state, skip=("heads",))
    with pytest.raises(InputError, match="another architecture"):
        load_tower_(model.visual, {"a.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pos_embed": torch.zeros(())}, r"position is \(\), expected"),
        ({"pos_embed": torch.zeros(1, 37, 0)}, r"position is \(1, 37, 0\)"),
        ({"cls_token": torch.ones(1, 1, 64, dtype=torch.bool)}, r"cls_token is torch.bool, expected floating point"),
        ({"cls_token": 3}, "cls_token is int, expected floating point"),
        (
            {"blocks.0.mlp.fc1_g.weight": torch.zeros(170, 64), "blocks.0.mlp.fc1_x.weight": torch.zeros(170, 8, 8)},
            r"blocks.0.up.weight is .*\(170, 8, 8\)",
        ),
        (
            {"blocks.0.mlp.w1.weight": torch.zeros(170, 64), "blocks.0.mlp.fc1_g.weight": torch.zeros(170, 64)},
            "is there twice",
        ),
    ],
)
def test_weights_that_are_none(more: dict[str, Any], said: str) -> None:
    model = create("eva02-tiny")
    before = {name: value.clone() for name, value in model.visual.state_dict().items()}
    with pytest.raises(InputError, match=said):
        load_tower_(model.visual, {**_released(model), **more})
    assert all(torch.equal(value, before[name]) for name, value in model.visual.state_dict().items())
    with pytest.raises(InputError, match="another architecture"):
        load_tower_(model.visual, {f"blocks.{'9' * 5000}.norm1.weight": torch.zeros(1)})


def test_pickles_are_refused(tmp_path: Path) -> None:
    torch.save(_released(create("eva02-tiny")), tmp_path / "eva.pt")
    with pytest.raises(InputError, match="a pickle"):
        load_tower_(create("eva02-tiny").visual, tmp_path / "eva.pt")


def test_saved_and_loaded_alone_and_as_a_tower_of_another(tmp_path: Path) -> None:
    model = create("tiny", vision={"tower": "eva", "rope_span": 4, "pool": "mean", "block": {"norm": "rms"}}).eval()
    tether.save(model, tmp_path / "model")
    again, image = tether.load(tmp_path / "model"), torch.rand(2, 3, 32, 32)
    assert again.config == model.config
    torch.testing.assert_close(again.encode_image(image).pooled, model.encode_image(image).pooled)
    whole = compose(image=tmp_path / "model", text={"name": "tiny", "random_weights": True})
    tether.save(whole, tmp_path / "composed")
    found = tether.load(tmp_path / "composed").before_maps().encode_image(image).pooled
    torch.testing.assert_close(found, model.encode_image(image).pooled)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_is_looked_into(pool: str) -> None:
    model = create("eva02-tiny", vision={"block": {"ctx_norm": False}, "pool": pool})
    shaken(model)
    tower, image = anatomy_of(model, "image"), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = tower.read_out(tower.run(tower.embed(image)))
        torch.testing.assert_close(found, model.encode_image(image).pooled)
        unit = model.encode_image(image).unit
    torch.testing.assert_close(decompose(model, image).total().float(), unit, rtol=1e-4, atol=1e-5)
    if pool == "mean":
        with pytest.raises(InputError, match="projects a mean"):
            ClippedDualEncoder(model, image_dims=[0])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vision": {"tower": "swin"}}, "unknown tower 'swin'"),
        ({"vision": {"tower": "eva"}, "towers": "shared"}, "for images alone"),
        ({"vision": {"tower": "eva", "heads": 32}}, "heads of a multiple of 4 channels"),
        ({"vision": {"tower": "eva", "block": {"rope": "2d"}}}, "expected rope: none"),
        ({"vision": {"tower": "eva", "pool": "max"}}, "pool"),
        ({"vision": {"tower": "eva", "rope_span": 0}}, "rope_span"),
        ({"vision": {"rope_span": 4}}, "unknown key 'rope_span'"),
    ],
)
def test_refuses(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        create("tiny", **settings)


def test_is_not_given_to_libraries_that_have_no_such_tower(tmp_path: Path) -> None:
    model = create("tiny", vision={"tower": "eva", "rope_span": None, "block": {"norm_eps": 1e-5}})
    with pytest.raises(InputError, match="EVA's"):
        tether.export(model, tmp_path / "out", format="open_clip")
