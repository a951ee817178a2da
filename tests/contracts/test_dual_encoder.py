"""What every model that ``tether.load`` returns must keep: one suite over all of them."""

import copy
import functools
import json

import pytest
import torch
from torch import nn

import encoders
import tether
from families import FAMILIES
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.core.protocols import DualEncoder, Tokenizer
from tether.core.types import Encoded
from tether.models import MODELS, create
from tether.models.compose import compose
from tether.models.composed import starter
from tether.models.composed.cached import CachedEncoder, side_digest
from tether.models.encoders.tower_parts import SIDES, side_parts
from tether.models.latent.clip import init_from_pixel_clip
from tether.models.latent.codec import ConvCodec
from tether.models.towers.blocks.presets import BLOCK_PRESETS, BlockPreset, block_stack
from tether.training.locked_towers import resting_sides

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]

FAMILIES_HERE = (
    "open_clip ViT", "PE-Core", "EVA02", "SigLIP 2", "MobileCLIP2", "RN50", "CoCa", "transformers' CLIP",
    "composed ViT",
)  # fmt: skip

# (model, check): why this model is let off.
EXCEPTIONS = {
    ("siglip", "mask"): "transformers' SigLIP pools with a head of its own that takes no mask; it must refuse one",
    ("convnext", "mask"): "a convolution has no tokens to hide; it must refuse a mask",
    ("composed", "mask"): "its towers are any library's; it must refuse a mask",
    ("starter", "mask"): "as any composed encoder",
    ("convnext", "patch"): "a convolutional network has no patches; it must refuse another one",
    ("composed", "patch"): "its image tower is a convolutional network",
    ("starter", "patch"): "its image tower is a convolutional network",
    **{(name, "mask"): "another library's towers take none; it must refuse a mask" for name in FAMILIES_HERE},
    **{
        (name, "resized"): "a network at a tiny width, which no description names; it must refuse"
        for name in ("PE-Core", "EVA02", "SigLIP 2", "MobileCLIP2")
    },
    ("RN50", "square"): "open_clip makes its table for square images; it must refuse others",
    ("RN50", "patch"): "a convolutional network has no patches; it must refuse another one",
    ("latents", "leak"): "its codec's convolutions carry a hidden patch's pixels to its neighbours before it is hidden",
    ("CoCa", "idle"): "its decoder writes captions, and takes no part in embeddings",
}


WORDS = ["a", "small", "red", "cat", "sits", "on", "the", "long", "green", "mat", "in", "sun", "dog", "of", "and"]


def _own_tiny(folder):
    return create("tiny", seed=1).eval()


def _own_preset(folder, preset):
    block = {"block": {"preset": preset}}
    pictures_only = any(block.needs_grid for block in block_stack(BlockPreset(preset), layers=2))
    return create("tiny", seed=1, vision=block, text={} if pictures_only else block).eval()


def _own_eva_clip(folder):
    """RMS norms after each sublayer, no offset of queries, a mean of all tokens."""
    block = {"norm": "rms", "attn_norm": ["out"], "ffn_norm": ["out"], "activation": "gelu", "ctx_norm": False}
    vision = {"tower": "eva", "rope_span": None, "qkv_bias": False, "pool": "mean", "block": block}
    return create("tiny", seed=1, vision=vision).eval()


def _own_latents(folder):
    """A copy on latents of a model on pixels, with its codec."""
    codec = ConvCodec(width=16, scale=2.0)
    return init_from_pixel_clip(create("tiny", seed=1), codec=codec, seed=2).eval()


def _own_small(folder):
    tether.save(create("small", seed=1), folder)
    return tether.load(folder)


