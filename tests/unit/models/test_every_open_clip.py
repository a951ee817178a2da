"""Families of open_clip at a small size, random weights on disk: the same embeddings as open_clip's own."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tether
from references import TEXTS, assert_alike, bert_words, embeddings, gemma_words, halves, image_files, siglip_words
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.types import ImageSpec
from tether.data.images import load
from tether.models.convert.open_clip import preprocess_config
from tether.models.convert.saved_files import separate

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
SIGLIP = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
HALF = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def _timm(name, pool, proj, size=32):
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": size}


def _siglip(words, **text):
    cfg = {"vision_cfg": _timm("test_vit", "map", "none"), "embed_dim": 64, "init_logit_bias": -10, "custom_text": True}
    own = {"vocab_size": 64, "width": 64, "hf_tokenizer_name": "", "tokenizer_kwargs": {"clean": "canonicalize"}}
    return cfg | {"text_cfg": TEXT | SIGLIP | own | text}, HALF, words


def _roberta(folder):
    from transformers import RobertaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaConfig(vocab_size=64, pad_token_id=0, max_position_embeddings=24, **sizes).save_pretrained(folder / "text")
    text = {"hf_model_name": str(folder / "text"), "context_length": 16, "vocab_size": 64}
    text |= {"hf_tokenizer_name": "", "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}
    return {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": text}, {}, bert_words


def _coca(folder):
    vision = VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = TEXT | {"embed_cls": True, "output_tokens": True}
    more = {"multimodal_cfg": TEXT | {"attn_pooler_heads": 2}, "custom_text": True}
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **more}, {}, None


def _clipa(folder):
    vision = VIT | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}
    text = TEXT | {"vocab_size": 64, "pool_type": "last", "no_causal_mask": True}
    text |= {"hf_tokenizer_name": "", "tokenizer_kwargs": {"strip_sep_token": True}}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, {"interpolation": "bilinear"}, bert_words


def _timm_family(vision, preprocess=None, **more):
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT | more, "custom_text": True}
    return lambda folder: (cfg, preprocess or {}, None)


FAMILIES = {
    "ViT": lambda folder: ({"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True}, {}, None),
    "RN50": lambda folder: (
        {"embed_dim": 24, "text_cfg": TEXT, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}},
        {},
        None,
    ),
    "ConvNeXt": _timm_family(_timm("test_convnext", "", "linear")),
    "EVA02": _timm_family(_timm("eva02_tiny_patch14_224", "token", "linear", size=224)),
    "MobileCLIP2": _timm_family(_timm("fastvit_mci0", "avg", None, size=64), HALF, no_causal_mask=True),
    "PE-Core": _timm_family(_timm("vit_pe_core_tiny_patch16_384", "map", None, size=384), HALF),
    "CoCa": _coca,
    "CLIPA": _clipa,
    "roberta-ViT": _roberta,
    "SigLIP": lambda folder: _siglip(siglip_words),
    "SigLIP2": lambda folder: _siglip(
        lambda: gemma_words(model_input_names=["input_ids"], padding_side="right"), act_kwargs={"approximate": "tanh"}
    ),
    "longest side": lambda folder: (
        {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
        {"resize_mode": "longest", "fill_color": 128},
        None,
    ),
}


@pytest.fixture(params=list(FAMILIES))
def folder(request, tmp_path):
    import open_clip

    folder = tmp_path / "model"
    folder.mkdir()
    cfg, preprocess, words = FAMILIES[request.param](folder)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    if words is not None:
        words().save_pretrained(folder)
        cfg["text_cfg"]["hf_tokenizer_name"] = str(folder)
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value), alpha=0.02)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.momentum = None  # the mean over all that it sees below
        model.train().visual(torch.randn(4, 3, *[cfg["vision_cfg"]["image_size"]] * 2))
    save_file(separate(model.state_dict()), folder / "open_clip_model.safetensors")
    return folder


@torch.inference_mode()
def test_the_same_embeddings_as_open_clip(folder, tmp_path):
    import open_clip

    theirs, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    theirs.eval()
    paths = image_files(tmp_path)[:2]
    seen = torch.stack([prepare(Image.open(path)) for path in paths])
    read = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    expected = theirs.encode_image(seen, False), theirs.encode_text(read, False)
    model = tether.load(folder)
    assert_alike((model.encode_image(seen).pooled, embeddings(model, paths)[1]), expected)
    again = tether.load(tether.save(model, tmp_path / "saved"))
    assert_alike((again.encode_image(seen).pooled, embeddings(again, paths)[1]), expected)
    assert model_digest(again) == model_digest(model)
    pixels = torch.stack([load(path, model.image_spec) for path in paths])
    grey_levels = (model.image_spec.normalise(pixels) - seen).abs().max() * 255 * min(model.image_spec.std)
    assert grey_levels < 2.01  # torch resizes, not Pillow
    assert torch.nn.functional.cosine_similarity(model.encode_image(pixels).pooled, expected[0]).min() > 0.999
    exported = tether.export(again, tmp_path / "out", format="open_clip")
    shutil.rmtree(folder)  # so that nothing can come from there
    loaded, prepare = open_clip.create_model_from_pretrained(f"local-dir:{exported}")
    assert torch.equal(torch.stack([prepare(Image.open(path)) for path in paths]), seen)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{exported}")(TEXTS), read)
    loaded.eval()
    assert_alike((loaded.encode_image(seen, False), loaded.encode_text(read, False)), expected)
    parts = halves(again, model)
    assert_alike((parts.encode_image(seen).pooled, embeddings(parts, paths)[1]), expected)


def test_a_model_without_a_text_tower(tmp_path):
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": VIT, "embed_dim": 24}}))
    with pytest.raises(InputError, match=r"open_clip_config\.json: .*text_cfg: expected a mapping, got None"):
        tether.load(tmp_path, random_weights=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"resized": (36, 36)}, r"open_clip scales images to \(32, 32\) at once, this model to \(36, 36\)"),
        ({"interpolation": "nearest"}, "open_clip resizes by bicubic or bilinear"),
    ],
)
def test_images_that_open_clip_prepares_in_another_way(settings, reason):
    with pytest.raises(InputError, match=reason):
        preprocess_config(ImageSpec((32, 32), **settings))
