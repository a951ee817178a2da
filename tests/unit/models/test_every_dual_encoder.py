"""Every dual encoder of transformers on disk: the same embeddings as its own library with its own processor."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tether
from tether.data.images import load
from tether.models.wrapped_encoders import TransformersEncoder

TEXTS = ["a cat", "A Small RED cat sits in the sun", "the dog", "dog cat " * 9]
WORDS = ("a", "small", "red", "cat", "sits", "in", "the", "sun", "dog", "##s")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
TEXT = SIZES | {"vocab_size": 64, "max_position_embeddings": 16}


def _bert():
    from transformers import BertTokenizer

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    return BertTokenizer(vocab={name: row for row, name in enumerate(names)}, model_max_length=16)


def _roberta():
    from transformers import XLMRobertaTokenizer

    names = ("<s>", "<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), *"acdegilmnorstu", "▁", "<mask>")
    return XLMRobertaTokenizer(vocab=[(name, -float(row)) for row, name in enumerate(names)], model_max_length=14)


def _clip():
    from transformers import CLIPTokenizer

    letters = "acdegilmnorstuACDEGILMNORSTU"
    names = ("<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>")
    vocabulary = {name: row for row, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def _siglip():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1} | {word: 2 + row for row, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "model_input_names": ["input_ids"]}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **named)


def _gemma(**named):
    from transformers import Siglip2Tokenizer

    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"acdegilmnorstu")
    return Siglip2Tokenizer(
        vocab={name: row for row, name in enumerate(names)}, merges=[], model_max_length=16, **named
    )


def _align(t):
    blocks = {"in_channels": [32, 8], "out_channels": [8, 24], "kernel_sizes": [3, 3], "strides": [1, 2]}
    blocks |= {"num_block_repeats": [1, 1], "expand_ratios": [1, 2], "depthwise_padding": [], "hidden_dim": 24}
    vision = blocks | {"image_size": 33, "width_coefficient": 1.0, "depth_coefficient": 1.0}
    images = t.EfficientNetImageProcessor(
        size={"height": 41, "width": 41},
        crop_size={"height": 33, "width": 33},
        do_center_crop=True,
        rescale_offset=True,
        rescale_factor=1 / 127.5,
        do_normalize=False,
        include_top=False,
        resample=2,
    )
    config = t.AlignConfig(text_config=TEXT, vision_config=vision, projection_dim=24)
    return t.AlignModel(config), t.AlignProcessor(images, _bert())


def _altclip(t):
    text = TEXT | {"project_dim": 40}
    config = t.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return t.AltCLIPModel(config), t.AltCLIPProcessor(_clip_images(t), _roberta())


def _chinese_clip(t):
    config = t.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    images = t.ChineseCLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return t.ChineseCLIPModel(config), t.ChineseCLIPProcessor(images, _bert())


def _clip_model(t, act="quick_gelu"):
    text = TEXT | {"eos_token_id": 57, "hidden_act": act}
    config = t.CLIPConfig(text_config=text, vision_config=VISION | {"hidden_act": act}, projection_dim=24)
    return t.CLIPModel(config), t.CLIPProcessor(_clip_images(t, edge=36), _clip())


def _clip_images(t, edge=32):
    return t.CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": 32, "width": 32})


def _clipseg(t, cls="CLIPSegModel"):
    decoder = {"extract_layers": [0], "reduce_dim": 8, "decoder_num_attention_heads": 2}
    config = t.CLIPSegConfig(
        text_config=TEXT | {"eos_token_id": 57}, vision_config=VISION, projection_dim=24, **decoder
    )
    images = t.ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.485, 0.456, 0.406])
    return getattr(t, cls)(config), t.CLIPSegProcessor(images, _clip())


def _metaclip(t):
    config = t.MetaClip2Config(text_config=TEXT | {"eos_token_id": 2}, vision_config=VISION, projection_dim=24)
    return t.MetaClip2Model(config), t.CLIPProcessor(_clip_images(t), _roberta())


def _siglip_model(t):
    config = t.SiglipConfig(text_config=TEXT | {"projection_size": 32}, vision_config=VISION)
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    return t.SiglipModel(config), t.SiglipProcessor(images, _siglip())


def _siglip2_fixed(t):
    config = t.SiglipConfig(text_config=TEXT | {"projection_size": 32}, vision_config=VISION)
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    words = _gemma(model_input_names=["input_ids"], padding_side="right", add_eos_token=True)
    return t.SiglipModel(config), t.SiglipProcessor(images, words)


def _siglip2(t, **named):
    vision = SIZES | {"num_patches": 16, "patch_size": 8}
    config = t.Siglip2Config(text_config=TEXT | {"projection_size": 32}, vision_config=vision)
    images = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=23)
    words = _gemma(**({"model_input_names": ["input_ids"], "padding_side": "right"} | named))
    return t.Siglip2Model(config), t.Siglip2Processor(images, words)


def _siglip2_left(t):
    return _siglip2(t, model_input_names=["input_ids", "attention_mask"], padding_side="left")


def _vit_bert(t):
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.ViTConfig(**VISION), t.BertConfig(**TEXT), projection_dim=24
    )
    images = t.ViTImageProcessor(size={"height": 32, "width": 32})
    return t.VisionTextDualEncoderModel(config), t.VisionTextDualEncoderProcessor(images, _bert())


def _clip_roberta(t):
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.CLIPVisionConfig(**VISION), t.XLMRobertaConfig(**TEXT), projection_dim=24
    )
    return t.VisionTextDualEncoderModel(config), t.VisionTextDualEncoderProcessor(_clip_images(t), _roberta())


MAKERS = {
    "align": _align,
    "altclip": _altclip,
    "chinese_clip": _chinese_clip,
    "clip": _clip_model,
    "clip, another activation": lambda t: _clip_model(t, act="relu"),
    "clipseg": _clipseg,
    "clipseg with its decoder": lambda t: _clipseg(t, cls="CLIPSegForImageSegmentation"),
    "metaclip_2": _metaclip,
    "siglip": _siglip_model,
    "siglip2 at one size": _siglip2_fixed,
    "siglip2": _siglip2,
    "siglip2 padded left": _siglip2_left,
    "vit and bert": _vit_bert,
    "clip and roberta": _clip_roberta,
}


@pytest.fixture(scope="module", params=list(MAKERS))
def kind(request, tmp_path_factory):
    """The folder, and the reference: transformers' model and processor from that folder."""
    import transformers

    folder = tmp_path_factory.mktemp("model") / "source"
    torch.manual_seed(0)
    model, processor = MAKERS[request.param](transformers)
    with torch.no_grad():
        for value in model.parameters():  # so that every weight, the biases too, has a say
            value.add_(torch.randn_like(value), alpha=0.5 if value.ndim == 4 else 0.05)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if not (folder / "processor_config.json").exists():
        processor.image_processor.save_pretrained(folder)
    return folder, getattr(model, "clip", model).eval(), processor


