"""What encoders are held against: small tokenizers of each kind, images of several shapes, embeddings compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tether.core.types import Features
from tether.data.images import load
from tether.models.composed.dual_tower import dual_tower
from tether.models.composed.towers import ImageSide, TextSide

TEXTS = ["a cat", "A Small RED cat sits in the sun", "the dog", "dog cat " * 9]
WORDS = ("a", "small", "red", "cat", "sits", "in", "the", "sun", "dog", "##s")


def bert_words() -> Any:
    from transformers import BertTokenizer

    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    return BertTokenizer(vocab={name: row for row, name in enumerate(names)}, model_max_length=16)


def roberta_words() -> Any:
    from transformers import XLMRobertaTokenizer

    names = ("<s>", "<pad>", "</s>", "<unk>", *(f"▁{word}" for word in WORDS), *"acdegilmnorstu", "▁", "<mask>")
    return XLMRobertaTokenizer(vocab=[(name, -float(row)) for row, name in enumerate(names)], model_max_length=14)


def clip_words() -> Any:
    from transformers import CLIPTokenizer

    letters = "acdegilmnorstuACDEGILMNORSTU"
    names = ("<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters), "<|endoftext|>")
    vocabulary = {name: row for row, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def siglip_words(context: int = 16) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "</s>": 1} | {word: 2 + row for row, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    named = {"pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "model_input_names": ["input_ids"]}
    return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=context, **named)


def gemma_words(context: int = 16, **named: Any) -> Any:
    from transformers import Siglip2Tokenizer

    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"acdegilmnorstu")
    return Siglip2Tokenizer(
        vocab={name: row for row, name in enumerate(names)}, merges=[], model_max_length=context, **named
    )


def image_files(folder: Path) -> list[Path]:
    paths = []
    for row, (height, width) in enumerate(((47, 71), (90, 40), (32, 32), (57, 203))):
        noise = np.random.default_rng(row).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        paths.append(folder / f"{row}.png")
        Image.fromarray(noise).resize((width, height), Image.Resampling.BILINEAR).save(paths[-1])
    return paths


def embeddings(model: Any, paths: list[Path]) -> tuple[Tensor, Tensor]:
    images = [model.encode_image(load(path, model.image_spec)[None]).pooled for path in paths]
    return torch.cat(images), model.encode_text(model.tokenizer(TEXTS)).pooled


def halves(images: Any, texts: Any) -> SimpleNamespace:
    """The image tower of one model and the text tower of another; each loses its other one."""
    eyes, words = cast(ImageSide, dual_tower(images, "image")), cast(TextSide, dual_tower(texts, "text"))
    return SimpleNamespace(
        image_spec=eyes.image_spec,
        tokenizer=words.tokenizer,
        encode_image=lambda image: Features(eyes(image)),
        encode_text=lambda text: Features(words(text)),
    )


def probabilities(model: Any, images: list[Tensor], labels: list[str]) -> Tensor:
    """(images, labels), as the model was trained: sigmoids where it has a bias, else softmaxes over the labels."""
    with torch.inference_mode():
        rows = torch.cat([model.encode_image(image[None]).unit for image in images])
        logits = model.logit_scale * rows @ model.encode_text(model.tokenizer(labels)).unit.T
        return logits.softmax(1) if model.logit_bias is None else (logits + model.logit_bias).sigmoid()


def assert_alike(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        assert torch.nn.functional.cosine_similarity(mine, theirs).min() > 0.99999
        assert torch.nn.functional.cosine_similarity(theirs[:1], theirs[1:]).max() < 0.9999
        torch.testing.assert_close(mine.norm(dim=1), theirs.norm(dim=1), rtol=1e-3, atol=0)
