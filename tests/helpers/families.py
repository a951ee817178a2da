"""A tiny model with random weights of each family that people load, by the name that they call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import encoders
import tether
from dual_encoders import write_dual_encoder
from tether.core.types import ImageSpec
from tether.models import create
from tether.models.compose import compose
from tether.models.convert.tokenizers import TextPadding
from tether.models.encoders.wrapped import TransformersEncoder
from tether.models.tokenizer import ClipTokenizer

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
PLAIN = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
SMALL_TIMM = {"img_size": 32, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def filled(model: Any) -> Any:
    """Norms and biases start at ones and zeros, where mistakes do not show: draw them."""
    generator = torch.Generator().manual_seed(2)
    for value in model.parameters():
        if value.ndim == 1:
            value.data += 0.3 * torch.randn(value.shape, generator=generator)
    return model


def open_clip_tower(folder: Path, vision: dict[str, Any], *, text: dict[str, Any] | None = None, **more: Any) -> Any:
    """A model that open_clip builds from a configuration, with random weights and no bias left at zero."""
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT | (text or {}), **more}
    preprocess = {"mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}))
    return filled(tether.load(folder, random_weights=True))


def around_trunk(folder: Path, trunk: nn.Module, *, projection: bool = True, text: dict[str, Any] | None = None) -> Any:
    """The same with a small network of timm in place of its image tower."""
    from open_clip.timm_model import TimmModel

    model = open_clip_tower(folder, {**PLAIN, "pool_type": "avg"}, text=text, custom_text=True)
    tower = TimmModel.__new__(TimmModel)
    nn.Module.__init__(tower)
    tower.image_size = (32, 32)
    tower.trunk = trunk
    tower.head = nn.Sequential(*([nn.Dropout(0.0), nn.Linear(32, 24)] if projection else []))
    model.model.visual = tower
    return filled(model).eval()


def timm_tower(folder: Path, **settings: Any) -> Any:
    """With timm's ``VisionTransformer``."""
    from timm.models.vision_transformer import VisionTransformer

    projection = settings.pop("projection", True)
    return around_trunk(
        folder, VisionTransformer(**SMALL_TIMM, **{"num_classes": 0, **settings}), projection=projection
    )


def eva_tower(folder: Path, **settings: Any) -> Any:
    """With timm's ``Eva``, turned in two directions."""
    from timm.models.eva import Eva

    shape = SMALL_TIMM | {"num_classes": 0, "use_rot_pos_emb": True, "ref_feat_shape": (2, 2)}
    return around_trunk(folder, Eva(**shape, **settings))


def pe_core(folder: Path, **settings: Any) -> Any:
    named = {"attn_type": "rope", "use_pre_transformer_norm": True, "global_pool": "map", "attn_pool_num_heads": 4}
    return eva_tower(folder, **named, rope_grid_offset=1.0, rope_grid_indexing="xy", **settings)


def eva02(folder: Path, **settings: Any) -> Any:
    named = {"qkv_fused": False, "mlp_ratio": 8 / 3, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
    return eva_tower(folder, **named, global_pool="token", **settings)


def siglip(folder: Path, **vision: Any) -> Any:
    """transformers' SigLIP, without a folder."""
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=shape | {"vocab_size": 49408, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=shape | {"image_size": 32, "patch_size": 16} | vision,
    )
    model = SiglipModel(config)
    pad, settings = TextPadding(0, masked=False), {"model_type": "siglip", "vision_config": {"hidden_size": 32}}
    wrapped = TransformersEncoder(
        model,
        dim=32,
        image_spec=ImageSpec(size=(32, 32)),
        tokenizer=ClipTokenizer(16),
        config=settings,
        text_padding=pad,
    )
    return filled(wrapped).eval()


def hugging_face(folder: Path, kind: str) -> Any:
    write_dual_encoder(folder, kind)
    return tether.load(folder)


def coca(folder: Path, **vision: Any) -> Any:
    seen = PLAIN | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True} | vision
    more = {"multimodal_cfg": TEXT | {"attn_pooler_heads": 2}, "custom_text": True}
    return open_clip_tower(folder, seen, text={"embed_cls": True, "output_tokens": True}, **more)


def hub_text(folder: Path) -> Any:
    from transformers import RobertaConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    RobertaConfig(vocab_size=64, pad_token_id=0, max_position_embeddings=24, **sizes).save_pretrained(folder / "text")
    text = {"hf_model_name": str(folder / "text"), "vocab_size": 64, "hf_pooler_type": "mean_pooler"}
    encoders.word_tokenizer(folder, pad="<pad>")
    return open_clip_tower(folder, PLAIN, text=text | {"hf_proj_type": "mlp", "hf_tokenizer_name": str(folder)})


