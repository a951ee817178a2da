"""A small dual encoder of every class of transformers with the processor that belongs to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from references import bert_words, clip_words, gemma_words, roberta_words, siglip_words

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = SIZES | {"image_size": 32, "patch_size": 8}
TEXT = SIZES | {"vocab_size": 64, "max_position_embeddings": 16}


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
    return t.AlignModel(config), t.AlignProcessor(images, bert_words())


def _altclip(t):
    text = TEXT | {"project_dim": 40}
    config = t.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    return t.AltCLIPModel(config), t.AltCLIPProcessor(_clip_images(t), roberta_words())


def _chinese_clip(t):
    config = t.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    images = t.ChineseCLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    return t.ChineseCLIPModel(config), t.ChineseCLIPProcessor(images, bert_words())


def _clip_model(t, act="quick_gelu"):
    text = TEXT | {"eos_token_id": 57, "hidden_act": act}
    config = t.CLIPConfig(text_config=text, vision_config=VISION | {"hidden_act": act}, projection_dim=24)
    return t.CLIPModel(config), t.CLIPProcessor(_clip_images(t, edge=36), clip_words())


def _clip_images(t, edge=32):
    return t.CLIPImageProcessor(size={"shortest_edge": edge}, crop_size={"height": 32, "width": 32})


def _clipseg(t, cls="CLIPSegModel"):
    decoder = {"extract_layers": [0], "reduce_dim": 8, "decoder_num_attention_heads": 2}
    config = t.CLIPSegConfig(
        text_config=TEXT | {"eos_token_id": 57}, vision_config=VISION, projection_dim=24, **decoder
    )
    images = t.ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.485, 0.456, 0.406])
    return getattr(t, cls)(config), t.CLIPSegProcessor(images, clip_words())


def _metaclip(t):
    config = t.MetaClip2Config(text_config=TEXT | {"eos_token_id": 2}, vision_config=VISION, projection_dim=24)
    return t.MetaClip2Model(config), t.CLIPProcessor(_clip_images(t), roberta_words())


def _siglip_model(t, context=16):
    config = t.SiglipConfig(
        text_config=TEXT | {"projection_size": 32, "max_position_embeddings": context}, vision_config=VISION
    )
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    return t.SiglipModel(config), t.SiglipProcessor(images, siglip_words(context))


def _siglip2_fixed(t, context=16):
    config = t.SiglipConfig(
        text_config=TEXT | {"projection_size": 32, "max_position_embeddings": context}, vision_config=VISION
    )
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32}, resample=2)
    words = gemma_words(context, model_input_names=["input_ids"], padding_side="right", add_eos_token=True)
    return t.SiglipModel(config), t.SiglipProcessor(images, words)


def _siglip2(t, context=16, **named):
    vision = SIZES | {"num_patches": 16, "patch_size": 8}
    config = t.Siglip2Config(
        text_config=TEXT | {"projection_size": 32, "max_position_embeddings": context}, vision_config=vision
    )
    images = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=23)
    words = gemma_words(context, **({"model_input_names": ["input_ids"], "padding_side": "right"} | named))
    return t.Siglip2Model(config), t.Siglip2Processor(images, words)


def _siglip2_left(t, context=16):
    return _siglip2(t, context, model_input_names=["input_ids", "attention_mask"], padding_side="left")


def _vit_bert(t, kind="vit"):
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.CONFIG_MAPPING[kind](**VISION), t.BertConfig(**TEXT), projection_dim=24
    )
    images = t.ViTImageProcessor(size={"height": 32, "width": 32})
    return t.VisionTextDualEncoderModel(config), t.VisionTextDualEncoderProcessor(images, bert_words())


def _clip_roberta(t):
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.CLIPVisionConfig(**VISION), t.XLMRobertaConfig(**TEXT), projection_dim=24
    )
    return t.VisionTextDualEncoderModel(config), t.VisionTextDualEncoderProcessor(_clip_images(t), roberta_words())


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
    "beit and bert": lambda t: _vit_bert(t, kind="beit"),
    "clip and roberta": _clip_roberta,
}
"""By kind: functions of the package transformers to a model and its processor."""


def write_dual_encoder(folder: Path, kind: str, **settings: Any) -> tuple[Any, Any]:
    """Write one with random weights as its library does; the model and the processor."""
    import transformers

    torch.manual_seed(0)
    model, processor = MAKERS[kind](transformers, **settings)
    with torch.no_grad():
        for value in model.parameters():  # so that every weight, the biases too, has a say
            value.add_(torch.randn_like(value), alpha=0.5 if value.ndim == 4 else 0.05)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if not (folder / "processor_config.json").exists():
        processor.image_processor.save_pretrained(folder)
    return getattr(model, "clip", model).eval(), processor
