"""Which precision embeds fastest without changing what is found."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from tether.core.protocols import DualEncoder
from tether.models.embed import Precision, encode_images, encode_texts

LEAST_WEIGHTS = 20_000_000
"""Weights of linear layers below which converting to bfloat16 costs more than it saves on a CPU."""
COSINE = 0.999
"""Least cosine between embeddings of both precisions."""
_TEXTS = ("a photo of a cat", "Two people walk along a beach in the evening, seen from far away.")


def chosen_precision(model: DualEncoder, wanted: Precision | str = "auto") -> Precision:
    """The precision that is meant; ``auto`` is bfloat16 where the device is made for it and the embeddings stay.

    Made for it are CPUs with AVX512_BF16 or AMX, and GPUs with bfloat16, for models with many weights in linear layers.
    Whether the embeddings stay is asked of four images of noise and two texts: their cosine to float32's is at least
    0.999. The choice depends on the machine and the model alone.

    Args:
        model: any model that ``tether.load`` gives.
        wanted: ``auto``, ``float32`` or ``bfloat16``.
    """
    if wanted != "auto":
        return cast(Precision, wanted)
    assert isinstance(model, nn.Module)
    layers = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.MultiheadAttention))]
    weights = sum(parameter.numel() for layer in layers for parameter in layer.parameters(recurse=False))
    if weights < LEAST_WEIGHTS or not _made_for_bfloat16(model.logit_scale.device):
        return "float32"
    height, width = model.image_spec.size
    noise = torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    exact = (encode_images(model, [noise]), encode_texts(model, _TEXTS))
    fast = (encode_images(model, [noise], precision="bfloat16"), encode_texts(model, _TEXTS, precision="bfloat16"))
    near = min(float(F.cosine_similarity(a, b).min()) for a, b in zip(exact, fast, strict=True))
    return "bfloat16" if near >= COSINE else "float32"


def _made_for_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