def fastvit(folder: Path) -> Any:
    from timm.models.fastvit import FastVit

    trunk = FastVit(layers=(1, 1, 1, 1), embed_dims=(8, 16, 16, 32), token_mixers=("repmixer",) * 3 + ("attention",),
                    num_classes=0, cls_ratio=1.0)  # fmt: skip
    return around_trunk(folder, trunk, text={"no_causal_mask": True})


def composed(folder: Path, image: str) -> Any:
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=16, **shape)).save_pretrained(folder)
    encoders.word_tokenizer(folder)
    model = compose(image={"name": f"timm:{image}", "random_weights": True}, text=str(folder), dim=24, join="linear")
    return filled(model.eval())


def siglip_tower(folder: Path) -> Any:
    """SigLIP 2 as open_clip loads it."""
    from timm.models.vision_transformer import VisionTransformer

    trunk = VisionTransformer(**SMALL_TIMM, num_classes=0, global_pool="map", class_token=False)
    return around_trunk(folder, trunk, text=SIGLIP_TEXT)


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "Tether": lambda folder: filled(create("tiny", seed=3)).eval(),
    "DFN ViT-H": lambda folder: open_clip_tower(folder, PLAIN | {"layers": 4, "head_width": 16}, quick_gelu=True),
    "open_clip ViT": lambda folder: open_clip_tower(folder, PLAIN | {"pool_type": "avg", "ls_init_value": 0.3}),
    "CLIPA": lambda folder: open_clip_tower(
        folder,
        PLAIN | {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        text={"pool_type": "last", "no_causal_mask": True},
        custom_text=True,
    ),
    "open_clip NormFormer": lambda folder: open_clip_tower(
        folder, PLAIN | {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_attn": True}
    ),
    "open_clip cosines": lambda folder: open_clip_tower(folder, PLAIN | {"scale_fc": True, "pool_type": "avg"}),
    "CoCa": coca,
    "roberta-ViT": hub_text,
    "PE-Core": pe_core,
    "PE-Core without a class token": lambda folder: pe_core(folder, class_token=False),
    "EVA02": eva02,
    "EVA02 tiny": lambda folder: eva_tower(folder, swiglu_mlp=True, init_values=0.4, global_pool="avg"),
    "SigLIP 2": siglip_tower,
    "timm ViT": lambda folder: timm_tower(folder, init_values=0.3, qk_norm=True, reg_tokens=2),
    "MobileCLIP2": fastvit,
    "ConvNeXt": lambda folder: open_clip_tower(
        folder,
        {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
        custom_text=True,
    ),
    "RN50": lambda folder: open_clip_tower(folder, {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}),
    "transformers' CLIP": lambda folder: hugging_face(folder, "clip, another activation"),
    "transformers' SigLIP": siglip,
    "MetaCLIP 2": lambda folder: hugging_face(folder, "metaclip_2"),
    "CLIPSeg": lambda folder: hugging_face(folder, "clipseg"),
    "SigLIP 2 NaFlex": lambda folder: hugging_face(folder, "siglip2"),
    "SigLIP 2 padded left": lambda folder: hugging_face(folder, "siglip2 padded left"),
    "AltCLIP": lambda folder: hugging_face(folder, "altclip"),
    "Chinese-CLIP": lambda folder: hugging_face(folder, "chinese_clip"),
    "ViT and BERT": lambda folder: hugging_face(folder, "vit and bert"),
    "ALIGN": lambda folder: hugging_face(folder, "align"),
    "composed ViT": lambda folder: composed(folder, "test_vit"),
    "composed EfficientNet": lambda folder: composed(folder, "test_efficientnet"),
}
"""By name: a folder to write in, to the model."""

SEALED: dict[tuple[str, str], str] = {
    ("MobileCLIP2", "image"): "map",
    ("ConvNeXt", "image"): "map",
    ("RN50", "image"): "map",
    ("composed EfficientNet", "image"): "map",
    ("ALIGN", "image"): "map",
    ("roberta-ViT", "text"): "other text",
    ("AltCLIP", "text"): "other text",
    ("Chinese-CLIP", "text"): "other text",
    ("ViT and BERT", "text"): "other text",
    ("ALIGN", "text"): "other text",
    ("composed ViT", "text"): "other text",
    ("composed EfficientNet", "text"): "other text",
}
"""Family and side to the entry of ``models.refusals`` that refuses its anatomy."""

CLOSED = {
    ("ALIGN", "image"),
    *((name, "text") for name in ("AltCLIP", "Chinese-CLIP", "ViT and BERT", "ALIGN")),
}
"""Of those, the ones whose last states cannot be seen either."""
