"""Maps of patches made finer: an image's tiles seen beside the whole of it (FeatSharp)."""

from tether.models.upsample.downsample import AttentionDownsampler, SimpleDownsampler
from tether.models.upsample.fuse import FusionBlock, head_slopes, local_attention
from tether.models.upsample.sharpener import Patches, Sharpener, patch_maps
from tether.models.upsample.tiles import BiasBuffer, NotSquareWarning, create_tiles

__all__ = [
    "AttentionDownsampler",
    "BiasBuffer",
    "FusionBlock",
    "NotSquareWarning",
    "Patches",
    "Sharpener",
    "SimpleDownsampler",
    "create_tiles",
    "head_slopes",
    "local_attention",
    "patch_maps",
]
