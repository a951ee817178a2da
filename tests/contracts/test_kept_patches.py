"""What leaving patches out must keep on every family whose image tower is a vision transformer."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

import tether
from dual_encoders import write_dual_encoder
from families import FAMILIES, PLAIN, SEALED, TEXT, eva_tower, filled, open_clip_tower
from tether.core.errors import UnsupportedModelError
from tether.models.convert.tokenizers import TextPadding
from tether.models.encoders.build_open_clip import open_clip_model
from tether.models.encoders.wrapped import OpenClipEncoder, TransformersEncoder
from tether.models.features.dense import dense_image
from tether.models.features.find import anatomy_of
from tether.models.features.hugging_face import vision_model
from tether.models.features.kept_patches import encode_patches
from tether.models.features.patch_attention import attended
from tether.models.features.penultimate import image_state
from tether.models.refusals import EXCEPTIONS
from tether.models.towers.clip import Clip
from tether.models.towers.patch_selection import RandomTokens


@pytest.fixture(scope="module", params=list(FAMILIES))
def named(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return request.param, FAMILIES[request.param](tmp_path_factory.mktemp("family")).double().eval()


def images_of(model):
    return torch.randn(3, 3, *model.image_spec.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def chosen(model, images, **settings):
    grid = anatomy_of(model).grid(images)
    scores = torch.rand(len(images), grid[0] * grid[1], generator=torch.Generator().manual_seed(1))
    return RandomTokens(**settings)(scores, grid=grid)


def test_some_patches_or_a_reason(named):
    name, model = named
    images = images_of(model)
    if (name, "image") in SEALED:
        with pytest.raises(UnsupportedModelError) as caught:
            encode_patches(model, images, keep=torch.zeros(3, 1, dtype=torch.int64))
        assert EXCEPTIONS[SEALED[name, "image"]] in str(caught.value)
        return
    whole = model.encode_image(images).pooled
    every = chosen(model, images, keep=1.0, order="score")
    torch.testing.assert_close(encode_patches(model, images, keep=every).pooled, whole, rtol=0, atol=1e-6)

    keep = chosen(model, images, keep=0.5)
    images.requires_grad_()
    some = encode_patches(model, images, keep=keep)
    assert some.pooled.shape == whole.shape
    assert (some.pooled - whole).abs().amax(dim=1).min() > 1e-6
    state, dense = image_state(model, images, keep=keep), dense_image(model, images, keep=keep)
    for other in (state, dense):
        torch.testing.assert_close(other.pooled, some.pooled, rtol=0, atol=1e-9)
    assert dense.tokens.shape[1] == keep.shape[1]

    some.pooled.square().sum().backward()
    rows, columns = anatomy_of(model).grid(images)
    seen = images.grad.abs().unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).amax(dim=(1, 3, 5)).flatten(1)
    left_out = torch.ones_like(seen, dtype=torch.bool).scatter(1, keep, False)
    assert seen[left_out].max() == 0
    assert seen[~left_out].min() > 0
    parts = [value for key, value in model.named_parameters() if key.startswith(model.image_weights)]
    grads = [value.grad for value in parts if value.requires_grad]
    assert sum(grad is not None and bool(grad.any()) for grad in grads) > len(grads) / 2


def test_order_and_neighbours_change_no_embedding(named):
    name, model = named
    if (name, "image") in SEALED:
        return
    images = images_of(model)
    keep = chosen(model, images, keep=0.5)
    found = encode_patches(model, images, keep=keep).pooled
    turned = encode_patches(model, images.flip(0), keep=keep.flip(0, 1)).pooled.flip(0)
    torch.testing.assert_close(turned, found, rtol=0, atol=1e-6)


def test_attention_over_patches(named):
    name, model = named
    if (name, "image") in SEALED or name == "open_clip cosines":
        return
    images = images_of(model)
    rows, columns = anatomy_of(model).grid(images)
    look = attended(model, images)
    assert look.scores.shape == (3, rows * columns)
    assert look.scores.min() > 0
    torch.testing.assert_close(look.features.pooled, model.encode_image(images).pooled, rtol=0, atol=1e-9)


SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VITS = {
    "vit": {},
    "deit": {},
    "vit_msn": {},
    "ijepa": {},
    "dinov2": {"layerscale_value": 0.4},
    "dinov2_with_registers": {"use_swiglu_ffn": True, "num_register_tokens": 3},
}


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize("output", ["pooler", "cls", "mean"])
def test_every_vit_of_transformers(kind, output):
    config = transformers.CONFIG_MAPPING[kind](**SHAPE, image_size=32, patch_size=8, **VITS[kind])
    model = filled(transformers.AutoModel.from_config(config)).double().eval()
    tower = vision_model(model, inputs=lambda image: {"pixel_values": image}, output=output, head=[])
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found, stream = model(pixel_values=images), tower.embed(images)
    states = found.last_hidden_state
    expected = {"pooler": found.get("pooler_output"), "cls": states[:, 0], "mean": states.mean(1)}[output]
    if expected is not None:
        torch.testing.assert_close(tower.read_out(tower.run(stream)), expected, rtol=0, atol=1e-9)
    assert tower.grid(images) == (4, 4)
    assert stream.x.shape[1] == tower.prefix + 16
    for block in tower.blocks:
        y = stream.x + block.attention(stream.x, stream.layout)
        stream = stream.to(block(stream.x, stream.layout))
        torch.testing.assert_close(y + block.feed_forward(y, stream.layout), stream.x, rtol=0, atol=1e-9)
        assert {"q", "k", "v", "o", "up", "down"} <= block.linears().keys()
        assert block.norms().keys() == {"norm1", "norm2"}

    keep = torch.tensor([[3, 14, 15], [9, 2, 6], [5, 3, 8]])
    if kind == "ijepa" and output != "mean":
        with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["no dropping"]):
            tower.embed_some(images, keep=keep)
        return
    left = tower.embed_some(images, keep=keep)
    assert left.x.shape[1] == tower.prefix + 3
    torch.testing.assert_close(left.x[1, -1], tower.embed(images).x[1, tower.prefix + 6])


@pytest.mark.parametrize("kind", ["beit", "swin", "convnext"])
def test_towers_without_plain_blocks_are_refused(kind):
    sizes = {"beit": SHAPE | {"image_size": 32, "patch_size": 8}, "swin": {"image_size": 32, "embed_dim": 8}}
    model = transformers.AutoModel.from_config(
        transformers.CONFIG_MAPPING[kind](**sizes.get(kind, {"depths": [1] * 4}))
    )
    with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["other transformer"]):
        vision_model(model, inputs=lambda image: {"pixel_values": image}, output="pooler", head=[])


def open_clips_own(folder):
    """A CLIP that open_clip made, as Tether's own towers and as it is."""
    cfg = {"embed_dim": 24, "vision_cfg": PLAIN | {"patch_size": 8}, "text_cfg": TEXT}
    made = open_clip_model(cfg, None)
    save_file(filled(made).state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    own = tether.load(folder)
    more = {"dim": 24, "image_spec": own.image_spec, "tokenizer": own.tokenizer}
    return own, OpenClipEncoder(made, config=cfg, **more).eval()


def transformers_own(folder):
    """The same of transformers."""
    made, _ = write_dual_encoder(folder, "clip")
    own = tether.load(folder)
    config = {"model_type": "clip", "vision_config": made.config.vision_config.to_dict()}
    more = {"dim": 24, "image_spec": own.image_spec, "tokenizer": own.tokenizer}
    return own, TransformersEncoder(made, config=config, text_padding=TextPadding(0, masked=False), **more).eval()


@pytest.mark.parametrize("library", [open_clips_own, transformers_own])
def test_wrapped_towers_see_what_own_ones_see(library, tmp_path):
    own, wrapped = library(tmp_path)
    assert isinstance(own, Clip)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert anatomy_of(wrapped).grid(images) == anatomy_of(own).grid(images) == (4, 4)
    for settings in ({"keep": 0.5}, {"keep": 0.3, "rule": "truncate", "order": "score"}):
        keep = chosen(own, images, **settings)
        expected = encode_patches(own, images, keep=keep).pooled
        torch.testing.assert_close(encode_patches(wrapped, images, keep=keep).pooled, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(attended(wrapped, images).scores, attended(own, images).scores, rtol=0, atol=1e-5)


def test_turns_of_each_block_go_with_their_patches(tmp_path):
    model = eva_tower(tmp_path, rope_type="mixed", global_pool="avg").double()
    images = images_of(model)
    every = chosen(model, images, keep=1.0, order="score")
    found = encode_patches(model, images, keep=every).pooled
    torch.testing.assert_close(found, model.encode_image(images).pooled, rtol=0, atol=1e-9)


def test_a_tower_that_drops_patches_itself_is_refused(tmp_path):
    model = open_clip_tower(tmp_path, PLAIN | {"patch_dropout": 0.5, "pool_type": "avg"}).double()
    images, keep = images_of(model), torch.zeros(3, 1, dtype=torch.int64)
    assert encode_patches(model.eval(), images, keep=keep).pooled.isfinite().all()
    with pytest.raises(UnsupportedModelError, match=EXCEPTIONS["no dropping"]):
        encode_patches(model.train(), images, keep=keep)
