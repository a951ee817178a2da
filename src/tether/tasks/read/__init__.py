"""What stands in an image: words of labels and signs."""

from tether.core.words_read import Texts
from tether.tasks.read.charset import Charset
from tether.tasks.read.dual_decoder import DualDecoder, DualLogits
from tether.tasks.read.orders import OrderMasks, cloze_mask, permutation_masks, permutations
from tether.tasks.read.permuted_decoder import PermutedDecoder
from tether.tasks.read.scene_attention import GatedSceneAttention, SceneContext

__all__ = [
    "Charset",
    "DualDecoder",
    "DualLogits",
    "GatedSceneAttention",
    "OrderMasks",
    "PermutedDecoder",
    "SceneContext",
    "Texts",
    "cloze_mask",
    "permutation_masks",
    "permutations",
]
