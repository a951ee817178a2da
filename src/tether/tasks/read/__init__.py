"""What stands in an image: words of labels and signs, lines of pages."""

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
from tether.tasks.read.page_recipe import ReadPages
from tether.tasks.read.permuted_decoder import PermutedDecoder
from tether.tasks.read.rapid import RapidPages, RapidWords
from tether.tasks.read.reader import DualReader
from tether.tasks.read.readers import READERS, ImageReader, load_reader
from tether.tasks.read.recipe import READ_RECIPES, ReadScenes, ReadWords
from tether.tasks.read.scene_attention import GatedSceneAttention, SceneContext
from tether.tasks.read.scene_reader import SceneReader, WordReader
from tether.tasks.read.vision_lm import VisionLM
from tether.tasks.read.vocabulary_training import pretrain_vocabulary

__all__ = [
    "READERS",
    "READ_RECIPES",
    "AspectWarning",
    "ChannelMerge",
    "Charset",
    "DualDecoder",
    "DualLogits",
    "DualReader",
    "GatedSceneAttention",
    "ImageReader",
    "MergedVision",
    "OrderMasks",
    "PermutedDecoder",
    "RapidPages",
    "RapidWords",
    "ReadPages",
    "ReadScenes",
    "ReadWords",
    "SceneContext",
    "SceneReader",
    "Texts",
    "VisionLM",
    "VisionPixels",
    "VisionTokens",
    "WordReader",
    "cloze_mask",
    "load_reader",
    "permutation_masks",
    "permutations",
    "pretrain_vocabulary",
    "splice",
]
