"""Captions: a language model that is told an image, learnt from texts alone or from pairs."""

from tether.tasks.caption.captioner import Drawn, PrefixCaptioner, until_end
from tether.tasks.caption.memory import ImageRows, mix, noisy_copies, read_images, region_features
from tether.tasks.caption.nearest import NearestCaptions
from tether.tasks.caption.prefix import PrefixAdaptor
from tether.tasks.caption.recipe import CAPTION_RECIPES, CaptionFromTexts
from tether.tasks.caption.text_only import Captioned, TextOnlyCaptioner, Writing
from tether.tasks.caption.training import fit_pairs

__all__ = [
    "CAPTION_RECIPES",
    "CaptionFromTexts",
    "Captioned",
    "Drawn",
    "ImageRows",
    "NearestCaptions",
    "PrefixAdaptor",
    "PrefixCaptioner",
    "TextOnlyCaptioner",
    "Writing",
    "fit_pairs",
    "mix",
    "noisy_copies",
    "read_images",
    "region_features",
    "until_end",
]