def _open_clip_vit(folder):
    import open_clip
    from safetensors.torch import save_file

    cfg = {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(48, cfg["vision_cfg"], cfg["text_cfg"], quick_gelu=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    return tether.load(folder)


def _convnext(folder):
    import open_clip
    from safetensors.torch import save_file

    cfg = {
        "embed_dim": 48,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    path = folder / "open_clip_config.json"
    path.write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return tether.load(folder)


def _siglip(folder):
    return encoders.transformers(folder, words=WORDS)


def _hugging_face_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    shape = {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 24}
    config = CLIPConfig(
        text_config=shape | {"hidden_size": 32, "max_position_embeddings": 16},
        vision_config=shape | {"hidden_size": 48, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    return tether.load(folder)


def _composed(folder):
    from safetensors.torch import save_file
    from timm import create_model
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    save_file(create_model("test_convnext").state_dict(), folder / "convnext.safetensors")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=16, **shape)).save_pretrained(folder)
    encoders.word_tokenizer(folder, words=WORDS)
    image = {"name": f"timm:test_convnext/{folder / 'convnext.safetensors'}", "train": "tuned"}
    return compose(image=image, text={"name": str(folder), "train": "tuned"}, dim=24).eval()


def _starter(folder):
    """With its real towers, and maps that no text was encoded for."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"names": (1000, 384), "mean": (384,), "ridge": (384, 1280)}
    fitted = {name: 0.05 * torch.randn(size, generator=generator) for name, size in sizes.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starter, "_fitted", lambda model, weight: fitted)
        return tether.load("starter")


def _family(folder, name):
    return FAMILIES[name](folder).eval()


BUILDERS = {
    "tiny": _own_tiny,
    "small": _own_small,
    "EVA-02's": lambda folder: create("eva02-tiny", seed=1).eval(),
    "EVA-CLIP's": _own_eva_clip,
    "latents": _own_latents,
    "open_clip_vit": _open_clip_vit,
    "hugging_face_clip": _hugging_face_clip,
    "siglip": _siglip,
    "convnext": _convnext,
    "composed": _composed,
    "starter": _starter,
    **{name: functools.partial(_family, name=name) for name in FAMILIES_HERE},
    **{preset: functools.partial(_own_preset, preset=preset) for preset in BLOCK_PRESETS if preset != "prenorm"},
}
TEXTS = ["a cat", "a small red cat sits on the long green mat", "the dog in the sun", "mat"]


@pytest.fixture(scope="module", params=list(BUILDERS))
def named(request, tmp_path_factory):
    return request.param, BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def model(named):
    return named[1]


@pytest.fixture
def pixels(model):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (4, 3, *model.image_spec.size), dtype=torch.uint8, generator=generator)


@pytest.fixture
def text(model):
    return model.tokenizer(TEXTS)


def test_every_kind_is_here(tmp_path_factory):
    kinds = {type(BUILDERS[name](tmp_path_factory.mktemp(name))) for name in ("tiny", "siglip", "convnext", "composed")}
    assert kinds == set(MODELS.values())


def test_is_a_dual_encoder(model):
    assert isinstance(model, DualEncoder)
    assert isinstance(model, nn.Module)
    assert isinstance(model.tokenizer, Tokenizer)
    assert type(model) in MODELS.values()


def test_pooled_has_the_shape_it_says(model, pixels, text):
    for features in (model.encode_image(pixels), model.encode_text(text)):
        assert features.pooled.shape == (4, model.dim)
        assert features.pooled.dtype == torch.float32
        assert torch.isfinite(features.pooled).all()
        assert torch.allclose(features.unit.norm(dim=1), torch.ones(4), atol=1e-5)
        assert not torch.allclose(features.pooled.norm(dim=1), torch.ones(4), atol=1e-3)


def test_raw_pixels_are_normalised_inside(model, pixels):
    mean, std = torch.tensor(model.image_spec.mean), torch.tensor(model.image_spec.std)
    floats = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(model.encode_image(pixels).pooled, model.encode_image(floats).pooled, atol=1e-4)


def test_a_row_does_not_see_its_neighbours(model, pixels, text):
    images, texts = model.encode_image(pixels).pooled, model.encode_text(text).pooled
    assert torch.allclose(model.encode_image(pixels[2:3]).pooled[0], images[2], atol=1e-5)
    assert torch.allclose(model.encode_text(text[2:3]).pooled[0], texts[2], atol=1e-5)
    assert not torch.allclose(texts[0], texts[1], atol=1e-4)
    assert not torch.allclose(images[0], images[1], atol=1e-5)


def test_trailing_zeros_change_nothing(model, text):
    wide = torch.zeros(4, model.tokenizer.context_length, dtype=torch.int64)
    wide[:, : text.shape[1]] = text
    assert torch.allclose(model.encode_text(wide).pooled, model.encode_text(text).pooled, atol=1e-5)


def test_kept_rows_are_its_own_and_computed_once(model, pixels, text, tmp_path, monkeypatch):
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path))
    for computed in (4, 0):
        kept = CachedEncoder(copy.deepcopy(model))
        assert torch.allclose(kept.encode_image(pixels).pooled, model.encode_image(pixels).pooled, atol=1e-5)
        assert torch.allclose(kept.encode_text(text).pooled, model.encode_text(text).pooled, atol=1e-5)
        assert kept.computed == {"image": computed, "text": computed}
    assert model_digest(kept) == model_digest(model)


@pytest.mark.parametrize("side", SIDES)
def test_a_tower_can_rest_and_goes_by_its_own_weights(model, side):
    other = copy.deepcopy(model)
    before = {one: side_digest(other, one) for one in SIDES}
    with torch.no_grad():
        for part in side_parts(other, side).values():
            for value in [part] if isinstance(part, nn.Parameter) else part.parameters():
                value.requires_grad_(False).mul_(1.25)
    assert side in resting_sides(other)
    assert [one for one in SIDES if side_digest(other, one) != before[one]] == [side]


def test_scale_and_bias(model):
    assert model.logit_scale.ndim == 0
    assert model.logit_scale.item() > 0
    assert model.logit_scale.requires_grad
    assert model.logit_bias is None or model.logit_bias.ndim == 0


def test_scale_is_clamped_in_place(model):
    other = copy.deepcopy(model)
    theta = next(value for name, value in other.named_parameters() if name.endswith("logit_scale"))
    for start, end in ((9.0, 100.0), (-1.0, 1.0)):
        with torch.no_grad():
            theta.fill_(start)
        other.clamp_logit_scale_()
        assert other.logit_scale.item() == pytest.approx(end, rel=1e-5)


def test_forward_gives_both_sides_and_every_weight_learns(named, model, pixels, text):
    other = copy.deepcopy(model)
    out = other(pixels, text)
    assert isinstance(out, Encoded)
    assert torch.allclose(out.image.pooled, model.encode_image(pixels).pooled, atol=1e-5)
    logits = out.logit_scale * out.image.unit @ out.text.unit.T
    if out.logit_bias is not None:
        logits = logits + out.logit_bias
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    if out.logit_bias is not None:  # a softmax cancels the bias; the sigmoid loss is what trains it
        nn.functional.softplus(-other(pixels, text).logit_bias).backward()
    learning = [(name, value.grad) for name, value in other.named_parameters() if value.requires_grad]
    still = [name for name, grad in learning if grad is None or not grad.isfinite().all()]
    if (named[0], "idle") in EXCEPTIONS:
        still = [name for name in still if not name.startswith("model.text_decoder.")]
    assert still == []


def test_mask(named, model, pixels, text):
    name, _ = named
    if (name, "mask") in EXCEPTIONS:
        with pytest.raises(InputError, match="mask"):
            model.encode_image(pixels, mask=torch.ones(4, 1, dtype=torch.bool))
        with pytest.raises(InputError, match="mask"):
            model.encode_text(text, mask=torch.ones_like(text, dtype=torch.bool))
        return
    patch, (rows, columns) = model.config.vision.patch, model.config.vision.grid
    every = torch.ones(4, rows * columns, dtype=torch.bool)
    plain = model.encode_image(pixels).pooled
    assert torch.allclose(model.encode_image(pixels, mask=every).pooled, plain, atol=1e-5)
    hidden = every.clone()
    hidden[:, 0] = False
    masked = model.encode_image(pixels, mask=hidden).pooled
    other = pixels.clone()
    other[:, :, :patch, :patch] = 255 - other[:, :, :patch, :patch]
    if (name, "leak") not in EXCEPTIONS:
        assert torch.allclose(model.encode_image(other, mask=hidden).pooled, masked, atol=1e-5)
    assert not torch.allclose(masked, plain, atol=1e-5)
    everything = torch.ones_like(text, dtype=torch.bool)
    assert torch.allclose(model.encode_text(text, mask=everything).pooled, model.encode_text(text).pooled, atol=1e-5)
    seen = everything.clone()
    seen[:, 1] = False
    swapped = text.clone()
    swapped[:, 1] = 320
    assert torch.allclose(
        model.encode_text(swapped, mask=seen).pooled, model.encode_text(text, mask=seen).pooled, atol=1e-5
    )


@pytest.mark.parametrize(
    "shape", [(4, 1, 8, 8), (3, 8, 8), (1, 3, 7, 8)], ids=["one channel", "no batch", "wrong size"]
)
def test_wrong_pictures_are_named(model, shape):
    with pytest.raises(InputError, match=r"image: expected \(b, 3"):
        model.encode_image(torch.zeros(shape))


def test_wrong_texts_are_named(model, text):
    with pytest.raises(InputError, match="int64"):
        model.encode_text(text.int())
    with pytest.raises(InputError, match="int64"):
        model.encode_text(torch.ones(1, model.tokenizer.context_length + 1, dtype=torch.int64))


def test_bfloat16_stays_close(model, pixels, text):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        image, words = model.encode_image(pixels), model.encode_text(text)
    for low, high in ((image, model.encode_image(pixels)), (words, model.encode_text(text))):
        assert (low.unit.float() * high.unit).sum(1).min() > 0.98


def test_float64(model, pixels, text):
    double = copy.deepcopy(model).double()
    for low, high in (
        (model.encode_image(pixels), double.encode_image(pixels)),
        (model.encode_text(text), double.encode_text(text)),
    ):
        assert high.pooled.dtype == torch.float64
        assert torch.allclose(low.pooled.double(), high.pooled, atol=1e-4)


def test_state_dict_round_trip(named, model, pixels):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    other.load_state_dict(model.state_dict())
    assert torch.allclose(other.encode_image(pixels).pooled, model.encode_image(pixels).pooled, atol=1e-6)


def test_tokenizer_trims_and_counts(model):
    tokenizer = copy.deepcopy(model.tokenizer)
    ids = tokenizer(TEXTS)
    assert ids.dtype == torch.int64
    assert ids.shape[1] <= tokenizer.context_length
    assert ids[:, -1].any()
    assert 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size
    assert torch.equal(tokenizer(TEXTS), ids)
    before = tokenizer.cut
    long = tokenizer(["cat " * (tokenizer.context_length + 1), "a cat"])
    assert long.shape == (2, tokenizer.context_length)
    assert long[0, -1] == ids[0][ids[0] != 0][-1]
    assert tokenizer.cut == before + 1


@torch.no_grad()
def test_a_copy_at_its_own_sizes_is_the_same(named, model, pixels, text):
    if (named[0], "resized") in EXCEPTIONS:
        with pytest.raises(UnsupportedModelError, match="not those of its description"):
            model.resized(image_size=model.image_spec.size)
        return
    same = model.resized(image_size=model.image_spec.size, context=model.tokenizer.context_length)
    assert same is not model
    assert type(same) is type(model)
    assert [same.image_spec, same.training] == [model.image_spec, model.training]
    assert model_digest(same) == model_digest(model)
    assert torch.equal(same.encode_image(pixels).pooled, model.encode_image(pixels).pooled)
    assert torch.equal(same.encode_text(text).pooled, model.encode_text(text).pooled)


@torch.no_grad()
def test_other_sizes(named, model, pixels, tmp_path):
    name, _ = named
    if (name, "resized") in EXCEPTIONS:
        with pytest.raises(UnsupportedModelError, match="not those of its description"):
            model.resized(context=model.tokenizer.context_length + 5)
        return
    before, digest = model.image_spec, model_digest(model)
    step = model.stride or 32
    size, context = (before.size[0] + step, before.size[1] + 2 * step), model.tokenizer.context_length + 5
    if (name, "square") in EXCEPTIONS:
        with pytest.raises(UnsupportedModelError, match="square images alone"):
            model.resized(image_size=size)
        size = (size[0], size[0])
    with pytest.raises(InputError, match=r"model\.resized\(image_size=\.\.\.\)"):
        model.encode_image(torch.zeros(1, 3, *size))
    other = model.resized(image_size=size, context=context)
    image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    ids = other.tokenizer(["cat " * (context + 1), "a cat"])
    assert ids.shape[1] == context
    found = other.encode_image(image).unit, other.encode_text(ids).unit
    for rows in found:
        assert rows.shape == (2, model.dim)
        assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-5)
    again = tether.load(tether.save(other, tmp_path / "model"))
    assert [again.image_spec, again.tokenizer.context_length] == [other.image_spec, context]
    assert model_digest(again) == model_digest(other) != digest
    assert torch.equal(again.tokenizer(["a cat"]), other.tokenizer(["a cat"]))
    assert torch.equal(again.encode_image(image).unit, found[0])
    assert torch.equal(again.encode_text(ids).unit, found[1])
    assert [model.image_spec, model_digest(model)] == [before, digest]
    if (name, "patch") in EXCEPTIONS:
        with pytest.raises(UnsupportedModelError, match="no patches"):
            model.resized(patch=8)
        return
    coarse = model.resized(patch=2 * step, image_size=tuple(2 * side for side in before.size))
    twice = nn.functional.interpolate(pixels.float(), scale_factor=2, mode="nearest").to(torch.uint8)
    assert coarse.encode_image(twice).pooled.isfinite().all()
    assert coarse.patch_side == 2 * step
