"""Our towers against open_clip's and transformers': same weights in, same numbers out."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import tether
from tether.models.convert import open_clip as names
from tether.models.convert.rules import take
from tether.models.towers.clip import Clip

pytestmark = pytest.mark.slow

BASE = {"embed_dim": 512, "vision": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
SMALL_VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
SMALL_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 3}
CAPTIONS = ["a cat", "a photo of a dog on the mat", "x", "sun", "the small red house by the sea", "two cats"]


def _pair(*, dtype, quick_gelu=False):
    """The same random weights in open_clip's CLIP and in ours."""
    import open_clip

    torch.manual_seed(7)
    theirs = open_clip.CLIP(40, SMALL_VISION, SMALL_TEXT, quick_gelu=quick_gelu).to(dtype)
    cfg = {"embed_dim": 40, "vision_cfg": SMALL_VISION, "text_cfg": SMALL_TEXT, "quick_gelu": quick_gelu}
    config = names.native_config(cfg)
    ours = Clip(config).to(dtype)
    ours.load_state_dict(take(names.plain_names(theirs.state_dict()), names.rules(config), where="test"))
    return theirs, ours


def _loss(image, text, scale):
    logits = scale * image @ text.T
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_same_loss_and_every_gradient_as_open_clip(dtype, tolerance, quick_gelu):
    theirs, ours = _pair(dtype=dtype, quick_gelu=quick_gelu)
    ids = ours.tokenizer(CAPTIONS)
    padded = torch.zeros(len(ids), 16, dtype=torch.int64)
    padded[:, : ids.shape[1]] = ids
    images = torch.randn(len(ids), 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = _loss(*theirs(images, padded))
    expected.backward()
    out = ours(images, ids)
    loss = _loss(out.image.unit, out.text.unit, out.logit_scale)
    loss.backward()
    assert abs(loss.item() - expected.item()) <= tolerance
    grads = {name: value.grad for name, value in theirs.named_parameters()}
    want = take(grads, names.rules(ours.config), where="test")
    have = {name: value.grad for name, value in ours.named_parameters()}
    assert want.keys() == have.keys()
    for name, value in want.items():
        assert value.abs().max() > 0, name
        assert (value - have[name]).abs().max() <= tolerance, name


@pytest.mark.nightly  # the tests above and below it do the same with small models
@pytest.mark.parametrize("quick_gelu", [False, True], ids=["gelu", "quick_gelu"])
def test_vit_b_32_of_open_clip_and_transformers(tmp_path, quick_gelu):
    """Full-sized random models: from open_clip into ours, and from ours into both libraries."""
    import open_clip
    from transformers import CLIPModel

    torch.manual_seed(0)
    theirs = open_clip.CLIP(512, BASE["vision"], TEXT, quick_gelu=quick_gelu).eval()
    file = tmp_path / "weights.safetensors"
    save_file(theirs.state_dict(), file)
    ours = tether.load(f"open_clip:ViT-B-32{'-quickgelu' if quick_gelu else ''}/{file}")
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    ids = ours.tokenizer(["a photo of a cat", "two dogs"])
    padded = torch.zeros(2, 77, dtype=torch.int64)
    padded[:, : ids.shape[1]] = ids
    with torch.inference_mode():
        image, text = ours.encode_image(images).pooled, ours.encode_text(ids).pooled
        assert (image - theirs.encode_image(images)).abs().max() <= 1e-5
        assert (text - theirs.encode_text(padded)).abs().max() <= 1e-5
        del theirs
        tether.export(ours, tmp_path / "hf", format="transformers")
        hugging_face = CLIPModel.from_pretrained(tmp_path / "hf").eval()
        seen = hugging_face.visual_projection(hugging_face.vision_model(pixel_values=images).pooler_output)
        read = hugging_face.text_projection(hugging_face.text_model(input_ids=padded).pooler_output)
        assert (image - seen).abs().max() <= 1e-5
        assert (text - read).abs().max() <= 1e-5
        again, before = tether.load(tmp_path / "hf").state_dict(), ours.state_dict()
        assert again.keys() == before.keys()
        assert all(torch.equal(again[name], value) for name, value in before.items())


def test_transformers_weights_saved_by_transformers(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    shape = {"intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=shape | {"hidden_size": 32, "max_position_embeddings": 20, "hidden_act": "gelu"},
        vision_config=shape | {"hidden_size": 64, "image_size": 32, "patch_size": 8, "layer_norm_eps": 1e-4},
        projection_dim=24,
    )
    torch.manual_seed(0)
    theirs = CLIPModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = tether.load(tmp_path)
    assert ours.config.vision.block.activation == "quick_gelu"
    assert ours.config.text.block.activation == "gelu"
    assert ours.config.vision.block.norm_eps == 1e-4
    images, ids = torch.randn(3, 3, 32, 32), ours.tokenizer(["a cat", "a dog in the sun", "x"])
    with torch.inference_mode():
        out = theirs(pixel_values=images, input_ids=ids)
        assert (ours.encode_image(images).unit - out.image_embeds).abs().max() <= 1e-5
        assert (ours.encode_text(ids).unit - out.text_embeds).abs().max() <= 1e-5
        assert ours.logit_scale.item() == pytest.approx(theirs.logit_scale.exp().item())


def test_export_opens_in_open_clip(tmp_path):
    import open_clip

    ours = tether.models.create("tiny", seed=3, block={"activation": "quick_gelu", "norm_eps": 1e-6}).eval()
    ours.prune_vocabulary_(ours.tokenizer(["a cat"]))
    with torch.no_grad():
        ours.text.token.weight.add_(0.01)
    tether.export(ours, tmp_path, format="open_clip")
    theirs = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    tokenize = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    words = ["a cat", "unknown words of a zebra"]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert (theirs.encode_image(images) - ours.encode_image(images).pooled).abs().max() <= 1e-5
        pooled = ours.encode_text(ours.tokenizer(words)).pooled
        assert (theirs.encode_text(tokenize(words)) - pooled).abs().max() <= 1e-5
        again = tether.load(tmp_path)
        assert torch.allclose(again.encode_text(ours.tokenizer(words)).pooled, pooled, atol=1e-6)
    saved = json.loads((tmp_path / "open_clip_config.json").read_text())
    assert tuple(saved["preprocess_cfg"]["mean"]) == ours.image_spec.mean
