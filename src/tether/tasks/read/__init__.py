"""What stands in an image: words of labels and signs."""

from tether.core.words_read import Texts
from tether.tasks.read.charset import Charset
from tether.tasks.read.dual_decoder import DualDecoder, DualLogits
from tether.tasks.read.merged_vision import (
    AspectWarning,
    ChannelMerge,
    MergedVision,
    VisionPixels,
    VisionTokens,
    splice,
)
from tether.tasks.read.orders import OrderMasks, cloze_mask, permutation_masks, permutations
from tether.tasks.read.permuted_decoder import PermutedDecoder
from tether.tasks.read.reader import DualReader
from tether.tasks.read.scene_attention import GatedSceneAttention, SceneContext
from tether.tasks.read.scene_reader import SceneReader, WordReader
from tether.tasks.read.vision_lm import VisionLM, pretrain_vocabulary

__all__ = [
    "AspectWarning",
    "ChannelMerge",
    "Charset",
    "DualDecoder",
    "DualLogits",
    "DualReader",
    "GatedSceneAttention",
    "MergedVision",
    "OrderMasks",
    "PermutedDecoder",
    "SceneContext",
    "SceneReader",
    "Texts",
    "VisionLM",
    "VisionPixels",
    "VisionTokens",
    "WordReader",
    "cloze_mask",
    "permutation_masks",
    "permutations",
    "pretrain_vocabulary",
    "splice",
]