def _pictures(folder: Path) -> list[Path]:
    paths = []
    for row, (height, width) in enumerate(((47, 71), (90, 40), (32, 32), (57, 203))):
        noise = np.random.default_rng(row).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        paths.append(folder / f"{row}.png")
        Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR).save(paths[-1])
    return paths


def _ours(model, pictures):
    images = [model.encode_image(load(path, model.image_spec)[None]).pooled for path in pictures]
    return torch.cat(images), model.encode_text(model.tokenizer(TEXTS)).pooled


def _assert_alike(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert torch.nn.functional.cosine_similarity(mine, theirs).min() > 0.99999
        assert torch.nn.functional.cosine_similarity(theirs[:1], theirs[1:]).max() < 0.9999
        torch.testing.assert_close(mine.norm(dim=1), theirs.norm(dim=1), rtol=1e-3, atol=0)


@torch.inference_mode()
def _theirs(model, processor, pictures):
    seen = processor.image_processor([Image.open(path) for path in pictures], return_tensors="pt")
    said = {"padding": "max_length" if "Siglip" in type(model).__name__ else True, "max_length": 16}
    if processor.tokenizer.model_max_length < 16:
        said["max_length"] = processor.tokenizer.model_max_length
    read = processor.tokenizer(TEXTS, truncation=True, return_tensors="pt", **said)
    kept = {key: value for key, value in read.items() if key != "token_type_ids" or "Bert" in type(model).__name__}
    return model.get_image_features(**seen).pooler_output, model.get_text_features(**kept).pooler_output


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
def test_the_same_embeddings_as_its_own_library(kind, tmp_path):
    folder, theirs, processor = kind
    pictures = _pictures(tmp_path)
    expected = _theirs(theirs, processor, pictures)
    model = tether.load(folder)
    scale = 1 / theirs.temperature if hasattr(theirs, "temperature") else theirs.logit_scale.exp()
    assert model.logit_scale.item() == pytest.approx(scale.item(), rel=1e-5)
    with torch.inference_mode():
        _assert_alike(_ours(model, pictures), expected)
        saved = tether.save(model, tmp_path / "saved")
        again = tether.load(saved)
        assert again.image_spec == model.image_spec
        _assert_alike(_ours(again, pictures), expected)
        if isinstance(model, TransformersEncoder):
            exported = tether.export(again, tmp_path / "exported", format="transformers")
            _assert_alike(_ours(tether.load(exported), pictures), expected)
            reference = type(theirs).from_pretrained(exported).eval()
            _assert_alike(_theirs(reference, processor, pictures), expected)
