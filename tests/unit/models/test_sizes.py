"""``model.resized`` against the libraries' own resizing, and what it refuses."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import Tensor, nn

import tether
from dual_encoders import write_dual_encoder
from tether.core.errors import InputError, UnsupportedModelError
from tether.core.model_digest import model_digest
from tether.core.types import ImageSpec
from tether.methods.stable_spam import FourBits
from tether.models import create
from tether.models.compose import compose
from tether.models.tokenizer import ClipTokenizer, TextCutWarning
from tether.models.towers.sizes import MAX_CONTEXT

pytestmark = pytest.mark.slow

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def pixels(*size: int, count: int = 2) -> Tensor:
    shape = (count, 3, *size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def open_clip_model(folder, vision, top=None, **text):
    """A model in a folder as open_clip writes it, loaded, with open_clip's own beside it."""
    import open_clip
    from safetensors.torch import save_file

    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT | text} | (top or {})
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).eval()
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return tether.load(folder), model, cfg


def transformers_model(folder, kind, **settings):
    theirs, _ = write_dual_encoder(folder / "source", kind, **settings)
    return tether.load(folder / "source"), theirs


@torch.no_grad()
def test_own_towers_are_as_open_clip_makes_them(tmp_path):
    import open_clip
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    model, theirs, cfg = open_clip_model(tmp_path, VIT)
    larger = cfg | {"vision_cfg": VIT | {"image_size": 56}, "text_cfg": TEXT | {"context_length": 20}}
    other = open_clip.CLIP(**larger).eval()
    state = theirs.state_dict()
    resize_pos_embed(state, other)
    resize_text_pos_embed(state, other)
    other.load_state_dict(state)
    ours = model.resized(image_size=56, context=20, how="linear")
    floats = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(ours.encode_image(floats).pooled, other.encode_image(floats), **CLOSE)
    ids = ours.tokenizer(["a small red cat", "the dog"])
    wide = torch.zeros(2, 20, dtype=torch.int64)
    wide[:, : ids.shape[1]] = ids
    torch.testing.assert_close(ours.encode_text(ids).pooled, other.encode_text(wide), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(("size", "patch"), [((48, 64), None), ((64, 64), 16)])
@pytest.mark.parametrize("name", ["test_vit", "eva02_tiny_patch14_224"])
def test_networks_of_timm_are_as_timm_makes_them(name, size, patch):
    side = 16 if name == "test_vit" else 14
    size = tuple(length // 16 * (side if patch is None else patch) for length in size)
    model = compose(
        image={"name": f"timm:{name}", "random_weights": True}, text={"name": "tiny", "random_weights": True}
    ).eval()
    theirs = copy.deepcopy(model.parts.image.inner)
    theirs.set_input_size(img_size=size, **({} if patch is None else {"patch_size": (patch, patch)}))
    ours, floats = model.resized(image_size=size, patch=patch), torch.randn(2, 3, *size)
    torch.testing.assert_close(ours.parts.image(floats), theirs(floats), **CLOSE)
    assert [ours.image_spec.size, ours.patch_side] == [size, patch or side]


@torch.no_grad()
def test_a_trunk_of_timm_inside_open_clip(tmp_path):
    vision = {"timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": "linear"}
    model, theirs, _ = open_clip_model(tmp_path, vision | {"image_size": 224})
    ours = model.resized(image_size=(56, 84))
    theirs.visual.set_input_size((56, 84))
    floats = torch.randn(2, 3, 56, 84)
    expected = theirs.encode_image(floats)
    torch.testing.assert_close(ours.encode_image(floats).pooled, expected, **CLOSE)
    again = tether.load(tether.save(ours, tmp_path / "saved"))
    assert torch.equal(again.encode_image(floats).pooled, ours.encode_image(floats).pooled)
    assert model_digest(again) == model_digest(ours) != model_digest(model)
    with pytest.raises(InputError, match="builds timm's eva02_tiny_patch14_224 at its own size alone"):
        tether.export(ours, tmp_path / "out", format="open_clip")
    back = again.resized(image_size=224, patch=16, context=20)
    assert [back.patch_side, back.image_spec.size, back.tokenizer.context_length] == [16, (224, 224), 20]


@torch.no_grad()
def test_attention_pooling_of_a_resnet(tmp_path):
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
    model, theirs, _ = open_clip_model(tmp_path, vision)
    ours = model.resized(image_size=96)
    grid = theirs.visual.attnpool.positional_embedding[1:].T.reshape(1, -1, 2, 2)
    grid = nn.functional.interpolate(grid, (3, 3), mode="bicubic", antialias=True)
    table = ours.model.visual.attnpool.positional_embedding
    torch.testing.assert_close(table[1:], grid[0].flatten(1).T, **CLOSE)
    assert ours.encode_image(pixels(96, 96)).pooled.isfinite().all()
    exported = tether.export(ours, tmp_path / "out", format="open_clip")
    again = tether.load(exported)
    torch.testing.assert_close(
        again.encode_image(pixels(96, 96)).pooled, ours.encode_image(pixels(96, 96)).pooled, **CLOSE
    )
    with pytest.raises(InputError, match="multiples of 32"):
        model.resized(image_size=80)
    with pytest.raises(UnsupportedModelError, match="square images alone"):
        model.resized(image_size=(96, 64))
    with pytest.raises(UnsupportedModelError, match="no patches"):
        model.resized(patch=16)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["siglip", "siglip2 at one size", "altclip", "chinese_clip", "vit and bert"])
def test_transformers_interpolate_alike(kind, tmp_path):
    model, theirs = transformers_model(tmp_path, kind)
    plain = {"name": "bicubic", "antialias": False}
    for size, how in (((48, 48), plain), ((48, 24), None)):
        ours, floats = model.resized(image_size=size, how=how), torch.randn(2, 3, *size)
        expected = theirs.get_image_features(pixel_values=floats, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(ours.encode_image(floats).pooled, expected, **CLOSE)
        again = tether.load(tether.save(ours, tmp_path / "saved"))
        assert torch.equal(again.encode_image(floats).pooled, ours.encode_image(floats).pooled)
    with pytest.raises(InputError, match="know square images alone"):
        tether.export(ours, tmp_path / "out", format="transformers")
    back = ours.resized(image_size=32)
    assert torch.equal(back.encode_image(pixels(32, 32)).pooled, model.encode_image(pixels(32, 32)).pooled)
    with pytest.raises(UnsupportedModelError, match="resizes them itself"):
        model.resized(image_size=(48, 24), how=plain)


def test_a_square_model_of_transformers_goes_back_to_its_library(tmp_path):
    import transformers

    model, _ = transformers_model(tmp_path, "siglip")
    ours = model.resized(image_size=64, patch=16, context=24)
    folder = tether.export(ours, tmp_path / "out", format="transformers")
    again, theirs = tether.load(folder), transformers.SiglipModel.from_pretrained(folder)
    assert theirs.vision_model.embeddings.position_embedding.weight.shape == (16, 32)
    assert again.tokenizer.context_length == 24
    text = ["red " * 20]
    assert torch.equal(again.embed(text), ours.embed(text))
    assert torch.equal(
        again.embed([pixels(64, 64)[0].permute(1, 2, 0)]), ours.embed([pixels(64, 64)[0].permute(1, 2, 0)])
    )


def test_images_in_patches_may_be_more(tmp_path):
    model, _ = transformers_model(tmp_path, "siglip2")
    ours = model.resized(image_size=(48, 40))
    assert ours.image_spec.patches == (8, 30)
    image = pixels(48, 40)
    assert ours.encode_image(image).pooled.isfinite().all()
    assert torch.equal(ours.encode_image(pixels(32, 32)).pooled, model.encode_image(pixels(32, 32)).pooled)
    with pytest.raises(InputError, match=r"expected 1 to 23 patches .* model\.resized\(image_size=\.\.\.\)"):
        model.encode_image(image)
    with pytest.raises(UnsupportedModelError, match="rows of pixels"):
        model.resized(patch=16)


class TestTexts:
    def test_short_texts_stay_as_they_are(self):
        model = create("tiny", context=30, seed=2).eval()
        words = model.tokenizer(["a cat", "a small red dog"])
        before = model.encode_text(words).pooled
        for context, how in ((12, None), (80, None), (80, {"name": "stretch", "keep": 8, "ratio": 4}), (12, "cut")):
            ours = model.resized(context=context, how=how)
            assert torch.equal(ours.encode_text(ours.tokenizer(["a cat", "a small red dog"])).pooled, before)
        moved = model.resized(context=80, how="linear")
        assert not torch.allclose(moved.encode_text(words).pooled, before, atol=1e-4)

    def test_a_class_token_keeps_its_place_at_the_end(self, tmp_path):
        vision = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True, "width": 64}
        top = {"multimodal_cfg": TEXT | {"attn_pooler_heads": 2}, "custom_text": True, "embed_dim": 32}
        model, theirs, _ = open_clip_model(tmp_path, vision, top, embed_cls=True, output_tokens=True)
        ours = model.resized(context=24)
        table, old = ours.model.text.positional_embedding, theirs.text.positional_embedding
        assert table.shape == (25, 32)
        torch.testing.assert_close(table[-1], old[-1])
        torch.testing.assert_close(table[:6], old[:6])
        assert ours.encode_text(ours.tokenizer(["cat " * 20])).pooled.isfinite().all()

    def test_unused_rows_of_roberta_stay(self, tmp_path):
        model, theirs = transformers_model(tmp_path, "clip and roberta")
        ours = model.resized(context=model.tokenizer.context_length + 30)
        old = theirs.text_model.embeddings.position_embeddings
        table = ours.model.text_model.embeddings.position_embeddings.weight
        assert torch.equal(table[: old.padding_idx + 4], old.weight[: old.padding_idx + 4])
        assert len(table) == len(old.weight) + 30
        assert ours.embed("red " * 25).isfinite().all()
        again = tether.load(tether.save(ours, tmp_path / "saved"))
        assert torch.equal(again.embed("red " * 25), ours.embed("red " * 25))

    def test_a_library_without_more_positions(self, tmp_path):
        from transformers import BertConfig

        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        BertConfig(vocab_size=49408, max_position_embeddings=24, **sizes).save_pretrained(tmp_path / "text")
        text = {"hf_model_name": str(tmp_path / "text"), "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}
        model, _, _ = open_clip_model(tmp_path, VIT, **text)
        assert model.resized(context=24).encode_text(torch.ones(1, 24, dtype=torch.int64)).pooled.isfinite().all()
        with pytest.raises(UnsupportedModelError, match=r"no more positions \(24 positions\)"):
            model.resized(context=25)

    def test_rotary_is_for_own_towers(self, tmp_path):
        model, _ = transformers_model(tmp_path, "siglip")
        for context in (None, 40):
            with pytest.raises(UnsupportedModelError, match="only Tether's own can turn"):
                model.resized(context=context, how="rotary")
        tether.save(create("tiny"), tmp_path / "own")
        both = compose(image=str(tmp_path / "own"), text=str(tmp_path / "own"), join="none", dim=64).eval()
        assert both.resized(context=40, how="rotary").embed("cat " * 30).isfinite().all()


class TestLongTexts:
    def test_the_caller_chooses(self):
        model = create("tiny", context=8).eval()
        texts = ["a cat", "red " * 20]
        with pytest.raises(InputError, match=r"row 1: more than the 8 tokens .*\(1 of 2 texts\).*resized\(context="):
            model.embed(texts)
        with pytest.raises(InputError, match="more than the 8 tokens"):
            model.tokenizer(texts, long_text="raise")
        assert model.tokenizer.cut == 0
        with pytest.warns(TextCutWarning, match="1 of 2"):
            assert model.embed(texts, long_text="cut").shape == (2, model.dim)
        assert model.tokenizer.cut == 1
        assert model.resized(context=24).embed(texts).shape == (2, model.dim)
        with pytest.raises(InputError, match="long_text"):
            model.embed(texts, long_text="windows")

    @pytest.mark.parametrize("settings", [{"clean": "lower"}, {"clean": "canonicalize"}])
    def test_open_clips_tokenizers_count_what_they_cut(self, settings, tmp_path):
        from open_clip import SimpleTokenizer

        model, _, _ = open_clip_model(tmp_path, VIT | {"no_ln_pre": True}, tokenizer_kwargs=settings)
        texts = ["A Cat", "red dog " * 20, "blue " * 14]
        with pytest.warns(TextCutWarning, match="1 of 3"):
            found = model.tokenizer(texts)
        assert torch.equal(found, SimpleTokenizer(context_length=16, **settings)(texts))
        with pytest.raises(InputError, match="more than the 16 tokens"):
            model.embed(texts)
        ours = model.resized(context=50)
        assert torch.equal(ours.tokenizer(texts), SimpleTokenizer(context_length=50, **settings)(texts)[:, :42])
        assert ours.tokenizer.cut == 0


def test_the_copy_is_one(tmp_path):
    model = create("tiny", image_size=32).double().train()
    model.visual.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    ours = model.resized(image_size=(64, 32), patch=16)
    assert ours.training
    assert {value.dtype for value in ours.parameters()} == {torch.float64}
    assert not any(value.requires_grad for value in ours.visual.parameters())
    assert all(value.requires_grad for value in ours.text.parameters())
    with torch.no_grad():
        for value in ours.parameters():
            value.zero_()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [model.image_spec.size, model.config.vision.patch, model.tokenizer.cut] == [(32, 32), 8, 0]


def test_the_margin_keeps_its_share(tmp_path):
    model, _ = transformers_model(tmp_path, "clip")
    assert model.image_spec.resized == (36, 36)
    assert model.resized(image_size=64).image_spec.resized == (72, 72)
    assert model.resized(image_size=(64, 32)).image_spec == ImageSpec((64, 32), resized=(72, 36))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"image_size": 36}, r"image_size: expected multiples of 8 \(the patch\), got \(36, 36\)"),
        ({"image_size": (32, 33)}, "multiples of 8"),
        ({"image_size": 0}, "image_size"),
        ({"image_size": -8}, "image_size"),
        ({"image_size": 10**6}, "image_size"),
        ({"image_size": 8192, "patch": 8}, "at most 16,384 patches"),
        ({"image_size": (32, 32, 3)}, "height and width"),
        ({"image_size": "32"}, "image_size"),
        ({"patch": 5}, "multiples of 5"),
        ({"patch": 0}, "patch"),
        ({"patch": 1024, "image_size": 1024}, "patch"),
        ({"context": 2}, "an empty text has 2 tokens; expected at least 3, got 2"),
        ({"context": 0}, "context"),
        ({"context": MAX_CONTEXT + 1}, "context"),
        ({"context": 40, "how": "cut"}, "cut leaves at most the 24 positions"),
        ({"context": 40, "how": "lineer"}, "how: unknown 'lineer'; did you mean 'linear'"),
        ({"image_size": 48, "how": ["bicubic", "bilinear"]}, "one way for images"),
        ({"image_size": 48, "how": {"antialias": True}}, "how: unknown None"),
        ({"image_size": 48, "how": 1.5}, "how: unknown 1.5"),
        ({"image_size": 48, "how": {"name": "bicubic", "align": True}}, "align"),
        ({"context": 90, "how": {"name": "stretch", "keep": 30}}, "keep: expected at most 22 of 24"),
    ],
)
def test_bad_sizes_are_named(sizes, reason):
    with pytest.raises(InputError, match=reason):
        create("tiny", context=24).resized(**sizes)


