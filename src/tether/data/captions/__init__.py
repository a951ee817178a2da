"""What an image is called: which of its captions a batch uses, and other words for them, written beforehand or drawn.

Texts are rewritten once, before training, by a ``Rewriter``, a ``Fuser`` or a ``Paraphraser``; no model is in the loop.
"""

from __future__ import annotations

from collections.abc import Mapping

from tether.data.captions.augment import Augmented, TextAugment
from tether.data.captions.dataset import read_rewrites, rewrite_dataset
from tether.data.captions.fuse import TemplateFuser, fuse_captions
from tether.data.captions.language_model import LMFuser, LMParaphraser, LMRewriter
from tether.data.captions.laterality import CarefullyAugmented, mirrored, names_side, protected
from tether.data.captions.lexicon import Lexicon, lexicon
from tether.data.captions.multi_caption import CaptionPool, CaptionSampler, CaptionTexts, MixedCaptions
from tether.data.captions.paraphrase import Paraphrased, ParaphrasePairs, RuleParaphraser, keep_caption
from tether.data.captions.pos_tags import LexiconTagger, pos_class
from tether.data.captions.rewriter import Fuser, Paraphraser, Rewriter, TemplateRewriter
from tether.data.captions.rng import Chance
from tether.data.captions.sampling import (
    CaptionPick,
    FirstCaption,
    FirstOften,
    MixedCaption,
    RandomCaption,
    Rewritten,
    SomeSentences,
    sentences,
)
from tether.data.captions.shorten import Shortened, shorten
from tether.data.captions.statistics import CaptionLengths, CaptionStats, caption_lengths, caption_stats

CAPTION_PICKS: Mapping[str, type[CaptionPick]] = {
    "first": FirstCaption,
    "first_often": FirstOften,
    "random": RandomCaption,
    "rewritten": Rewritten,
    "mixed": MixedCaption,
    "augmented": Augmented,
    "carefully_augmented": CarefullyAugmented,
    "sentences": SomeSentences,
    "shortened": Shortened,
}
"""Every way to choose the caption that a batch uses."""

REWRITERS: Mapping[str, type[Rewriter]] = {
    "template": TemplateRewriter,
    "augment": TextAugment,
    "language_model": LMRewriter,
}
"""Every way to say a caption in other words."""

__all__ = [
    "CAPTION_PICKS",
    "REWRITERS",
    "Augmented",
    "CaptionLengths",
    "CaptionPick",
    "CaptionPool",
    "CaptionSampler",
    "CaptionStats",
    "CaptionTexts",
    "CarefullyAugmented",
    "Chance",
    "FirstCaption",
    "FirstOften",
    "Fuser",
    "LMFuser",
    "LMParaphraser",
    "LMRewriter",
    "Lexicon",
    "LexiconTagger",
    "MixedCaption",
    "MixedCaptions",
    "ParaphrasePairs",
    "Paraphrased",
    "Paraphraser",
    "RandomCaption",
    "Rewriter",
    "Rewritten",
    "RuleParaphraser",
    "SomeSentences",
    "TemplateFuser",
    "TemplateRewriter",
    "TextAugment",
    "caption_lengths",
    "caption_stats",
    "fuse_captions",
    "keep_caption",
    "lexicon",
    "mirrored",
    "names_side",
    "pos_class",
    "protected",
    "read_rewrites",
    "rewrite_dataset",
    "sentences",
    "shorten",
]
