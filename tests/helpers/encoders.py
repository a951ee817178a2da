"""One small encoder of each kind that ``tether.load`` gives: ours, and models of two other libraries as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

import tether
from tether.models import Clip, create
from tether.models.convert.saved_files import separate
from tether.models.encoders.wrapped import WrappedEncoder

WORDS = ("a", "small", "red", "cat", "sits", "the", "dog", "in", "sun")


def own(folder: Path) -> Clip:
    return create("tiny", seed=1).eval()


def open_clip(folder: Path) -> Clip | WrappedEncoder:
    import open_clip

    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    values = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(values))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    save_file(separate(model.state_dict()), folder / "open_clip_model.safetensors")
    return tether.load(folder)


def word_tokenizer(folder: Path, *, words: Sequence[str] = WORDS, pad: str = "</s>") -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: 3 + row for row, word in enumerate(words)}
    whole = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    whole.pre_tokenizer = pre_tokenizers.Whitespace()
    whole.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=whole, pad_token=pad, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )


def transformers(folder: Path, *, words: Sequence[str] = WORDS, layers: int = 2) -> Clip | WrappedEncoder:
    from transformers import SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=shape | {"vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32},
        vision_config=shape | {"image_size": 32, "patch_size": 16},
    )
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    word_tokenizer(folder, words=words)
    return tether.load(folder)


def sentence_transformers(folder: Path) -> Clip | WrappedEncoder:
    tether.export(create("tiny", seed=1), folder / "0_CLIPModel", format="transformers")
    listed = [{"idx": 0, "name": "", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (folder / "modules.json").write_text(json.dumps(listed))
    return tether.load(folder)


ENCODERS: dict[str, Callable[[Path], Clip | WrappedEncoder]] = {
    "own": own,
    "open_clip": open_clip,
    "transformers": transformers,
}