def test_an_edited_model_is_refused():
    model = create("tiny")
    nn.utils.parametrizations.weight_norm(model.visual.projection)
    with pytest.raises(UnsupportedModelError, match=r"so it was edited.*visual\.projection"):
        model.resized(image_size=64)
    same_names = create("tiny")
    FourBits(scheme="int4", group=64).apply_(same_names)
    with pytest.raises(UnsupportedModelError, match=r"so it was edited.*visual\.blocks\.0\.qkv"):
        same_names.resized(image_size=64)


def test_a_tokenizer_of_ones_own_keeps_its_length():
    class Words:
        context_length, vocab_size = 24, 49_408

        def __call__(self, texts, *, long_text="cut"):
            return ClipTokenizer(24)(texts, long_text=long_text)

    model = create("tiny", context=24)
    model.tokenizer = Words()
    assert model.resized(image_size=64).embed(["a cat"]).shape == (1, 64)
    with pytest.raises(InputError, match="cannot give Words another length"):
        model.resized(context=30)


@torch.no_grad()
def test_ways_for_images_and_texts_together():
    model = create("tiny", context=24).eval()
    ours = model.resized(image_size=64, context=30, how=[{"name": "sincos", "order": "jax"}, "linear"])
    assert torch.equal(ours.visual.position[0], model.visual.position[0])
    assert not torch.allclose(ours.visual.position, model.resized(image_size=64).visual.position, atol=1e-3)
    assert ours.encode_image(pixels(64, 64)).pooled.isfinite().all()
    aligned = model.resized(image_size=64, how={"name": "bilinear", "align_corners": True, "antialias": False})
    assert torch.allclose(aligned.visual.position[-1], model.visual.position[-1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"image_size": [48]}, "expected height and width"),
        ({"image_size": [48, "64"], "patch_size": None}, "image_size: expected int"),
        ({"image_size": [48, 64], "patch_size": 1.5}, "patch_size: expected int"),
        ({"image_size": [0, 64], "patch_size": None}, "tether_resized"),
        ([48, 64], "tether_resized: expected a mapping"),
    ],
)
def test_sizes_in_a_description_from_outside(value, reason, tmp_path):
    image, text = {"name": "timm:test_vit", "random_weights": True}, {"name": "tiny", "random_weights": True}
    folder = tether.save(compose(image=image, text=text).eval().resized(image_size=48), tmp_path / "model")
    described = json.loads((folder / "model.json").read_text())
    described["image"]["tether_resized"] = value
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=reason):
        tether.load(folder)
