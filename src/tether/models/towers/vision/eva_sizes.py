"""EVA-CLIP's models by name: the published sizes, and two of EVA-02's make for machines without an accelerator."""

from __future__ import annotations

from collections.abc import Mapping

from tether.core.types import ImageSpec
from tether.models.towers.blocks.block import BlockConfig
from tether.models.towers.config import ModelConfig, TextConfig
from tether.models.towers.vision.eva_config import EvaConfig, eva_block

EVA02 = eva_block(swiglu=True, sub_norm=True)
PRE, POST = eva_block(), eva_block(norm_position="post")
RMS_PRE, RMS_POST = eva_block(norm="rms"), eva_block(norm="rms", norm_position="post")


def _eva(
    dim: int,
    *,
    side: int = 224,
    patch: int = 14,
    shape: tuple[int, int, int, int],
    block: BlockConfig,
    text: tuple[int, int],
    span: int | None = None,
    context: int = 77,
) -> ModelConfig:
    """A model.

    Args:
        dim: of the joint space.
        side: of an image in pixels.
        patch: of a patch.
        shape: of the image tower: width, layers, width of a head, hidden.
        block: of the image tower; one with RMS norms has no offset of queries and values.
        text: width and layers of the text tower, CLIP's with heads of 64 channels.
        span: see ``EvaConfig``.
        context: of texts.
    """
    (width, layers, head, hidden), (words, depth) = shape, text
    return ModelConfig(
        dim=dim,
        vision=EvaConfig(
            image=ImageSpec(size=(side, side)),
            patch=patch,
            width=width,
            layers=layers,
            heads=width // head,
            hidden=hidden,
            block=block,
            qkv_bias=block.norm == "layer",
            rope_span=span,
        ),
        text=TextConfig(context=context, width=words, layers=depth, heads=max(words // 64, 2), hidden=4 * words),
    )


_L, _G, _E = (1024, 24, 64, 2730), (1408, 40, 88, 6144), (1792, 64, 112, 15_360)
EVA_SIZES: Mapping[str, ModelConfig] = {
    "eva02-tiny": _eva(64, side=32, patch=8, shape=(64, 2, 32, 170), block=EVA02, text=(64, 2), span=4, context=24),
    "eva02-small": _eva(192, side=64, patch=8, shape=(192, 6, 32, 512), block=EVA02, text=(192, 4), span=8, context=24),
    "eva02-b-16": _eva(512, patch=16, shape=(768, 12, 64, 2048), block=EVA02, text=(512, 12), span=16),
    "eva02-l-14": _eva(768, shape=_L, block=EVA02, text=(768, 12), span=16),
    "eva02-l-14-336": _eva(768, side=336, shape=_L, block=EVA02, text=(768, 12), span=16),
    "eva01-g-14": _eva(1024, shape=_G, block=PRE, text=(768, 12)),
    "eva01-g-14-plus": _eva(1024, shape=_G, block=PRE, text=(1024, 24)),
    "eva02-e-14": _eva(1024, shape=_E, block=POST, text=(1024, 24)),
    "eva02-e-14-plus": _eva(1024, shape=_E, block=POST, text=(1280, 32)),
    "eva-clip-8b": _eva(1280, shape=(4096, 32, 128, 20_480), block=RMS_PRE, text=(1280, 32)),
    "eva-clip-8b-448": _eva(1280, side=448, shape=(4096, 32, 128, 20_480), block=RMS_PRE, text=(1280, 32)),
    "eva-clip-18b": _eva(1536, shape=(5120, 48, 128, 25_600), block=RMS_POST, text=(1280, 32)),
}
"""Sizes by name (arXiv 2303.15389, 2402.04252). ``create("eva02-small")`` learns on two cores. An 18B takes 70 GB of
memory, and none under ``torch.device("meta")``."""
