"""What stands in an image: words of labels and signs."""

from tether.core.words_read import Texts
from tether.tasks.read.charset import Charset
from tether.tasks.read.dual_decoder import DualDecoder, DualLogits
from tether.tasks.read.orders import OrderMasks, cloze_mask, permutation_masks, permutations
from tether.tasks.read.permuted_decoder import PermutedDecoder
from tether.tasks.read.rapid import RapidWords
from tether.tasks.read.reader import DualReader
from tether.tasks.read.readers import READERS, ImageReader, load_reader
from tether.tasks.read.recipe import READ_RECIPES, ReadScenes, ReadWords
from tether.tasks.read.scene_attention import GatedSceneAttention, SceneContext
from tether.tasks.read.scene_reader import SceneReader, WordReader

__all__ = [
    "READERS",
    "READ_RECIPES",
    "Charset",
    "DualDecoder",
    "DualLogits",
    "DualReader",
    "GatedSceneAttention",
    "ImageReader",
    "OrderMasks",
    "PermutedDecoder",
    "RapidWords",
    "ReadScenes",
    "ReadWords",
    "SceneContext",
    "SceneReader",
    "Texts",
    "WordReader",
    "cloze_mask",
    "load_reader",
    "permutation_masks",
    "permutations",
]
